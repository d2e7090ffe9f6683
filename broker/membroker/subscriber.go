package membroker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
)

// Subscriber is an [outbox.Subscriber]. It is safe for concurrent use, and
// several Subscribe may run on it.
type Subscriber struct {
	broker *Broker
	once   sync.Once
	closed chan struct{}
}

// consumer is one running Subscribe. The broker's mu guards what follows wake.
type consumer struct {
	broker *Broker
	owner  *Subscriber
	queue  *queue
	sub    outbox.Subscription
	wake   chan struct{} // one token: there may be something to do

	established bool
	lost        chan struct{}          // closed when the connection is cut
	unsettled   map[*delivery]struct{} // those whose Settle still counts
	running     int                    // passed on, Settle not yet called
}

// Subscribe implements [outbox.Subscriber]. It returns an error if sub is faulty,
// if a running member of the queue differs in InOrder, or when the subscriber is
// closed.
func (s *Subscriber) Subscribe(ctx context.Context, sub outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
	if err := sub.Validate(); err != nil {
		return err
	}
	c, err := s.open(sub)
	if err != nil {
		return err
	}
	defer c.close()
	for ctx.Err() == nil {
		if s.isClosed() {
			return errClosed
		}
		established, r := c.step()
		switch {
		case established:
			ready()
		case r != nil:
			receive(r)
		default:
			select {
			case <-c.wake:
			case <-ctx.Done():
			case <-s.closed:
			}
		}
	}
	for c.busy() {
		select {
		case <-c.wake:
		case <-s.closed:
			return errClosed
		}
	}
	return nil
}

// Close ends every Subscribe of this subscriber with an error and gives back
// what is unsettled. It returns nil.
func (s *Subscriber) Close() error {
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	s.once.Do(func() { close(s.closed) })
	for c := range s.broker.consumers {
		if c.owner == s {
			c.giveBack()
		}
	}
	return nil
}

func (s *Subscriber) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

func (s *Subscriber) open(sub outbox.Subscription) (*consumer, error) {
	b := s.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	var q *queue
	if sub.DeadLetters {
		q = b.declare(sub.Queue, nil).dead
	} else {
		q = b.declare(sub.Queue, sub.Topics)
	}
	for other := range q.consumers {
		if other.sub.InOrder != sub.InOrder {
			return nil, fmt.Errorf("membroker: subscribe to %q: InOrder is %t, but %t for a member that runs", sub.Queue, sub.InOrder, other.sub.InOrder)
		}
	}
	c := &consumer{broker: b, owner: s, queue: q, sub: sub, wake: make(chan struct{}, 1), unsettled: map[*delivery]struct{}{}}
	q.consumers[c] = struct{}{}
	b.consumers[c] = struct{}{}
	return c, nil
}

func (c *consumer) close() {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	delete(c.queue.consumers, c)
	delete(c.broker.consumers, c)
	c.queue.dismiss(c)
}

// step tells what to do next: establish, pass a message on, or wait.
func (c *consumer) step() (established bool, r *outbox.Received) {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	if c.broker.down || c.owner.isClosed() {
		return false, nil
	}
	if !c.established {
		c.established = true
		c.lost = make(chan struct{})
		return true, nil
	}
	if c.running >= c.sub.Prefetch || !c.queue.admits(c) {
		return false, nil
	}
	it := c.queue.pop()
	if it == nil {
		return false, nil
	}
	c.running++
	return false, c.received(it)
}

func (c *consumer) busy() bool {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	return c.running > 0
}

// giveBack returns all that is unsettled, since the connection is lost, and lets
// another member receive it. The caller holds the broker's mu.
func (c *consumer) giveBack() {
	if c.established {
		c.established = false
		close(c.lost)
	}
	for d := range c.unsettled {
		c.queue.giveBack(d.item)
	}
	clear(c.unsettled)
	c.queue.dismiss(c)
}

func (c *consumer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// received makes what is passed on, and unsettled. The caller holds the broker's mu.
func (c *consumer) received(it *item) *outbox.Received {
	r := &outbox.Received{
		Message: *clone(&it.message.Message), Redelivered: it.redelivered, ReceivedAt: time.Now(), Lost: c.lost,
	}
	if f := it.message.failure; f != nil {
		copied := *f
		r.Failure = &copied
	}
	d := &delivery{consumer: c, item: it}
	c.unsettled[d] = struct{}{}
	r.Settle = d.settle
	return r
}
