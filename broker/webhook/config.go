package webhook

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook/internal/cloudevent"
)

// Mode is how an event is put into a request
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md#13-content-modes).
type Mode int

const (
	// Structured is a JSON document of attributes and data.
	Structured Mode = iota
	// Binary has the attributes in headers and the payload as the body.
	Binary
	// Batched is a JSON array of events in structured form.
	Batched
)

// PublisherConfig is the optional part of [NewPublisher].
type PublisherConfig struct {
	// Mode is the content mode. Defaults to [Structured].
	Mode Mode

	// Source is the attribute source of the events, a URI reference that names the
	// sender. Defaults to "/outbox". A message's header ce-source wins.
	Source string

	// Headers are sent with every request to the publisher's own URL, and may be
	// secret; requests to the URL of a message have none of them. A name that this
	// package or HTTP sets itself, such as Content-Type, is refused.
	Headers http.Header

	// Secrets sign each request to the publisher's own URL by Standard Webhooks; one to
	// the URL of a message is not signed, since whoever gets it could pass it on to
	// others. Each is "whsec_" and 24 to 64 bytes in base64. Several are for the time in
	// which one is being replaced. Defaults to none, and no signature.
	Secrets []string

	// Timeout is how long a request may take, from connecting to the end of the
	// answer. It should be more than a [Receiver] takes, by ReceiverConfig.Timeout.
	// Defaults to 30 s; at least 1 ms.
	Timeout time.Duration

	// Concurrency is the number of requests at once; Publish waits when there are
	// as many. Messages of one tenant and key are sent one after the other in any
	// case. Defaults to 16; 1 to 1,000.
	Concurrency int

	// BatchSize and BatchBytes are the greatest number of events in a request of
	// mode [Batched], and of bytes in its body; an event that is larger is sent
	// alone. Default to 100 events and 512 KiB; 1 to 10,000 and 1 KiB to 64 MiB.
	BatchSize  int
	BatchBytes int

	// URL returns the address of a message, for which internal addresses are
	// refused; or "" for the publisher's own. It is called from several goroutines
	// and does not go with [Batched]. Defaults to the publisher's for all.
	URL func(*outbox.Message) string

	// Allow reports whether the host of an address that came from URL, a name or an
	// IP address without a port, may be internal. Called from several goroutines.
	// Defaults to none.
	Allow func(host string) bool

	// Body makes the request for a message in the place of a CloudEvent. It is
	// called from several goroutines, once for each attempt, and goes with
	// [Structured] alone. An error that is of none of the classes of
	// [outbox.Publisher] is ErrRefused. A request with a header Idempotency-Key, which
	// need not have a value, is repeated if the server closes an idle connection just
	// then, as CloudEvents are; others are ErrUnavailable.
	Body func(*outbox.Message) (*Request, error)

	// TLS is used for https, with its own authorities or certificates; it is cloned.
	// Defaults to the system's authorities.
	TLS *tls.Config

	// Transport makes the requests, in the place of one like http.DefaultTransport,
	// with the environment's proxies, and of TLS. An *http.Transport is cloned, keeps
	// Concurrency idle connections of a host, finds by pings that an HTTP/2 connection
	// is dead, and takes 256 KiB of an answer's headers, unless it says otherwise; for
	// the URL of a message its proxy and its dial functions are not used, and no other
	// type goes with URL.
	Transport http.RoundTripper
}

// Request is what PublisherConfig.Body makes of a message.
type Request struct {
	// Method defaults to POST.
	Method string
	// ContentType is the header Content-Type. Empty means none.
	ContentType string
	// Header has further headers; they win over PublisherConfig.Headers.
	Header http.Header
	// Body may be empty.
	Body []byte
}

func (c *PublisherConfig) withDefaults() PublisherConfig {
	var d PublisherConfig
	if c != nil {
		d = *c
	}
	d.Source = cmp.Or(d.Source, "/outbox")
	d.Headers = d.Headers.Clone()
	d.Timeout = cmp.Or(d.Timeout, 30*time.Second)
	d.Concurrency = cmp.Or(d.Concurrency, 16)
	d.BatchSize = cmp.Or(d.BatchSize, 100)
	d.BatchBytes = cmp.Or(d.BatchBytes, 512<<10)
	return d
}

// validate returns all faults of c, whose defaults are set.
func (c *PublisherConfig) validate() []error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Mode < Structured || c.Mode > Batched {
		fault("Mode is %d, want Structured, Binary or Batched", c.Mode)
	}
	if !cloudevent.IsURIReference(c.Source) {
		fault("Source %q is not a URI reference such as /orders or https://example.com/orders", c.Source)
	}
	if c.Timeout < time.Millisecond {
		fault("Timeout is %v, want 1ms or more", c.Timeout)
	}
	if c.Concurrency < 1 || c.Concurrency > 1000 {
		fault("Concurrency is %d, want 1 to 1000", c.Concurrency)
	}
	if c.BatchSize < 1 || c.BatchSize > 10000 {
		fault("BatchSize is %d, want 1 to 10000", c.BatchSize)
	}
	if c.BatchBytes < 1<<10 || c.BatchBytes > 64<<20 {
		fault("BatchBytes is %d, want %d to %d", c.BatchBytes, 1<<10, 64<<20)
	}
	errs = append(errs, c.combinationFaults()...)
	return append(errs, headerFaults(c.Headers)...)
}

func (c *PublisherConfig) combinationFaults() []error {
	var errs []error
	if c.URL != nil && c.Mode == Batched {
		errs = append(errs, errors.New("URL does not go with Mode Batched: the events of a batch have one address"))
	}
	if c.Body != nil && c.Mode != Structured {
		errs = append(errs, errors.New("Body goes with Mode Structured alone: it makes requests of its own form"))
	}
	if c.Allow != nil && c.URL == nil {
		errs = append(errs, errors.New("Allow is of use with URL alone: the configured URL may be internal"))
	}
	if c.TLS != nil && c.Transport != nil {
		errs = append(errs, errors.New("TLS does not go with Transport: set it there"))
	}
	if _, ok := c.Transport.(*http.Transport); c.URL != nil && c.Transport != nil && !ok {
		errs = append(errs, fmt.Errorf("Transport is a %T: with URL it must be an *http.Transport, so that internal addresses can be refused", c.Transport))
	}
	return errs
}

// ownHeaders are set by this package or by HTTP.
var ownHeaders = []string{
	"Content-Type", "Content-Length", "Transfer-Encoding", "Connection", "Host", "Trailer", "Upgrade",
	http.CanonicalHeaderKey(headerWebhookID), http.CanonicalHeaderKey(headerWebhookTimestamp), http.CanonicalHeaderKey(headerWebhookSignature),
}

// headerFaults does not show values: they may be secret.
func headerFaults(headers http.Header) []error {
	var errs []error
	for name, values := range headers {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !isToken(name):
			errs = append(errs, fmt.Errorf("Headers: the name %q has a character that HTTP does not allow", name))
		case slices.Contains(ownHeaders, canonical) || strings.HasPrefix(canonical, http.CanonicalHeaderKey(cloudevent.HeaderPrefix)):
			errs = append(errs, fmt.Errorf("Headers: %s is set by the publisher itself: remove it", name))
		}
		if slices.ContainsFunc(values, hasControl) {
			errs = append(errs, fmt.Errorf("Headers: the value of %q has a control character: is there a line feed at its end?", name))
		}
	}
	return errs
}

// isToken reports whether s is a token (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

func hasControl(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) >= 0
}

// parseAddress takes a URL that requests go to. Its error does not show the URL,
// which may have a password or a token in it.
func parseAddress(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("cannot be parsed")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("does not begin with http:// or https://")
	case u.Hostname() == "":
		return nil, errors.New("has no host")
	case u.Fragment != "":
		return nil, errors.New("has a fragment (#...), which is not sent")
	}
	return u, nil
}
