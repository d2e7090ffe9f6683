package natsjs

import (
	"context"
	"sync"

	"github.com/outbox-go/outbox"
)

// Subscriber is an [outbox.Subscriber]. Each Subscribe has a connection of its
// own, which it renews when it is lost; what was received on one connection can
// be settled on the next. To settle with Ack or Requeue does not wait for that: it
// is done when there is a connection again. It is safe for concurrent use.
type Subscriber struct {
	broker *Broker

	mu      sync.Mutex
	closed  bool
	running map[*consumption]struct{}
}

// Subscriber opens a subscriber. It connects when Subscribe is called.
func (b *Broker) Subscriber() *Subscriber {
	return &Subscriber{broker: b, running: map[*consumption]struct{}{}}
}

// Subscribe implements [outbox.Subscriber]. The queue's durable consumer is named
// after it, with '=' and two hexadecimal digits for each byte that no consumer's
// name may have, and a hash at the end where that is too long. As long as there has
// been no connection it returns an error when a stream, the bucket or the consumer
// is not as it should be; later it goes on trying, and makes again what somebody
// has deleted. At the end it waits for a connection, to tell it what was settled
// without one, for [Config.ConnectTimeout] at most.
//
// To settle a message with Retry or DeadLetter asks the server two questions, and
// each may take [Config.ConnectTimeout].
func (s *Subscriber) Subscribe(ctx context.Context, sub outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
	if err := sub.Validate(); err != nil {
		return err
	}
	c, err := s.begin(sub)
	if err != nil {
		return err
	}
	defer s.finish(c)
	return c.run(ctx, ready, receive)
}

// Close gives back what is unsettled and ends every Subscribe with an error, but
// does not wait for them. It returns nil.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.running {
		c.abandon()
	}
	return nil
}

func (s *Subscriber) begin(sub outbox.Subscription) (*consumption, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	c := newConsumption(s.broker, sub)
	s.running[c] = struct{}{}
	return c, nil
}

func (s *Subscriber) finish(c *consumption) {
	s.mu.Lock()
	delete(s.running, c)
	s.mu.Unlock()
}
