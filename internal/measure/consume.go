package measure

import (
	"context"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
)

// Consumer takes messages from a queue, hands each to a tally and acknowledges it.
type Consumer struct {
	cancel context.CancelFunc
	ended  chan error
}

// Consume starts a consumer of all topics and returns when it is there. The subscriber
// stays the caller's to close.
func Consume(ctx context.Context, s outbox.Subscriber, queue string, prefetch int, t *Tally) (*Consumer, error) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &Consumer{cancel: cancel, ended: make(chan error, 1)}
	ready := make(chan struct{})
	there := sync.OnceFunc(func() { close(ready) }) // it is called after each loss of the connection, too
	go func() {
		sub := outbox.Subscription{Queue: queue, Topics: []string{"#"}, Prefetch: prefetch}
		c.ended <- s.Subscribe(running, sub, there, func(m *outbox.Received) {
			t.Deliver(m.Payload, time.Now())
			_ = m.Settle(outbox.Settlement{Outcome: outbox.Ack}) // what a lost connection delivered comes again
		})
	}()
	select {
	case <-ready:
		return c, nil
	case err := <-c.ended:
		cancel()
		return nil, err
	case <-ctx.Done():
		cancel()
		return nil, ctx.Err()
	}
}

// Stop ends the consumer and returns its error.
func (c *Consumer) Stop() error {
	c.cancel()
	return <-c.ended
}
