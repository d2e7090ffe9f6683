package membroker

import (
	"context"
	"errors"
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
	broker   *Broker
	owner    *Subscriber
	queue    *queue
	prefetch int
	wake     chan struct{} // one token: there may be something to do

	established bool
	unsettled   map[*item]struct{} // those whose Settle still counts
	running     int                // passed on, Settle not yet called
}

// Subscribe implements [outbox.Subscriber]. It returns an error if s is faulty or
// when the subscriber is closed.
func (s *Subscriber) Subscribe(ctx context.Context, sub outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
	if err := sub.Validate(); err != nil {
		return err
	}
	c := s.open(sub)
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

func (s *Subscriber) open(sub outbox.Subscription) *consumer {
	b := s.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	c := &consumer{
		broker: b, owner: s, queue: b.declare(sub.Queue, sub.Topics), prefetch: sub.Prefetch,
		wake: make(chan struct{}, 1), unsettled: map[*item]struct{}{},
	}
	c.queue.consumers[c] = struct{}{}
	b.consumers[c] = struct{}{}
	return c
}

func (c *consumer) close() {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	delete(c.queue.consumers, c)
	delete(c.broker.consumers, c)
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
	if c.running >= c.prefetch {
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

// giveBack returns all that is unsettled. The caller holds the broker's mu.
func (c *consumer) giveBack() {
	for it := range c.unsettled {
		c.queue.giveBack(it)
	}
	clear(c.unsettled)
}

func (c *consumer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *consumer) received(it *item, redelivered bool) *outbox.Received {
	r := &outbox.Received{Message: *clone(it.message), Redelivered: redelivered, ReceivedAt: time.Now()}
	settled := false
	r.Settle = func(how outbox.Settlement) error {
		c.broker.mu.Lock()
		defer c.broker.mu.Unlock()
		if settled {
			return errors.New("membroker: message " + it.message.ID + " was settled before")
		}
		settled = true
		c.running--
		c.signal()
		if _, ok := c.unsettled[it]; !ok {
			return errLost
		}
		delete(c.unsettled, it)
		if how.Outcome == outbox.Requeue {
			c.queue.giveBack(it)
		}
		return nil
	}
	return r
}
