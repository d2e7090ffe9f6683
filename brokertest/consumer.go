package brokertest

import (
	"context"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
)

// consumer is one running Subscribe.
type consumer struct {
	env     *env
	sub     outbox.Subscriber
	cancel  context.CancelFunc
	ready   chan struct{} // a token for each call of ready, while there is room
	got     chan *outbox.Received
	ended   chan struct{} // closed when Subscribe has returned
	err     error         // what it returned; valid after ended
	closing sync.Once
}

// subscribe opens a subscriber and waits until the subscription is established.
// What it receives is to be had from next, unsettled.
func (e *env) subscribe(s outbox.Subscription) *consumer {
	e.Helper()
	got := make(chan *outbox.Received, 100_000)
	c := e.start(s, func(r *outbox.Received) { got <- r })
	c.got = got
	c.waitReady()
	return c
}

// start runs Subscribe without waiting for it to be established.
func (e *env) start(s outbox.Subscription, receive func(*outbox.Received)) *consumer {
	e.Helper()
	ctx, cancel := context.WithCancel(background())
	c := &consumer{
		env: e, sub: e.broker.Subscriber(e.T), cancel: cancel,
		ready: make(chan struct{}, 1000), ended: make(chan struct{}),
	}
	go func() {
		defer close(c.ended)
		c.err = c.sub.Subscribe(ctx, s, c.markReady, receive)
	}()
	e.Cleanup(func() {
		cancel()
		c.close()
		wait(e, c.ended, "Subscribe to return at the end of the test")
	})
	return c
}

func (c *consumer) markReady() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// waitReady waits for the next call of ready.
func (c *consumer) waitReady() {
	c.env.Helper()
	select {
	case <-c.ready:
	case <-c.ended:
		c.env.Fatalf("Subscribe returned before it was established: %v", c.err)
	case <-time.After(patience):
		c.env.Fatalf("the subscription was not established in %s", patience)
	}
}

// close closes the subscriber.
func (c *consumer) close() {
	c.closing.Do(func() {
		if err := c.sub.Close(); err != nil && !c.env.disturbed.Load() {
			c.env.Errorf("Subscriber.Close: %v", err)
		}
	})
}

// stop ends the subscription in the orderly way.
func (c *consumer) stop() {
	c.env.Helper()
	c.cancel()
	wait(c.env, c.ended, "Subscribe to return after its context ended")
	if c.err != nil {
		c.env.Errorf("Subscribe returned %v after its context ended, want nil", c.err)
	}
	c.close()
}

// next returns the next message, unsettled.
func (c *consumer) next() *outbox.Received {
	c.env.Helper()
	select {
	case r := <-c.got:
		return r
	case <-c.ended:
		c.env.Fatalf("Subscribe returned while a message was awaited: %v", c.err)
	case <-time.After(patience):
		c.env.Fatalf("waited %s in vain for a message", patience)
	}
	panic("unreachable")
}

// take returns the next n messages, unsettled.
func (c *consumer) take(n int) []*outbox.Received {
	c.env.Helper()
	out := make([]*outbox.Received, n)
	for i := range out {
		out[i] = c.next()
	}
	return out
}

// handle returns the next n messages, each acknowledged as it came.
func (c *consumer) handle(n int) []*outbox.Received {
	c.env.Helper()
	out := make([]*outbox.Received, n)
	for i := range out {
		out[i] = c.next()
		c.env.settle(out[i], outbox.Ack)
	}
	return out
}

// nothingBut publishes one more message of topic and wants it to be the next that
// arrives: nothing else was waiting.
func (c *consumer) nothingBut(p *publisher, topic string) {
	c.env.Helper()
	fence := message(topic, "fence")
	p.publishAgain(fence)
	r := c.next()
	if r.ID != fence.ID {
		c.env.Errorf("got message %s (topic %s, key %s), want none before the last one", r.ID, r.Topic, r.Key)
		return
	}
	c.env.settle(r, outbox.Ack)
}

func (e *env) settle(r *outbox.Received, how outbox.Outcome) {
	e.Helper()
	if err := r.Settle(outbox.Settlement{Outcome: how}); err != nil {
		e.Errorf("settle message %s: %v", r.ID, err)
	}
}
