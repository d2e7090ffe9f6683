package webhook

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook/internal/cloudevent"
)

const userAgent = "outbox-webhook"

// maxHeaderBytes bounds the headers of an event in binary mode. Hardly a server takes
// more, and one of HTTP/2 makes the transport fail, which would look like an outage.
const maxHeaderBytes = 256 << 10

// headerIdempotency is, without a value, sent nowhere and tells net/http that a request
// may be repeated on another connection if the server has just closed that of the first,
// since it was idle. An event has an id.
const headerIdempotency = "Idempotency-Key"

// target is where a request goes, and what it brings.
type target struct {
	by  http.RoundTripper
	url *url.URL
	own bool     // it is the publisher's own
	ids []string // of the messages
}

// send posts one message.
func (p *Publisher) send(ctx context.Context, m *outbox.Message) (err error) {
	defer func() { // of the functions of the configuration
		if value := recover(); value != nil {
			err = outbox.Refused(&outbox.PanicError{Value: value, Stack: debug.Stack()})
		}
	}()
	to, err := p.target(m)
	if err != nil {
		return outbox.Invalid(fmt.Errorf("webhook: the URL of the message %w", err))
	}
	if p.config.Mode == Batched {
		event, err := p.event(m)
		if err != nil {
			return err
		}
		return p.sendEvents(ctx, []member{{message: m}}, slices.Concat([]byte("["), event, []byte("]")))
	}
	r, err := p.request(m)
	if err != nil {
		return err
	}
	return p.post(ctx, to, m.ID, r)
}

// target returns where m goes.
func (p *Publisher) target(m *outbox.Message) (target, error) {
	raw := ""
	if p.config.URL != nil {
		raw = p.config.URL(m)
	}
	if raw == "" {
		if p.url == nil {
			return target{}, errors.New("is empty, and the publisher has none of its own")
		}
		return p.home(m.ID), nil
	}
	u, err := parseAddress(raw)
	if err == nil && u.User != nil {
		err = errors.New("has a user or a password in it, which no message may choose")
	}
	return target{by: p.others, url: u}, err
}

// home returns the publisher's own target.
func (p *Publisher) home(ids ...string) target {
	return target{by: p.own, url: p.url, own: true, ids: ids}
}

// request returns what is sent for m.
func (p *Publisher) request(m *outbox.Message) (*Request, error) {
	if p.config.Body != nil {
		return p.custom(m)
	}
	if p.config.Mode == Binary && !cloudevent.IsEvent(m.ContentType) {
		r := &Request{Header: make(http.Header), Body: m.Payload}
		if err := cloudevent.SetHeaders(r.Header, m, p.config.Source); err != nil {
			return nil, outbox.Invalid(fmt.Errorf("webhook: %w", err))
		}
		if size := headerBytes(r.Header); size > maxHeaderBytes {
			return nil, outbox.Invalid(fmt.Errorf("webhook: the message's headers have %d bytes in binary mode, at most %d can be sent", size, maxHeaderBytes))
		}
		return r, nil
	}
	event, err := p.event(m)
	return &Request{ContentType: cloudevent.ContentType, Body: event}, err
}

// headerBytes returns the size of headers as HTTP/2 counts it (RFC 9113, section
// 6.5.2).
func headerBytes(h http.Header) int {
	const each = 32
	size := 0
	for name, values := range h {
		for _, value := range values {
			size += len(name) + len(value) + each
		}
	}
	return size
}

// custom returns what the configured function makes of m.
func (p *Publisher) custom(m *outbox.Message) (*Request, error) {
	r, err := p.config.Body(m)
	switch {
	case err != nil && isClassified(err):
		return nil, err
	case err != nil:
		return nil, outbox.Refused(fmt.Errorf("webhook: make the request: %w", err))
	case r == nil:
		return nil, outbox.Refused(errors.New("webhook: PublisherConfig.Body returned neither a request nor an error"))
	}
	for name, values := range r.Header {
		if !isToken(name) || slices.ContainsFunc(values, hasControl) {
			return nil, outbox.Invalid(fmt.Errorf("webhook: header %q of the request has a character that HTTP does not allow", name))
		}
	}
	if hasControl(r.ContentType) {
		return nil, outbox.Invalid(errors.New("webhook: ContentType of the request has a control character"))
	}
	return r, nil
}

func isClassified(err error) bool {
	return errors.Is(err, outbox.ErrUnavailable) || errors.Is(err, outbox.ErrRefused) || errors.Is(err, outbox.ErrInvalid)
}

// post sends a request and returns what the answer means.
func (p *Publisher) post(ctx context.Context, to target, id string, r *Request) error {
	limited, cancel := context.WithTimeout(ctx, p.config.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, cmp.Or(r.Method, http.MethodPost), to.url.String(), bytes.NewReader(r.Body))
	if err != nil {
		return outbox.Invalid(fmt.Errorf("webhook: Method %q of the request is not one", r.Method))
	}
	req.Header.Set("User-Agent", userAgent)
	if to.own {
		if user := to.url.User; user != nil {
			password, _ := user.Password()
			req.SetBasicAuth(user.Username(), password)
		}
		setHeaders(req.Header, p.config.Headers)
	}
	setHeaders(req.Header, r.Header)
	if r.ContentType != "" {
		req.Header.Set("Content-Type", r.ContentType)
	}
	if _, ok := req.Header[headerIdempotency]; !ok && p.config.Body == nil {
		req.Header[headerIdempotency] = nil
	}
	if to.own {
		p.keys.sign(req.Header, cloudevent.EscapeHeader(id), time.Now(), r.Body)
	}
	resp, err := to.by.RoundTrip(req)
	if err == nil && resp == nil {
		err = fmt.Errorf("the transport %T returned neither an answer nor an error", to.by)
	}
	if err != nil {
		return p.failed(ctx, to, err)
	}
	return p.answered(resp, to, req.Header)
}

// setHeaders replaces those of h by more, whatever the case of the letters.
func setHeaders(h, more http.Header) {
	for name, values := range more {
		h[http.CanonicalHeaderKey(name)] = values
	}
}

// failed returns what it means that there was no answer.
func (p *Publisher) failed(ctx context.Context, to target, err error) error {
	if p.ctx.Err() != nil {
		return errPublisherClosed
	}
	if err := ctx.Err(); err != nil {
		return outbox.Unavailable(fmt.Errorf("webhook: given up: %w", err))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %v", p.config.Timeout)
	}
	err = fmt.Errorf("webhook: %s: %w", to.url.Host, err)
	var internal *internalAddressError
	var network *net.OpError
	switch {
	case errors.As(err, &internal):
		return outbox.Invalid(err)
	case !to.own:
		return outbox.Refused(err)
	case errors.As(err, &network) && network.Op == "dial": // nothing was sent
		return outbox.Unavailable(err)
	}
	return p.unanswered(to, err)
}

// unanswered returns what err means, by which the publisher's server, or a proxy
// before it, did not answer.
func (p *Publisher) unanswered(to target, err error) error {
	if p.suspects.blame(to.ids...) {
		return outbox.Refused(fmt.Errorf("%w, again, while others are answered", err))
	}
	return outbox.Unavailable(err)
}
