package rabbitmq

import (
	"encoding/base64"
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

// propertiesFault tells why m cannot be encoded as AMQP properties, or "". The
// library would find out when half of the message is written.
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

// publishing encodes m. It fills table, which must be empty, with the headers.
func publishing(m *outbox.Message, table amqp.Table) amqp.Publishing {
	p := amqp.Publishing{
		Headers:      table,
		ContentType:  m.ContentType,
		DeliveryMode: amqp.Persistent,
		MessageId:    m.ID,
		Body:         m.Payload,
	}
	for name, value := range m.Headers {
		if special(name) {
			name = headerEscape + name
		}
		table[name] = value
		if name == outbox.HeaderCorrelationID && len(value) <= maxShortString {
			p.CorrelationId = value
		}
	}
	if len(m.Type) <= maxShortString {
		p.Type = m.Type
	} else {
		table[outbox.HeaderType] = m.Type
	}
	if m.Key != "" {
		table[outbox.HeaderKey] = m.Key
	}
	if m.Tenant != "" {
		table[outbox.HeaderTenant] = m.Tenant
	}
	if m.Version != "" {
		table[outbox.HeaderVersion] = m.Version
	}
	if !m.CreatedAt.IsZero() {
		table[outbox.HeaderCreatedAt] = m.CreatedAt.UTC().Format(time.RFC3339Nano)
		if m.CreatedAt.Unix() >= 0 { // AMQP's are unsigned
			p.Timestamp = m.CreatedAt
		}
	}
	return p
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
