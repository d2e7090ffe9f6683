package worker

import (
	"context"
	"errors"
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
}

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
// When T or *T has a method Validate() error, it is called after the decoding,
// and its error means, as one of decoding does, that the message has failed
// without fn having run.
//
// fn's context has the values of Run's context but not its end: it ends when the
// worker is being stopped and Config.ShutdownTimeout has passed.
func Handle[T any](w *Worker, pattern string, fn func(ctx context.Context, d *Delivery[T]) error) {
	if fn == nil {
		w.register(&handler{pattern: pattern})
		return
	}
	decode := decoderOf[T](w.codecs)
	w.register(&handler{pattern: pattern, call: func(ctx context.Context, m *outbox.Received) error {
		d := &Delivery[T]{Metadata: metadataOf(m)}
		if err := decode(m, &d.Payload); err != nil {
			return err
		}
		return fn(ctx, d)
	}})
}

// handler is a registered function without its type; call is nil if the function
// is.
type handler struct {
	pattern string
	call    func(ctx context.Context, m *outbox.Received) error
}

var errNoHandler = errors.New("no handler's pattern matches the topic")

func (w *Worker) register(h *handler) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.started {
		panic("worker: Handle(" + h.pattern + ") after Run: register all handlers before")
	}
	w.handlers = append(w.handlers, h)
}

func metadataOf(m *outbox.Received) Metadata {
	return Metadata{
		ID: m.ID, Topic: m.Topic, Key: m.Key, Tenant: m.Tenant, Type: m.Type, Version: m.Version,
		ContentType: m.ContentType, Headers: m.Headers, CreatedAt: m.CreatedAt,
		ReceivedAt: m.ReceivedAt, Redelivered: m.Redelivered,
	}
}
