package rabbitmq

import (
	"cmp"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/outbox-go/outbox"
	amqp "github.com/rabbitmq/amqp091-go"
)

// receipt is a message that was passed on. It belongs to the channel that delivered
// it, since delivery tags begin anew on each.
type receipt struct {
	outbox.Received
	entry    entry
	raw      *amqp.Delivery
	delivery *delivery
	consumer *consumer
	settled  atomic.Bool // or about to be
}

var (
	errSettled = errors.New("rabbitmq: message was settled before")
	errStale   = errors.New("rabbitmq: the connection that delivered the message is lost: it is delivered again")
)

// receipt decodes a and counts it as unsettled.
func (c *consumer) receipt(d *delivery, a *arrival) *outbox.Received {
	m := &a.Delivery
	r := &receipt{raw: m, delivery: d, consumer: c, entry: entry{tag: m.DeliveryTag}}
	deaths := m.Headers[headerDeath]
	restoreTopic(m, c.queue)
	cleanHeaders(m.Headers, c.queue)
	r.Received = outbox.Received{Message: message(m), ReceivedAt: a.at, Lost: d.ended}
	r.Failure = outbox.TakeFailure(r.Headers)
	if r.Failure != nil && !c.concerns(m, r.Failure) {
		r.Failure = nil
	}
	if len(r.Headers) == 0 {
		r.Headers = nil
	}
	if c.sub.DeadLetters {
		r.Failure = cmp.Or(brokerFailure(deaths, c.queue, r.Failure), r.Failure)
	}
	r.Redelivered = m.Redelivered || r.Failure != nil // to the broker a copy is new
	r.Settle = r.settle
	d.ledger.add(&r.entry)
	c.unsettled.Add()
	return &r.Received
}

// concerns reports whether the failure that came with m is this queue's. By an
// exchange other queues get the same message, as when somebody moves dead letters
// there: to them it is new. What was sent to this queue alone, as its retries are,
// has its failure whichever Queue that names.
func (c *consumer) concerns(m *amqp.Delivery, f *outbox.Failure) bool {
	return c.sub.DeadLetters || m.Exchange == "" || f.Queue == c.sub.Queue
}

func (r *receipt) settle(s outbox.Settlement) error {
	if err := s.Validate(&r.consumer.sub); err != nil {
		return fmt.Errorf("rabbitmq: %w", err)
	}
	if r.settled.Swap(true) {
		return errSettled // acknowledging twice closes the channel
	}
	var err error
	switch s.Outcome {
	case outbox.Ack:
		err = r.delivery.ledger.ack(&r.entry)
	case outbox.Requeue:
		err = r.delivery.ledger.requeue(&r.entry)
	default:
		if err = r.move(s); err != nil {
			r.settled.Store(false)
			return err
		}
	}
	r.consumer.unsettled.Remove()
	return err
}

// move publishes a copy to where it is to go, and acknowledges the message.
func (r *receipt) move(s outbox.Settlement) error {
	if r.delivery.channel.IsClosed() {
		return errStale
	}
	p := failedCopy(r.raw, r.Topic, s.Failure)
	t, err := r.target(s, &p)
	if err != nil {
		return err
	}
	if err := r.consumer.copier.publish(t, &p); err != nil {
		if r.delivery.channel.IsClosed() {
			return errStale
		}
		return err
	}
	return r.delivery.ledger.ack(&r.entry)
}

func (r *receipt) target(s outbox.Settlement, p *amqp.Publishing) (*target, error) {
	if s.Outcome == outbox.Retry {
		return r.consumer.retryTarget(p, s.Delay)
	}
	return r.consumer.deadLetterTarget(), nil
}
