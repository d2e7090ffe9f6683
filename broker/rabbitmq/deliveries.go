package rabbitmq

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

var errMalformed = errors.New("rabbitmq: the broker sent a delivery that cannot be decoded")

// deliveries takes what a connection delivers, before the library gets it, and keeps
// it until the consumer asks. It never waits, so that the connection lives while
// nobody asks; the prefetch bounds what it has.
type deliveries struct {
	wake   chan struct{} // something has come
	failed chan error    // what has come cannot be decoded

	// Of the goroutine that reads.
	current *arrival // what is being assembled, or nil
	channel uint16
	texts   []byte // of it: the method's arguments, then the header's properties
	left    uint64 // how much of its body is to come
	batch   []*arrival

	mu    sync.Mutex
	ready []*arrival
}

// arrival is a message as the broker delivered it.
type arrival struct {
	amqp.Delivery
	at time.Time
}

func newDeliveries() *deliveries {
	return &deliveries{wake: make(chan struct{}, 1), failed: make(chan error, 1)}
}

// all returns what has come since the last call, in a slice that the caller gives
// back with the next.
func (d *deliveries) all(used []*arrival) []*arrival {
	clear(used)
	d.mu.Lock()
	defer d.mu.Unlock()
	ready := d.ready
	d.ready = used[:0]
	return ready
}

// take implements [interceptor].
func (d *deliveries) take(f frame) bool {
	switch {
	case f.method() == methodBasicDeliver:
		d.current, d.channel, d.texts = new(arrival), f.channel, append(d.texts[:0], f.payload[4:]...)
	case d.current == nil || f.channel != d.channel || f.kind == frameMethod:
		return false
	case f.kind == frameHeader:
		d.header(f.payload)
	case f.kind == frameBody:
		d.body(f.payload)
	default:
		return false
	}
	return true
}

// contentHead is what a header begins with: class, weight, size of the body, flags.
const contentHead = 2 + 2 + 8 + 2

func (d *deliveries) header(payload []byte) {
	if len(payload) < contentHead {
		d.fail()
		return
	}
	d.left = binary.BigEndian.Uint64(payload[4:])
	d.texts = append(d.texts, payload[contentHead:]...)
	if !decode(&d.current.Delivery, d.texts, binary.BigEndian.Uint16(payload[12:])) {
		d.fail()
		return
	}
	if d.left == 0 {
		d.complete()
	}
}

// trusted is how much memory is taken because a header says so.
const trusted = 1 << 20

func (d *deliveries) body(part []byte) {
	if uint64(len(part)) > d.left {
		d.fail()
		return
	}
	if d.current.Body == nil {
		d.current.Body = make([]byte, 0, min(d.left, trusted))
	}
	d.current.Body = append(d.current.Body, part...)
	d.left -= uint64(len(part))
	if d.left == 0 {
		d.complete()
	}
}

func (d *deliveries) complete() {
	d.batch, d.current = append(d.batch, d.current), nil
}

func (d *deliveries) fail() {
	d.current = nil
	select {
	case d.failed <- errMalformed:
	default:
	}
}

// rest implements [interceptor].
func (d *deliveries) rest() {
	if len(d.batch) == 0 {
		return
	}
	now := time.Now()
	for _, a := range d.batch {
		a.at = now
	}
	d.mu.Lock()
	d.ready = append(d.ready, d.batch...)
	d.mu.Unlock()
	clear(d.batch)
	d.batch = d.batch[:0]
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// decode reads the arguments of basic.deliver and the properties that flags says are
// behind them, and reports whether that is what texts has. The message's texts share
// one allocation.
func decode(m *amqp.Delivery, texts []byte, flags uint16) bool {
	c := cursor{rest: string(texts)}
	m.ConsumerTag = c.short()
	m.DeliveryTag = c.uint64()
	m.Redelivered = c.uint8()&1 != 0
	m.Exchange = c.short()
	m.RoutingKey = c.short()
	c.properties(m, flags)
	return !c.failed
}

func (c *cursor) properties(m *amqp.Delivery, flags uint16) {
	text := func(to *string, flag uint16) {
		if flags&flag != 0 {
			*to = c.short()
		}
	}
	text(&m.ContentType, hasContentType)
	text(&m.ContentEncoding, hasContentEncoding)
	if flags&hasHeaders != 0 {
		m.Headers = c.table(0)
	}
	if flags&hasDeliveryMode != 0 {
		m.DeliveryMode = c.uint8()
	}
	if flags&hasPriority != 0 {
		m.Priority = c.uint8()
	}
	text(&m.CorrelationId, hasCorrelationID)
	text(&m.ReplyTo, hasReplyTo)
	text(&m.Expiration, hasExpiration)
	text(&m.MessageId, hasMessageID)
	if flags&hasTimestamp != 0 {
		m.Timestamp = time.Unix(int64(c.uint64()), 0)
	}
	text(&m.Type, hasType)
	text(&m.UserId, hasUserID)
	text(&m.AppId, hasAppID)
}
