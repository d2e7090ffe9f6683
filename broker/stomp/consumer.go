package stomp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
	"github.com/outbox-go/outbox/internal/consuming"
)

// consumer is one running Subscribe.
type consumer struct {
	endpoint *endpoint
	config   *SubscriberConfig
	sub      outbox.Subscription
	queue    string // its name at the broker, also of a subscription to its dead letters
	ready    func()
	receive  func(*outbox.Received)
	closed   <-chan struct{} // closed with the subscriber, which also ends the context

	copier      *copier
	established bool // ready has been called
	unsettled   consuming.Unsettled
}

func newConsumer(s *Subscriber, sub outbox.Subscription, ready func(), receive func(*outbox.Received)) *consumer {
	return &consumer{
		endpoint: s.endpoint, config: &s.config, sub: sub, queue: s.config.queueName(sub.Queue), ready: ready, receive: receive,
		closed: s.closed, copier: newCopier(s.endpoint, s.config.ReceiptTimeout, s.closed),
	}
}

// run subscribes until ctx ends, or for ever.
func (c *consumer) run(ctx context.Context) error {
	log := c.endpoint.config.Logger
	for attempt := 0; ; attempt++ {
		d, err := c.open(ctx)
		if err == nil {
			log.Info("subscribed", "broker", c.endpoint.String(), "queue", c.sub.Queue)
			err = c.serve(ctx, d)
			if d.received || time.Since(d.opened) > c.endpoint.config.ReconnectMax {
				attempt = 0
			}
		} else if ctx.Err() == nil && c.hopeless(err) {
			return err
		}
		if ctx.Err() != nil {
			return c.finish()
		}
		log.Warn("subscription lost", "queue", c.sub.Queue, "error", err)
		if !sleep(ctx, c.endpoint.config.backoff(attempt)) {
			return c.finish()
		}
	}
}

// hopeless reports whether the subscription can never work.
func (c *consumer) hopeless(err error) bool {
	if errors.Is(err, ErrMissing) {
		return !c.established
	}
	return hopeless(err) || unmendable(err)
}

// finish waits for the settlement of what was passed on.
func (c *consumer) finish() error {
	select {
	case <-c.unsettled.None():
		if !isClosed(c.closed) {
			return nil
		}
	case <-c.closed:
	}
	return errSubscriberClosed
}

// open connects, declares and begins to consume. For a queue in order it first waits
// until this member is the one that receives.
func (c *consumer) open(ctx context.Context) (*delivery, error) {
	d, err := c.opened(ctx)
	if err != nil {
		return nil, fmt.Errorf("stomp: queue %q: %w", c.queue, err)
	}
	return d, nil
}

func (c *consumer) opened(ctx context.Context) (*delivery, error) {
	var conn *stomp.Conn
	var err error
	if c.sub.InOrder {
		if conn, err = c.takeOrder(ctx); err != nil {
			return nil, err
		}
	}
	if !c.sub.DeadLetters {
		if err := c.setup(ctx); err != nil {
			if conn != nil {
				_ = conn.Close()
			}
			return nil, err
		}
	}
	if conn == nil {
		if conn, err = c.endpoint.connect(ctx); err != nil {
			return nil, err
		}
	}
	return c.deliver(ctx, conn)
}

// serve passes messages on until the subscription is lost or ctx ends; in the
// latter case it waits for the settlements.
func (c *consumer) serve(ctx context.Context, d *delivery) error {
	defer d.close()
	w := newWaiter(c, d)
	var running, waiting sync.WaitGroup
	stop := make(chan struct{})
	running.Go(func() { d.read(w) })
	running.Go(func() { d.acks.run(d.quit) })
	waiting.Go(func() { w.run(stop) })
	defer running.Wait()
	defer d.part()
	defer waiting.Wait() // what it has sent on is acknowledged
	defer close(stop)
	c.ready()
	c.established = true
	if err := c.consume(ctx, d); err != nil || isClosed(c.closed) {
		return err
	}
	// What is given back from now on waits for the end of the connection, with which
	// the broker takes it back in its order.
	d.keep()
	select {
	case <-c.unsettled.None():
	case <-d.ended:
	case <-c.closed:
	}
	return nil
}

// consume passes messages on until the subscription is lost, which is an error, or
// ctx ends.
func (c *consumer) consume(ctx context.Context, d *delivery) error {
	for {
		select {
		case d.slots <- struct{}{}:
		case <-d.ended:
			return d.err
		case <-ctx.Done():
			return nil
		}
		m, err := d.next(ctx)
		if err != nil || m == nil {
			return err
		}
		d.received = true
		c.receive(c.receipt(d, m))
	}
}
