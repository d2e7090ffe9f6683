package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Store writes messages in a transaction of type Tx. The packages below store/
// implement it; all methods are safe for concurrent use.
type Store[Tx any] interface {
	// Insert writes msgs in tx with one statement, in their order. It neither
	// commits nor rolls back.
	Insert(ctx context.Context, tx Tx, msgs []Message) error

	// InTx runs fn in a transaction, which it commits when fn returns nil and
	// rolls back otherwise, and wakes the relay after the commit.
	InTx(ctx context.Context, fn func(tx Tx) error) error

	// Wake tells the relay, soon and without waiting, that messages were
	// committed.
	Wake()
}

// Outbox emits messages. It is safe for concurrent use; make it with [New].
type Outbox[Tx any] struct {
	store      Store[Tx]
	codecs     *Codecs
	fallback   Codec
	maxPayload int

	contextHeaders func(context.Context) map[string]string
	now            func() time.Time
	filter         func(*Event) bool
	routes         func(*Message) []string
}

// Option changes a default of [New].
type Option func(*options)

type options struct {
	codecs     []Codec
	fallback   Codec
	maxPayload int

	contextHeaders func(context.Context) map[string]string
	now            func() time.Time
	filter         func(*Event) bool
	routes         func(*Message) []string
}

// DefaultMaxPayload is the limit of an encoded payload in bytes, unless
// [WithMaxPayload] says otherwise. A NATS server takes as much by default with the
// headers included: for payloads close to it, raise the server's max_payload.
const DefaultMaxPayload = 1 << 20

// WithMaxPayload sets the greatest size of an encoded payload in bytes. Zero or
// less means no limit.
func WithMaxPayload(bytes int) Option {
	return func(o *options) { o.maxPayload = bytes }
}

// WithCodecs adds codecs, chosen by an event's content type.
func WithCodecs(codecs ...Codec) Option {
	return func(o *options) { o.codecs = append(o.codecs, codecs...) }
}

// WithDefaultCodec sets the codec of events without a content type. Defaults to
// [JSON].
func WithDefaultCodec(codec Codec) Option {
	return func(o *options) { o.fallback = codec }
}

// WithContextHeaders sets a function that returns the headers to add to every event
// that is emitted with ctx, for tracing: traceparent and tracestate, for example.
// An event's own headers win over them, and they win over those of [WithCause].
// What cannot be a header is left out. The function must be safe for concurrent
// use; what it returns is not changed.
func WithContextHeaders(headers func(ctx context.Context) map[string]string) Option {
	return func(o *options) { o.contextHeaders = headers }
}

// WithClock sets the clock of [Message.CreatedAt], for tests. Defaults to
// [time.Now].
func WithClock(now func() time.Time) Option {
	return func(o *options) { o.now = now }
}

// WithFilter sets a function that says which events enter the outbox: for what it
// returns false nothing is written, and no error returned. Faults are reported for
// all events. What is in the outbox already is not affected. Given several times,
// all must agree. It must be safe for concurrent use and leave the event as it is.
func WithFilter(wanted func(e *Event) bool) Option {
	return func(o *options) {
		before := o.filter
		o.filter = func(e *Event) bool { return (before == nil || before(e)) && wanted(e) }
	}
}

// WithRoutes sets a function that names the routes which a message takes: it is
// written once for each, all with the message's id, and each copy is sent, retried
// and given up by itself. A name has at most 64 bytes: letters, digits, "_", "-"
// and ".". None, or the empty name, is the way of all messages, where a relay may
// choose routes as well. The function must be safe for concurrent use and leave the
// message as it is.
func WithRoutes(routes func(m *Message) []string) Option {
	return func(o *options) { o.routes = routes }
}

// New returns an outbox that writes to store.
func New[Tx any](store Store[Tx], opts ...Option) *Outbox[Tx] {
	o := options{fallback: JSON, maxPayload: DefaultMaxPayload, now: time.Now}
	for _, opt := range opts {
		opt(&o)
	}
	return &Outbox[Tx]{
		store:      store,
		codecs:     NewCodecs(append(o.codecs, o.fallback)...),
		fallback:   o.fallback,
		maxPayload: o.maxPayload,

		contextHeaders: o.contextHeaders,
		now:            o.now,
		filter:         o.filter,
		routes:         o.routes,
	}
}

// Emit writes events in the caller's transaction, all with one statement. They
// are sent, in their order, if and when tx commits. Emit reports every fault of
// every event, each as a [*FieldError], before it writes anything, and
// [ErrNilTx] if there is no transaction. It cannot see the commit: see
// [Outbox.InTx] and [Outbox.Wake].
func (o *Outbox[Tx]) Emit(ctx context.Context, tx Tx, events ...Event) error {
	if isNil(tx) {
		return ErrNilTx
	}
	msgs, err := o.Prepare(ctx, events...)
	if err != nil || len(msgs) == 0 {
		return err
	}
	if err := o.store.Insert(ctx, tx, msgs); err != nil {
		return fmt.Errorf("outbox: emit: %w", err)
	}
	return nil
}

// Prepare validates and encodes events without writing them, for stores that can
// put the insert into a batch of the caller's, such as pgxstore.Queue.
func (o *Outbox[Tx]) Prepare(ctx context.Context, events ...Event) ([]Message, error) {
	if len(events) == 0 {
		return nil, nil
	}
	now, carried := o.now().UTC(), o.carriedBy(ctx)
	msgs := make([]Message, 0, len(events))
	var faults []error
	for i := range events {
		var m Message
		faults = append(faults, o.prepare(i, &events[i], now, &m)...)
		if o.filter != nil && !o.filter(&events[i]) {
			continue
		}
		m.Headers = withHeaders(m.Headers, carried)
		if o.routes == nil {
			msgs = append(msgs, m)
			continue
		}
		routed, errs := o.route(i, m)
		msgs, faults = append(msgs, routed...), append(faults, errs...)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return msgs, nil
}

// route returns a copy of m for each route that it takes.
func (o *Outbox[Tx]) route(event int, m Message) (routed []Message, errs []error) {
	names := o.routes(&m)
	if len(names) == 0 {
		return []Message{m}, nil
	}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		if err := ValidateRoute(name); name != "" && err != nil {
			errs = append(errs, fieldError(event, "route", name, err.Error()))
		}
		m.Route = name
		routed = append(routed, m)
	}
	return routed, errs
}

// InTx runs fn in a transaction of the store's, commits it when fn returns nil,
// rolls it back otherwise, and wakes the relay after the commit.
func (o *Outbox[Tx]) InTx(ctx context.Context, fn func(tx Tx) error) error {
	return o.store.InTx(ctx, fn)
}

// Wake tells the relay that messages were committed. It returns at once; many
// calls cost little more than one. Without it the relay learns of them by the
// database's own notification, or when it looks next.
func (o *Outbox[Tx]) Wake() { o.store.Wake() }

func (o *Outbox[Tx]) prepare(i int, e *Event, now time.Time, m *Message) []error {
	errs := validate(i, e)
	payload, contentType, err := o.encode(e)
	switch {
	case err != nil:
		errs = append(errs, fieldError(i, "Payload", "", err.Error()))
	case o.maxPayload > 0 && len(payload) > o.maxPayload:
		errs = append(errs, fieldError(i, "Payload", "", fmt.Sprintf(
			"has %d bytes encoded, at most %d are allowed: send a reference, or raise WithMaxPayload", len(payload), o.maxPayload)))
	}
	id := e.ID
	if id == "" {
		made, err := uuid.NewV7()
		if err != nil {
			errs = append(errs, fieldError(i, "ID", "", "cannot be made: "+err.Error()))
		}
		id = made.String()
	} else if parsed, err := uuid.Parse(id); err != nil {
		errs = append(errs, fieldError(i, "ID", id, "is not a UUID: leave it empty to have one made"))
	} else {
		id = parsed.String()
	}
	*m = Message{
		ID: id, Topic: e.Topic, Key: e.Key, Tenant: e.Tenant, Type: e.Type, Version: e.Version,
		ContentType: contentType, Headers: e.Headers, Payload: payload, CreatedAt: now,
		DeliverAt: inUTC(e.DeliverAt), ExpiresAt: inUTC(e.ExpiresAt),
	}
	return errs
}

// inUTC keeps the zero time as it is.
func inUTC(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

// encode returns the payload's bytes and their content type.
func (o *Outbox[Tx]) encode(e *Event) ([]byte, string, error) {
	codec := o.fallback
	contentType := e.ContentType
	switch payload := e.Payload.(type) {
	case []byte:
		if contentType == "" {
			contentType = ContentTypeBytes
		}
		return payload, contentType, nil
	case json.RawMessage:
		if contentType == "" {
			contentType = ContentTypeJSON
		}
		if !json.Valid(payload) {
			return nil, contentType, errors.New("is a json.RawMessage that is not valid JSON")
		}
		return payload, contentType, nil
	}
	if contentType == "" {
		contentType = codec.ContentType()
	} else {
		found, ok := o.codecs.For(contentType)
		if !ok {
			return nil, contentType, fmt.Errorf("cannot be encoded: no codec for %q: add one by WithCodecs, or encode it yourself and pass []byte", contentType)
		}
		codec = found
	}
	data, err := codec.Encode(e.Payload)
	if err != nil {
		return nil, contentType, fmt.Errorf("cannot be encoded as %s: %w", contentType, err)
	}
	return data, contentType, nil
}

// isNil reports whether tx is a nil interface or a nil pointer.
func isNil(tx any) bool {
	if tx == nil {
		return true
	}
	v := reflect.ValueOf(tx)
	return v.Kind() == reflect.Pointer && v.IsNil()
}
