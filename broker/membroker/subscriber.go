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
	unsettled   map[*item]struct{} // those whose Settle still counts
	running     int                // passed on, Settle not yet called
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
		established, it, redelivered := c.step()
		switch {
		case established:
			ready()
		case it != nil:
			receive(c.received(it, redelivered))
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
	c := &consumer{broker: b, owner: s, queue: q, sub: sub, wake: make(chan struct{}, 1), unsettled: map[*item]struct{}{}}
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
func (c *consumer) step() (established bool, it *item, redelivered bool) {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	if c.broker.down || c.owner.isClosed() {
		return false, nil, false
	}
	if !c.established {
		c.established = true
		return true, nil, false
	}
	if c.running >= c.sub.Prefetch || !c.queue.admits(c) {
		return false, nil, false
	}
	if it = c.queue.pop(); it == nil {
		return false, nil, false
	}
	c.unsettled[it] = struct{}{}
	c.running++
	return false, it, it.redelivered // read here: a cut sets it at any time
}

func (c *consumer) busy() bool {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	return c.running > 0
}

// giveBack returns all that is unsettled, and lets another member receive it. The
// caller holds the broker's mu.
func (c *consumer) giveBack() {
	for it := range c.unsettled {
		c.queue.giveBack(it)
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

func (c *consumer) received(it *item, redelivered bool) *outbox.Received {
	r := &outbox.Received{Message: *clone(&it.message.Message), Redelivered: redelivered, ReceivedAt: time.Now()}
	if f := it.message.failure; f != nil {
		copied := *f
		r.Failure = &copied
	}
	r.Settle = (&delivery{consumer: c, item: it}).settle
	return r
}
