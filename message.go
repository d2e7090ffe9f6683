package outbox

import "time"

// Event is what an application emits. Only Topic is required.
type Event struct {
	// ID identifies the message for ever: it is the broker's message id and the
	// inbox's key. It must be a UUID in its textual form. Empty means that a
	// UUIDv7 (RFC 9562) is made at emit.
	ID string

	// Topic is where the message goes: words separated by dots, such as
	// "user.created". See [ValidateTopic] for what is allowed.
	Topic string

	// Key orders: messages of one tenant and key reach the broker in the order
	// of their emits. Empty means that the message has no order. At most 512
	// bytes, without control characters.
	Key string

	// Tenant separates the messages of several customers. At most 512 bytes,
	// without control characters.
	Tenant string

	// Type and Version name the payload's schema, for consumers. Both are
	// optional; at most 512 bytes each, without control characters.
	Type    string
	Version string

	// ContentType is the media type of the payload. Empty means
	// "application/octet-stream" for a Payload of []byte and the content type of
	// the outbox's default codec, JSON unless told otherwise, for all else.
	ContentType string

	// Headers travel with the message. A name is an HTTP token (RFC 9110), at
	// most 255 bytes, and must not begin with "outbox-"; a value is UTF-8
	// without control characters, at most 8 KiB.
	Headers map[string]string

	// DeliverAt, if it is not zero, is when the message is to be sent, by the
	// database's clock: not before, and soon after. That is its place in the order
	// of its key, too. A time that has passed means at once.
	DeliverAt time.Time

	// ExpiresAt, if it is not zero, is when the message is no longer wanted: if it
	// has not been sent by then, by the database's clock, it becomes a dead letter.
	// It must be later than DeliverAt.
	ExpiresAt time.Time

	// Payload is encoded by the codec of ContentType. A []byte or a
	// json.RawMessage is taken as it is, whatever the content type.
	Payload any
}

// Names of the headers that the parts of this module set and understand.
const (
	HeaderCorrelationID = "correlation-id"
	HeaderCausationID   = "causation-id"
	HeaderTraceparent   = "traceparent" // W3C Trace Context
	HeaderTracestate    = "tracestate"  // W3C Trace Context
)

// Names under which a broker carries the fields of a message that it has no
// place of its own for. No user header may begin with HeaderPrefix.
const (
	HeaderPrefix    = "outbox-"
	HeaderID        = "outbox-id"
	HeaderTopic     = "outbox-topic"
	HeaderKey       = "outbox-key"
	HeaderTenant    = "outbox-tenant"
	HeaderType      = "outbox-type"
	HeaderVersion   = "outbox-version"
	HeaderCreatedAt = "outbox-created-at" // RFC 3339 with nanoseconds, UTC
)

// Message is an event as it is stored and sent: validated, encoded, with an id.
type Message struct {
	ID          string
	Topic       string
	Key         string
	Tenant      string
	Type        string
	Version     string
	ContentType string
	Headers     map[string]string

	// Payload is the encoded body, byte for byte as the consumer gets it.
	Payload []byte

	// CreatedAt is the clock at the emit, in UTC.
	CreatedAt time.Time

	// DeliverAt and ExpiresAt are zero, or in UTC; see [Event]. A store may keep
	// them no finer than microseconds.
	DeliverAt time.Time
	ExpiresAt time.Time

	// Route names the way that the message takes: each has its own relays,
	// publisher and progress. Empty is the way of all messages for which no route
	// was chosen; see [WithRoutes].
	Route string

	// Position is the place in the outbox, given by the store: at the emit, or
	// when the message is due. It grows but has gaps and may be given again after
	// a restore.
	Position int64

	// Attempts counts how often a broker refused the message; LastError is what
	// it said last. An unavailable broker does not count.
	Attempts  int
	LastError string
}

// Size returns the number of bytes that the message's variable parts take.
func (m *Message) Size() int {
	n := len(m.ID) + len(m.Topic) + len(m.Key) + len(m.Tenant) + len(m.Type) +
		len(m.Version) + len(m.ContentType) + len(m.Payload) + len(m.LastError) + len(m.Route)
	for name, value := range m.Headers {
		n += len(name) + len(value)
	}
	return n
}
