package stomp

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

// encoder makes SEND frames of messages.
type encoder struct {
	template template
	dop      bool
}

// encode makes f the SEND frame of m. What f had before is overwritten.
func (e *encoder) encode(f *stomp.Frame, m *outbox.Message, receipt uint64) {
	destination := e.destination(m)
	f.Command, f.Body, f.Headers = stomp.Send, m.Payload, f.Headers[:0]
	f.Add(headerDestination, destination)
	f.Add(headerReceipt, strconv.FormatUint(receipt, 10))
	f.Add(headerPersistent, "true")
	if len(m.ID) <= maxShortString {
		add(f, headerAMQPMessageID, m.ID)
	} else {
		f.Add(outbox.HeaderID, m.ID)
	}
	add(f, headerContentType, m.ContentType)
	if len(m.Type) <= maxShortString {
		add(f, headerType, m.Type)
	} else {
		f.Add(outbox.HeaderType, m.Type)
	}
	f.Add(outbox.HeaderTopic, m.Topic)
	add(f, outbox.HeaderKey, m.Key)
	add(f, outbox.HeaderTenant, m.Tenant)
	add(f, outbox.HeaderVersion, m.Version)
	if !m.CreatedAt.IsZero() {
		f.Add(outbox.HeaderCreatedAt, m.CreatedAt.UTC().Format(time.RFC3339Nano))
	}
	if e.dop {
		addDOP(f, m, destination)
	}
	for name, value := range m.Headers {
		if name != HeaderDestination && !(e.dop && isDOP(name)) {
			f.Add(wireName(name, value), value)
		}
	}
}

func (e *encoder) destination(m *outbox.Message) string {
	if own := m.Headers[HeaderDestination]; own != "" {
		return own
	}
	return e.template.destination(m.Topic)
}

// wireName returns the name under which a user's header travels. A correlation id is
// a property at RabbitMQ, and limited as such.
func wireName(name, value string) string {
	if special(name) || name == outbox.HeaderCorrelationID && len(value) > maxShortString {
		return headerEscape + name
	}
	return name
}

func add(f *stomp.Frame, name, value string) {
	if value != "" {
		f.Add(name, value)
	}
}

// fault tells why m can never be sent, or "".
func fault(m *outbox.Message) string {
	for _, f := range [...]struct{ name, value string }{{"topic", m.Topic}, {"content type", m.ContentType}} {
		if len(f.value) > maxShortString {
			return fmt.Sprintf("%s has %d bytes, RabbitMQ allows %d", f.name, len(f.value), maxShortString)
		}
	}
	if strings.Contains(m.Topic, "%2F") && m.Headers[HeaderDestination] == "" {
		return "topic has %2F, which RabbitMQ takes for a slash"
	}
	size := len(m.ID) + len(m.Type) + len(m.Key) + len(m.Tenant) + len(m.Version)
	for name, value := range m.Headers {
		size += len(name) + len(value)
		switch {
		case len(wireName(name, value)) > maxShortString:
			return fmt.Sprintf("header name has %d bytes, RabbitMQ allows %d", len(name), maxShortString)
		case name == "":
			return "a header has no name"
		}
	}
	switch {
	case size > maxHeaderBytes:
		return fmt.Sprintf("id, type, headers and other properties have %d bytes, at most %d are allowed", size, maxHeaderBytes)
	case len(m.Headers) > maxHeaders:
		return fmt.Sprintf("there are %d headers, at most %d are allowed", len(m.Headers), maxHeaders)
	}
	return ""
}

// What a message may have in headers, so that the protocol's client takes it on receipt
// with each character escaped, and with what retries add: a message that is more than
// it takes would end the connection each time that it came.
const (
	maxHeaders     = 900
	maxHeaderBytes = 100 << 10
)

// decode takes a MESSAGE frame for queue apart, whoever has sent it. Of several
// headers with one name the first counts.
func decode(f *stomp.Frame, queue string) outbox.Message {
	h := make(headers, len(f.Headers))
	for _, header := range f.Headers {
		if _, twice := h[header.Name]; !twice {
			h[header.Name] = header.Value
		}
	}
	m := outbox.Message{Payload: f.Body}
	m.ID = h.id()
	m.Type = cmp.Or(h.take(outbox.HeaderType), h.take(headerType))
	if _, ours := h[outbox.HeaderTopic]; m.Type == "" && !ours {
		m.Type = h[dopType]
	}
	m.Topic = h.topic(queue)
	m.Key, m.Tenant, m.Version = h.take(outbox.HeaderKey), h.take(outbox.HeaderTenant), h.take(outbox.HeaderVersion)
	m.ContentType = h.take(headerContentType)
	m.CreatedAt = h.createdAt()
	delete(h, headerRetryAt)
	if id, ok := h[dopCorrelationID]; ok && h[outbox.HeaderCorrelationID] == "" {
		h[outbox.HeaderCorrelationID] = id
	}
	h.strip(queue)
	if len(h) > 0 {
		m.Headers = h
	}
	return m
}

// headers are those of a MESSAGE frame.
type headers map[string]string

func (h headers) take(name string) string {
	value := h[name]
	delete(h, name)
	return value
}

// id returns the sender's id of the message, or "".
func (h headers) id() string {
	own := cmp.Or(h.take(outbox.HeaderID), h.take(headerAMQPMessageID), h[capID], h[dopID])
	if broker := h[headerMessageID]; own == "" && !isDeliveryID(broker) {
		return broker
	}
	return own
}

// isDeliveryID reports whether a message-id is one of RabbitMQ's, which names the
// delivery: the same message has another one when it comes again.
func isDeliveryID(id string) bool { return strings.Count(id, "@@") == 2 }

// topic returns the sender's topic. What comes by the name of the queue or of its
// dead letters does not tell it.
func (h headers) topic(queue string) string {
	if topic := h.take(outbox.HeaderTopic); topic != "" {
		return topic
	}
	topic := QueueName(h[headerDestination])
	if first := h[dopDestination]; first != "" && (topic == queue || topic == deadLetterQueue(queue)) {
		return QueueName(first)
	}
	return topic
}

func (h headers) createdAt() time.Time {
	for _, text := range [...]string{h.take(outbox.HeaderCreatedAt), h[dopSentTime]} {
		if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
			return at.UTC()
		}
	}
	if seconds, err := strconv.ParseInt(h[headerTimestamp], 10, 64); err == nil && seconds > 0 {
		delete(h, headerTimestamp)
		return time.Unix(seconds, 0).UTC()
	}
	return time.Time{}
}

// strip leaves the user's headers alone, by their own names.
func (h headers) strip(queue string) {
	if belongs(h[headerFirstDeath+"queue"], queue) {
		for _, what := range [...]string{"exchange", "queue", "reason"} {
			delete(h, headerFirstDeath+what)
		}
	}
	var escaped []string
	for name := range h {
		if transport(name) {
			delete(h, name)
		} else if strings.HasPrefix(name, headerEscape) {
			escaped = append(escaped, name)
		}
	}
	for _, name := range escaped {
		h[strings.TrimPrefix(name, headerEscape)] = h.take(name)
	}
}
