package membroker

import (
	"errors"
	"fmt"
	"time"

	"github.com/outbox-go/outbox"
)

// delivery is one passing on of an item. The broker's mu guards settled.
type delivery struct {
	consumer *consumer
	item     *item
	settled  bool
}

// settle is [outbox.Received.Settle].
func (d *delivery) settle(s outbox.Settlement) error {
	if err := s.Validate(&d.consumer.sub); err != nil {
		return fmt.Errorf("membroker: %w", err)
	}
	if s.Outcome == outbox.Retry || s.Outcome == outbox.DeadLetter {
		return d.move(s)
	}
	c := d.consumer
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	if d.settled {
		return d.errSettled()
	}
	held := d.isHeld()
	d.done()
	if !held {
		return errLost
	}
	if s.Outcome == outbox.Requeue {
		c.queue.giveBack(d.item)
	}
	return nil
}

// move is settle for what makes the message another one. After an error it is
// still to be settled.
func (d *delivery) move(s outbox.Settlement) error {
	c := d.consumer
	if err := c.broker.refusal(&d.item.message.Message, s); err != nil {
		return err
	}
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	switch {
	case d.settled:
		return d.errSettled()
	case !d.isHeld():
		return errLost
	}
	d.done()
	m := d.item.message.failed(s.Failure)
	switch {
	case s.Outcome == outbox.DeadLetter:
		c.queue.dead.push(&item{message: m})
	case s.Delay == 0:
		c.queue.push(&item{message: m, redelivered: true})
	default:
		c.broker.later(c.queue, &item{message: m, redelivered: true, due: time.Now().Add(s.Delay)}, s.Delay)
	}
	return nil
}

// isHeld tells whether the message is still this consumer's: no cut has given it
// back. The caller holds the broker's mu.
func (d *delivery) isHeld() bool {
	_, held := d.consumer.unsettled[d]
	return held
}

func (d *delivery) errSettled() error {
	return errors.New("membroker: message " + d.item.message.ID + " was settled before")
}

// done counts the message as settled. The caller holds the broker's mu.
func (d *delivery) done() {
	d.settled = true
	d.consumer.running--
	delete(d.consumer.unsettled, d)
	d.consumer.signal()
}

// refusal asks what [Broker.RefuseSettle] set.
func (b *Broker) refusal(m *outbox.Message, s outbox.Settlement) error {
	b.mu.Lock()
	refuse := b.refuseSettle
	b.mu.Unlock()
	if refuse == nil {
		return nil
	}
	return refuse(clone(m), s)
}

// later has it wait in q for d. The caller holds mu.
func (b *Broker) later(q *queue, it *item, d time.Duration) {
	q.wait(it)
	time.AfterFunc(d, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		q.ripen(time.Now())
	})
}
