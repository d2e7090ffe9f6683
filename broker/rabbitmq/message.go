package rabbitmq

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/outbox-go/outbox"
	amqp "github.com/rabbitmq/amqp091-go"
)

// headerDeliveryCount is added by a quorum queue to what it delivers again. It is
// the queue's own, and no header of the message.
const headerDeliveryCount = "x-delivery-count"

// headerEscape is put before the names of headers that RabbitMQ itself gives a
// meaning to, and is taken off on receipt.
const headerEscape = outbox.HeaderPrefix + "header-"

// special reports whether RabbitMQ acts on, or writes, the header of that name: see
// https://www.rabbitmq.com/docs/sender-selected, where a text closes the channel,
// and https://www.rabbitmq.com/docs/dlx#effects.
func special(name string) bool {
	switch name {
	case "CC", "BCC", headerDeath, headerDeliveryCount:
		return true
	}
	return strings.HasPrefix(name, firstDeath) || strings.HasPrefix(name, lastDeath)
}

// propertiesFault tells why m cannot be encoded as AMQP properties, or "". A
// longer one would be written with a length cut to a byte, and be read as garbage.
func propertiesFault(m *outbox.Message) string {
	for _, f := range [...]struct{ name, value string }{
		{"topic", m.Topic}, {"id", m.ID}, {"content type", m.ContentType},
	} {
		if len(f.value) > maxShortString {
			return fmt.Sprintf("%s has %d bytes, AMQP allows %d", f.name, len(f.value), maxShortString)
		}
	}
	for name := range m.Headers {
		if len(name) > maxShortString || special(name) && len(headerEscape+name) > maxShortString {
			return fmt.Sprintf("header name has %d bytes, AMQP allows %d", len(name), maxShortString)
		}
	}
	return ""
}

// propertiesSize is an upper bound of the bytes that the properties of m take.
// They must fit in one frame (AMQP 0-9-1, 4.2.6.1).
func propertiesSize(m *outbox.Message) int {
	const fixed, header = 512, 6 + len(headerEscape)
	n := fixed + len(m.ID) + 2*len(m.Type) + len(m.ContentType) + len(m.Key) + len(m.Tenant) + len(m.Version)
	for name, value := range m.Headers {
		n += header + len(name) + len(value)
	}
	return n + min(len(m.Headers[outbox.HeaderCorrelationID]), maxShortString)
}

// appendProperties appends what m has besides its topic and payload: which
// properties are there, and their values.
func appendProperties(b []byte, m *outbox.Message, expiration string) []byte {
	at := len(b)
	flags := hasHeaders | hasDeliveryMode
	b = append(b, 0, 0)
	text := func(s string, flag int) {
		if s != "" {
			b = appendShort(b, s)
			flags |= flag
		}
	}
	text(m.ContentType, hasContentType)
	b = appendHeaders(b, m)
	b = append(b, persistent)
	if id := m.Headers[outbox.HeaderCorrelationID]; len(id) <= maxShortString {
		text(id, hasCorrelationID)
	}
	text(expiration, hasExpiration)
	text(m.ID, hasMessageID)
	if !m.CreatedAt.IsZero() && m.CreatedAt.Unix() >= 0 { // AMQP's are unsigned
		b = binary.BigEndian.AppendUint64(b, uint64(m.CreatedAt.Unix()))
		flags |= hasTimestamp
	}
	if len(m.Type) <= maxShortString {
		text(m.Type, hasType)
	}
	binary.BigEndian.PutUint16(b[at:], uint16(flags))
	return b
}

// appendHeaders appends the table of the headers.
func appendHeaders(b []byte, m *outbox.Message) []byte {
	b = append(b, 0, 0, 0, 0)
	start := len(b)
	for name, value := range m.Headers {
		if special(name) {
			b = append(b, byte(len(headerEscape)+len(name)))
			b = append(append(b, headerEscape...), name...)
		} else {
			b = appendShort(b, name)
		}
		b = appendText(b, value)
	}
	if len(m.Type) > maxShortString {
		b = appendText(appendShort(b, outbox.HeaderType), m.Type)
	}
	if m.Key != "" {
		b = appendText(appendShort(b, outbox.HeaderKey), m.Key)
	}
	if m.Tenant != "" {
		b = appendText(appendShort(b, outbox.HeaderTenant), m.Tenant)
	}
	if m.Version != "" {
		b = appendText(appendShort(b, outbox.HeaderVersion), m.Version)
	}
	if !m.CreatedAt.IsZero() {
		b = append(appendShort(b, outbox.HeaderCreatedAt), 'S', 0, 0, 0, 0)
		value := len(b)
		b = m.CreatedAt.UTC().AppendFormat(b, time.RFC3339Nano)
		putLength(b, value)
	}
	putLength(b, start)
	return b
}

// appendText appends a header's value.
func appendText(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(append(b, 'S'), uint32(len(s)))
	return append(b, s...)
}

// message decodes d. It takes whatever other systems have sent.
func message(d *amqp.Delivery) outbox.Message {
	m := outbox.Message{
		ID:          d.MessageId,
		Topic:       d.RoutingKey,
		Type:        d.Type,
		ContentType: d.ContentType,
		Payload:     d.Body,
	}
	if !d.Timestamp.IsZero() {
		m.CreatedAt = d.Timestamp.UTC()
	}
	for name, value := range d.Headers {
		if name != headerRetryAt {
			takeHeader(&m, name, headerString(value))
		}
	}
	if _, ok := m.Headers[outbox.HeaderCorrelationID]; !ok && d.CorrelationId != "" {
		setHeader(&m, outbox.HeaderCorrelationID, d.CorrelationId)
	}
	return m
}

// takeHeader puts a header to the field of m that it stands for, if any.
func takeHeader(m *outbox.Message, name, value string) {
	switch name {
	case outbox.HeaderID:
		m.ID = value
	case outbox.HeaderTopic:
		m.Topic = value
	case outbox.HeaderKey:
		m.Key = value
	case outbox.HeaderTenant:
		m.Tenant = value
	case outbox.HeaderType:
		m.Type = value
	case outbox.HeaderVersion:
		m.Version = value
	case outbox.HeaderCreatedAt:
		if at, err := time.Parse(time.RFC3339Nano, value); err == nil {
			m.CreatedAt = at.UTC()
		}
	default:
		setHeader(m, strings.TrimPrefix(name, headerEscape), value)
	}
}

func setHeader(m *outbox.Message, name, value string) {
	if m.Headers == nil {
		m.Headers = make(map[string]string)
	}
	m.Headers[name] = value
}

// headerString renders a value of an AMQP table: numbers in decimal, times by RFC
// 3339, bytes as text where they are, else in base64, and tables and arrays, such
// as x-death, as JSON.
func headerString(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case nil:
		return ""
	case bool:
		return strconv.FormatBool(v)
	case []byte:
		if utf8.Valid(v) {
			return string(v)
		}
		return base64.StdEncoding.EncodeToString(v)
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	case amqp.Table, []any:
		if text, err := json.Marshal(v); err == nil {
			return string(text)
		}
	}
	return fmt.Sprint(value)
}
