package rabbitmq

import (
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/outbox-go/outbox"
	amqp "github.com/rabbitmq/amqp091-go"
)

// copyOf returns d to be published again, with all that its sender gave it but two:
// an expiration, which would end it in its delay queue too early, and a user's
// name, which the broker takes from that user alone. The headers are a copy.
func copyOf(d *amqp.Delivery) amqp.Publishing {
	p := amqp.Publishing{
		Headers:         make(amqp.Table, len(d.Headers)+8),
		ContentType:     d.ContentType,
		ContentEncoding: d.ContentEncoding,
		DeliveryMode:    amqp.Persistent,
		Priority:        d.Priority,
		CorrelationId:   d.CorrelationId,
		ReplyTo:         d.ReplyTo,
		MessageId:       d.MessageId,
		Timestamp:       d.Timestamp,
		Type:            d.Type,
		AppId:           d.AppId,
		Body:            d.Body,
	}
	for name, value := range d.Headers {
		if name == "CC" || name == "BCC" {
			name = headerEscape + name // it would send the copy to others, too
		}
		p.Headers[name] = value
	}
	delete(p.Headers, headerRetryAt)
	return p
}

// failedCopy returns a copy of d that carries its topic and f.
func failedCopy(d *amqp.Delivery, topic string, f *outbox.Failure) amqp.Publishing {
	p := copyOf(d)
	maps.DeleteFunc(p.Headers, func(name string, _ any) bool { return failureHeaders[name] != "" })
	for name, value := range f.Headers() {
		p.Headers[name] = value
	}
	p.Headers[outbox.HeaderTopic] = topic
	return p
}

// failureHeaders has each header that a failure can have.
var failureHeaders = (&outbox.Failure{
	Attempts: 1, Reason: "x", Handler: "x", Queue: "x", FirstAt: time.Unix(1, 0), LastAt: time.Unix(1, 0),
}).Headers()

// fit shortens the reason of the failure until the properties of p fit in a frame
// of so many bytes, as AMQP wants it (0-9-1, 4.2.6.1). A greater frame would end
// the connection.
func fit(p *amqp.Publishing, most int) error {
	over := propertyBytes(p) - most
	if over <= 0 {
		return nil
	}
	reason, _ := p.Headers[outbox.HeaderReason].(string)
	if over > len(reason) {
		return fmt.Errorf("rabbitmq: the headers of the message are so many that no others fit in a frame: %d bytes are too many", over)
	}
	cut := len(reason) - over
	for cut > 0 && !utf8.RuneStart(reason[cut]) {
		cut--
	}
	p.Headers[outbox.HeaderReason] = reason[:cut]
	return nil
}

// propertyBytes returns how many bytes the properties of p take at most.
func propertyBytes(p *amqp.Publishing) int {
	const fixed = 64 // class, weight, size, flags, and what has a constant length
	n := fixed
	for _, s := range [...]string{p.ContentType, p.ContentEncoding, p.CorrelationId, p.ReplyTo, p.MessageId, p.Type, p.AppId} {
		n += 1 + len(s)
	}
	return n + fieldBytes(p.Headers)
}

func fieldBytes(value any) int {
	const prefix = 1 + 4 // type, and length if it has one
	n := prefix
	switch v := value.(type) {
	case string:
		n += len(v)
	case []byte:
		n += len(v)
	case amqp.Table:
		for name, field := range v {
			n += 1 + len(name) + fieldBytes(field)
		}
	case []any:
		for _, field := range v {
			n += fieldBytes(field)
		}
	default:
		n += 8
	}
	return n
}

// target is where a copy goes.
type target struct {
	exchange, key string
	entities      func() []*entity // what is to be there, to be declared if it may be; nil for nothing
}

func (t *target) String() string {
	if t.exchange == "" {
		return fmt.Sprintf("queue %q", t.key)
	}
	return fmt.Sprintf("exchange %q by %q", t.exchange, t.key)
}

// retryTarget returns where the copy p waits for d at most, and notes in p when the
// message is to come if it has to be sent on from there.
func (c *consumer) retryTarget(p *amqp.Publishing, d time.Duration) (*target, error) {
	if d <= 0 {
		return &target{key: c.queue}, nil
	}
	r, err := c.ladder.pick(d)
	if err != nil {
		return nil, err
	}
	if time.Duration(r) < d {
		p.Headers[headerRetryAt] = time.Now().Add(d).UTC().Format(time.RFC3339Nano)
	}
	return &target{
		key:      retryQueue(c.queue, r),
		entities: func() []*entity { return []*entity{c.config.rungEntity(c.queue, r)} },
	}, nil
}

func (c *consumer) deadLetterTarget() *target {
	return &target{
		exchange: c.config.deadLetterExchange(), key: c.queue,
		entities: func() []*entity { return c.config.deadLetterEntities(c.queue) },
	}
}

// noteMissing explains why the broker returned a copy.
func (t *target) noteMissing(r amqp.Return) error {
	name, bound := t.key, ""
	if t.exchange != "" {
		name, bound = deadLetterQueue(t.key), fmt.Sprintf(", or not bound to %q by %q", t.exchange, t.key)
	}
	return fmt.Errorf("rabbitmq: queue %q is %w%s: %d %s", name, ErrMissing, bound, r.ReplyCode, strings.ToLower(r.ReplyText))
}
