package stomp

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox"
)

// receipt is a message that was passed on. It belongs to the connection that
// delivered it.
type receipt struct {
	outbox.Received
	item     *item
	delivery *delivery
	consumer *consumer
	settled  atomic.Bool // or about to be
}

var errSettled = errors.New("stomp: message was settled before")

// receipt decodes m and counts it as unsettled.
func (c *consumer) receipt(d *delivery, m *item) *outbox.Received {
	r := &receipt{item: m, delivery: d, consumer: c}
	r.Received = outbox.Received{Message: decode(m.frame, c.queue), ReceivedAt: time.Now(), Lost: d.ended}
	r.Failure = outbox.TakeFailure(r.Headers)
	if r.Failure != nil && !c.concerns(m, r.Failure) {
		r.Failure = nil
	}
	if c.sub.DeadLetters {
		r.Failure = brokerFailure(m.frame, c.queue, r.Failure, r.ReceivedAt)
	}
	if len(r.Headers) == 0 {
		r.Headers = nil
	}
	redelivered, _ := m.frame.Get(headerRedelivered)
	r.Redelivered = redelivered == "true" || m.again || r.Failure != nil // to the broker a copy is new
	r.Settle = r.settle
	c.unsettled.Add()
	return &r.Received
}

// concerns reports whether the failure that came with m is this queue's. By an
// exchange other queues get the same message, as when somebody moves dead letters
// there: to them it is new. What was sent to this queue alone, as its retries are,
// has its failure whichever Queue that names.
func (c *consumer) concerns(m *item, f *outbox.Failure) bool {
	destination, _ := m.frame.Get(headerDestination)
	return c.sub.DeadLetters || QueueName(destination) == c.queue || f.Queue == c.sub.Queue
}

func (r *receipt) settle(s outbox.Settlement) error {
	if err := s.Validate(&r.consumer.sub); err != nil {
		return fmt.Errorf("stomp: %w", err)
	}
	if r.settled.Swap(true) {
		return errSettled // acknowledging twice ends the connection
	}
	var err error
	switch s.Outcome {
	case outbox.Ack:
		err = r.ack()
	case outbox.Requeue:
		err = r.delivery.requeue(r.item)
	default:
		if err = r.move(s); err != nil {
			r.settled.Store(false)
			return err
		}
	}
	<-r.delivery.slots
	r.consumer.unsettled.Remove()
	return err
}

func (r *receipt) ack() error {
	if isClosed(r.delivery.ended) {
		return errStale
	}
	return r.delivery.acks.ack(r.item.ackID())
}

// move sends a copy to where it is to go, and acknowledges the message.
func (r *receipt) move(s outbox.Settlement) error {
	if isClosed(r.delivery.ended) {
		return errStale
	}
	f := failedCopy(r.item.frame, r.consumer.queue, r.Topic, s.Failure)
	if s.Outcome == outbox.Retry {
		r.consumer.config.addressRetry(f, r.consumer.queue, time.Now().Add(s.Delay), s.Delay)
	} else {
		r.consumer.config.addressDeadLetter(f, r.consumer.queue)
	}
	if err := r.consumer.copier.publish(f, nil); err != nil {
		if isClosed(r.delivery.ended) {
			return errStale
		}
		return err
	}
	return r.ack()
}
