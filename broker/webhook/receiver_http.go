package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook/internal/cloudevent"
)

const (
	allowedMethods = "POST, OPTIONS"

	// unavailableDelay is the Retry-After of an answer that is not about an event.
	unavailableDelay = time.Second
)

// headerOutcome tells, in an answer 503, that this receiver is well, and an attempt to
// handle the event has failed: [Publisher] refuses that message, in the place of
// taking the whole server for unavailable.
const (
	headerOutcome = "Outbox-Outcome"
	outcomeRetry  = "retry"
)

// problem is an answer other than 2xx.
type problem struct {
	status     int
	text       string
	retryAfter time.Duration // of a 503
	attempted  bool          // of a 503: the worker is well, and its handler failed
	logged     bool          // by another
}

func unavailableFor(text string) *problem {
	return &problem{status: http.StatusServiceUnavailable, text: text, retryAfter: unavailableDelay}
}

// ServeHTTP implements [http.Handler].
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch req.Method {
	case http.MethodPost:
		if p := r.post(w, req); p != nil {
			r.refuse(w, req, p)
			return
		}
	case http.MethodOptions:
		r.options(w.Header(), req)
	default:
		w.Header().Set("Allow", allowedMethods)
		r.refuse(w, req, &problem{status: http.StatusMethodNotAllowed, text: "events are sent by POST"})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// options answers the handshake of the CloudEvents web hooks.
func (r *Receiver) options(h http.Header, req *http.Request) {
	h.Set("Allow", allowedMethods)
	origin := req.Header.Get("WebHook-Request-Origin")
	if origin == "" {
		return
	}
	for _, allowed := range r.config.AllowedOrigins {
		if allowed == "*" || strings.EqualFold(allowed, origin) {
			h.Set("WebHook-Allowed-Origin", allowed)
			h.Set("WebHook-Allowed-Rate", "*")
			return
		}
	}
}

// post handles the events of a request. Nil is success.
func (r *Receiver) post(w http.ResponseWriter, req *http.Request) (p *problem) {
	defer func() { // of the functions of the configuration
		if value := recover(); value != nil {
			r.config.Logger.Error("panic while a request was read", "error", &outbox.PanicError{Value: value}, "stack", string(debug.Stack()))
			p = &problem{status: http.StatusInternalServerError, text: "internal error", logged: true}
		}
	}()
	if r.running() == nil { // before the body is read for nothing
		return unavailableFor("no worker is running")
	}
	body, p := r.read(w, req)
	if p != nil {
		return p
	}
	events, err := cloudevent.Decode(req.Header, body, r.config.MaxBatch)
	switch {
	case errors.Is(err, cloudevent.ErrMediaType):
		return &problem{status: http.StatusUnsupportedMediaType, text: err.Error()}
	case errors.Is(err, cloudevent.ErrTooMany):
		return &problem{status: http.StatusRequestEntityTooLarge, text: err.Error()}
	case err != nil:
		return &problem{status: http.StatusBadRequest, text: err.Error()}
	}
	return r.handle(req.Context(), events)
}

// read returns the body of a request that may be handled.
func (r *Receiver) read(w http.ResponseWriter, req *http.Request) ([]byte, *problem) {
	tooLarge := &problem{status: http.StatusRequestEntityTooLarge, text: "the body has more than " + strconv.FormatInt(r.config.MaxBody, 10) + " bytes"}
	if req.ContentLength > r.config.MaxBody {
		return nil, tooLarge
	}
	if coding := req.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return nil, &problem{status: http.StatusUnsupportedMediaType, text: "the body is taken without a content coding"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, r.config.MaxBody))
	var limit *http.MaxBytesError
	switch {
	case errors.As(err, &limit):
		return nil, tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &problem{status: http.StatusRequestTimeout, text: "the body did not come in time"}
	case err != nil:
		return nil, &problem{status: http.StatusBadRequest, text: "the body could not be read"}
	}
	if err := r.keys.verify(req.Header, time.Now(), body); err != nil {
		return nil, &problem{status: http.StatusUnauthorized, text: err.Error()}
	}
	if r.config.Authorize != nil && r.config.Authorize(req, body) != nil {
		return nil, &problem{status: http.StatusUnauthorized, text: "the request is not authorized"}
	}
	return body, nil
}

// handle has the worker handle events, all of them that it takes, even if it does not
// take others.
func (r *Receiver) handle(ctx context.Context, events []cloudevent.Event) *problem {
	sub := r.running()
	if sub == nil {
		return unavailableFor("no worker is running")
	}
	var unwanted *problem
	msgs := make([]outbox.Message, 0, len(events))
	for i := range events {
		e := &events[i]
		if e.Foreign {
			e.Topic = r.topic(&e.Message)
		}
		if outbox.ValidateTopic(e.Topic) != nil || !sub.wants(e.Topic) {
			unwanted = unwantedEvent(e)
			continue
		}
		msgs = append(msgs, e.Message)
	}
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	switch a := sub.handle(ctx, msgs, r.closed); a.verdict {
	case unavailable:
		return unavailableFor("the event could not be handled now")
	case overdue:
		return &problem{status: http.StatusServiceUnavailable, text: "the event was not handled in time", retryAfter: a.delay, attempted: true}
	case retried:
		return &problem{status: http.StatusServiceUnavailable, text: "the attempt to handle the event failed", retryAfter: a.delay, attempted: true, logged: true}
	case refused:
		return &problem{status: http.StatusBadRequest, text: "the event was refused for good", logged: true}
	}
	return unwanted
}

// unwantedEvent names what the sender can change: its own topic, or another system's
// type.
func unwantedEvent(e *cloudevent.Event) *problem {
	what, name := "topic", e.Topic
	if e.Foreign {
		what, name = "type", e.Type
	}
	return &problem{status: http.StatusBadRequest, text: fmt.Sprintf("events of the %s %.64q are not handled here", what, name)}
}

func (r *Receiver) topic(m *outbox.Message) string {
	if r.config.Topic == nil {
		return m.Type
	}
	return r.config.Topic(m)
}

// refuse answers with p, and logs it unless another does.
func (r *Receiver) refuse(w http.ResponseWriter, req *http.Request, p *problem) {
	if p.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((p.retryAfter+time.Second-1)/time.Second), 10))
		if p.attempted {
			w.Header().Set(headerOutcome, outcomeRetry)
		}
	}
	http.Error(w, p.text, p.status)
	if !p.logged {
		r.config.Logger.LogAttrs(req.Context(), slog.LevelInfo, "request refused",
			slog.Int("status", p.status), slog.String("reason", p.text), slog.String("remote_addr", req.RemoteAddr))
	}
}
