package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/outbox-go/outbox"
)

// Delivery is a message as a handler gets it.
type Delivery[T any] struct {
	Metadata

	// Payload is the decoded body; see [Handle].
	Payload T
}

// Metadata is what a message carries beside its payload. What the sender did not
// set is empty.
type Metadata struct {
	// ID is the message's own id, the same in each delivery: the sender's,
	// not necessarily a UUID.
	ID string

	// Topic is the one that the message was sent to, not the handler's
	// pattern.
	Topic string

	// Key orders messages within their Tenant.
	Key    string
	Tenant string

	// Type and Version name the payload's schema.
	Type    string
	Version string

	// ContentType is the media type of the encoded payload.
	ContentType string

	// Headers are the sender's own. They may be shared with other deliveries and
	// must not be changed.
	Headers map[string]string

	// CreatedAt is the sender's clock at the emit, in UTC.
	CreatedAt time.Time

	// ReceivedAt is the local clock when the broker delivered the message.
	ReceivedAt time.Time

	// Redelivered tells that the broker has delivered the message before,
	// to this worker or to another.
	Redelivered bool

	// Attempt is the number of this attempt to handle the message, from 1. What
	// was given back or cut off was no attempt.
	Attempt int

	// Failure is what has become of the earlier attempts; nil at the first.
	Failure *outbox.Failure

	// CorrelationID is the id of the chain of messages that this one belongs to:
	// its header correlation-id or, without it, its own ID. CausationID is the id
	// of the message whose handler emitted this one, empty if there is none. What
	// a handler emits with its context carries them on.
	CorrelationID string
	CausationID   string

	// Queue is the worker's; Handler the pattern that the handler was registered
	// for, empty if none matched.
	Queue   string
	Handler string
}

// Handler handles one message, not yet decoded: it is what middleware sees. Its
// error decides what becomes of the message.
type Handler func(ctx context.Context, d *Delivery[[]byte]) error

// Middleware returns a handler that does something around next: logging, metrics,
// traces, a transaction. It may change the delivery that it passes on, to decrypt
// the payload for example. It sees every message, also one that no handler can
// take: next then returns an error that wraps [ErrUndeliverable]. A panic of the
// handler reaches it as an error that wraps *[outbox.PanicError].
type Middleware = func(next Handler) Handler

// Handle registers fn for the topics that match pattern, in which '*' stands for
// one word and '#' for any number of words. It is called before [Worker.Run],
// which reports what is wrong with the registration; after that it panics. fn
// runs in several goroutines at once, up to Config.Concurrency; for one tenant
// and key it runs one at a time.
//
// A message goes to one handler: the one with the most specific pattern that
// matches. Patterns are compared word by word from the left, and the first
// difference decides: a literal word before '*', '*' before the pattern's end,
// the end before '#'. So of "user.created", "user.*", "user.#", "*.created" and
// "#", each is more specific than the next. Of neighbouring wild cards the stars
// count as first and several '#' as one: "#.*" is the same pattern as "*.#". It
// is an error when two patterns match one topic and neither is more specific, as
// with "#.a.#" and "#.b.#".
//
// T chooses how the payload is decoded:
//   - []byte, json.RawMessage and other named []byte types get the bytes as they
//     are, whatever the content type. They may be shared with other deliveries
//     and must not be changed.
//   - All else is decoded by the codec of the content type, JSON if the message
//     has none. With JSON, any gets a generic value: map[string]any, []any,
//     string, float64, bool or nil.
//
// When T or *T has a method Validate() error, it is called after the decoding.
// What cannot be decoded or is not valid goes to the dead letters, without fn
// having run, and without a second attempt.
//
// fn's error decides what becomes of the message: see the package's documentation.
//
// fn's context has the values of Run's context but not its end: it ends when the
// worker is being stopped and Config.ShutdownTimeout has passed, and by
// [WithTimeout]. Events that are emitted with it continue the message: see
// [outbox.WithCause].
func Handle[T any](w *Worker, pattern string, fn func(ctx context.Context, d *Delivery[T]) error, opts ...HandleOption) {
	h := newHandler(pattern, opts)
	if fn != nil {
		decode := decoderOf[T](w.codecs, h.strict)
		h.call = func(ctx context.Context, raw *Delivery[[]byte]) error {
			d, err := decode(raw)
			if err != nil {
				return undeliverable(err)
			}
			return fn(ctx, d)
		}
	}
	w.register(h)
}

// HandleOption changes what [Handle] and [HandleTx] register, for that handler
// alone.
type HandleOption func(*handler)

// WithRetries replaces Config.Retries.
func WithRetries(r Retries) HandleOption {
	r = r.withDefaults()
	return func(h *handler) { h.retries = &r }
}

// WithConcurrency bounds how many messages the handler handles at once, within
// Config.Concurrency. Those that wait for it count for Config.Prefetch: what is slow
// and frequent is better in a queue of its own. Zero means no bound of its own.
func WithConcurrency(n int) HandleOption {
	return func(h *handler) { h.limit = n }
}

// WithTimeout ends the handler's context after d, for each attempt. An error that
// it returns then counts as any other; a handler that does not return goes on.
// Zero means no time-out.
func WithTimeout(d time.Duration) HandleOption {
	return func(h *handler) { h.timeout = d }
}

// WithMiddleware adds middleware inside that of Config.Middleware, the first one
// outermost.
func WithMiddleware(m ...Middleware) HandleOption {
	return func(h *handler) { h.middleware = append(h.middleware, m...) }
}

// Strict refuses payloads with fields that the handler's type has no place for.
// The codecs of Config.Codecs must be [outbox.StrictCodec] then.
func Strict() HandleOption {
	return func(h *handler) { h.strict = true }
}

// handler is a registered function without its type.
type handler struct {
	pattern    string
	call       Handler // nil if the function is
	retries    *Retries
	limit      int
	timeout    time.Duration
	middleware []Middleware
	strict     bool
	inbox      *inbox // of HandleTx
	errs       []error

	// run is call in its middleware, once the worker runs.
	run Handler
	// lane is the queue's part of the handler.
	lane lane
}

func newHandler(pattern string, opts []HandleOption) *handler {
	h := &handler{pattern: pattern}
	for _, opt := range opts {
		if opt != nil {
			opt(h)
		}
	}
	return h
}

func (w *Worker) register(h *handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.started {
		panic("worker: Handle(" + h.pattern + ") after Run: register all handlers before")
	}
	w.handlers = append(w.handlers, h)
}

// faults tells what is wrong with the handler's options.
func (h *handler) faults() []error {
	faults := h.errs
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("worker: handler %q: "+format, append([]any{h.pattern}, args...)...))
	}
	if h.call == nil {
		fault("the function is nil")
	}
	if h.retries != nil {
		faults = append(faults, h.retries.faults(fmt.Sprintf("handler %q: WithRetries", h.pattern))...)
	}
	if h.limit < 0 {
		fault("WithConcurrency is %d: use 1 or more, or 0 for no bound", h.limit)
	}
	if h.timeout < 0 {
		fault("WithTimeout is %s: use a positive duration, or 0 for none", h.timeout)
	}
	for i, m := range h.middleware {
		if m == nil {
			fault("WithMiddleware[%d] is nil", i)
		}
	}
	return faults
}

// delivery makes what the outermost middleware gets.
func (r *run) delivery(t *task) *Delivery[[]byte] {
	m := t.msg
	d := &Delivery[[]byte]{Payload: m.Payload, Metadata: Metadata{
		ID: m.ID, Topic: m.Topic, Key: m.Key, Tenant: m.Tenant, Type: m.Type, Version: m.Version,
		ContentType: m.ContentType, Headers: m.Headers, CreatedAt: m.CreatedAt,
		ReceivedAt: m.ReceivedAt, Redelivered: m.Redelivered,
		Attempt: 1, Failure: m.Failure, CorrelationID: m.CorrelationID(), CausationID: m.CausationID(),
		Queue: r.cfg.Queue, Handler: t.handler.pattern,
	}}
	if m.Failure != nil {
		d.Attempt = m.Failure.Attempts + 1
	}
	return d
}
