package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox"
	amqp "github.com/rabbitmq/amqp091-go"
)

const consumerTag = "outbox"

// consumer is one running Subscribe.
type consumer struct {
	endpoint *endpoint
	config   *SubscriberConfig
	sub      outbox.Subscription
	ready    func()
	receive  func(*outbox.Received)
	closed   <-chan struct{} // closed with the subscriber, which also ends the context

	established bool // ready has been called
	unsettled   unsettled
}

// delivery is a channel that consumes, from its opening to its end.
type delivery struct {
	conn     *connection
	channel  *amqp.Channel
	messages <-chan amqp.Delivery
	closed   chan *amqp.Error
	opened   time.Time
	received bool // a message has come
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
	case <-c.unsettled.none():
		if !isClosed(c.closed) {
			return nil
		}
	case <-c.closed:
	}
	return errSubscriberClosed
}

// open connects and begins to consume.
func (c *consumer) open(ctx context.Context) (*delivery, error) {
	d := &delivery{closed: make(chan *amqp.Error, 1)}
	err := c.endpoint.connect(ctx, func(conn *connection) error {
		ch, err := conn.Channel()
		if err != nil {
			return fmt.Errorf("open channel: %w", err)
		}
		if err := c.config.ensureQueue(ch, &c.sub); err != nil {
			return err
		}
		if err := ch.Qos(c.sub.Prefetch, 0, false); err != nil {
			return fmt.Errorf("set prefetch: %w", err)
		}
		d.conn, d.channel = conn, ch
		ch.NotifyClose(d.closed)
		d.messages, err = ch.Consume(c.sub.Queue, consumerTag, false, false, false, false, nil)
		return declareError("consume", "queue", c.sub.Queue, err)
	})
	if err != nil {
		return nil, fmt.Errorf("rabbitmq: %w", err)
	}
	d.opened = time.Now()
	return d, nil
}

// serve passes messages on until the subscription is lost or ctx ends; in the
// latter case it gives the rest back and waits for the settlements.
func (c *consumer) serve(ctx context.Context, d *delivery) error {
	defer d.conn.close()
	c.established = true
	c.ready()
	for ctx.Err() == nil {
		select {
		case m, ok := <-d.messages:
			if !ok {
				return d.reason()
			}
			if ctx.Err() != nil {
				_ = d.channel.Reject(m.DeliveryTag, true)
				break
			}
			d.received = true
			c.receive(c.received(d.channel, &m))
		case <-ctx.Done():
		}
	}
	if isClosed(c.closed) {
		return nil
	}
	c.giveBack(d)
	select {
	case <-c.unsettled.none():
	case <-d.closed: //nolint:errcheck // why it was lost does not matter at the end
	case <-c.closed:
	}
	return nil
}

// giveBack stops the deliveries and requeues those that have arrived.
func (c *consumer) giveBack(d *delivery) {
	cancelled := make(chan struct{})
	go func() {
		defer close(cancelled)
		if err := d.channel.Cancel(consumerTag, false); err != nil {
			d.conn.abort() // ends the loop below, whatever the error
		}
	}()
	for m := range d.messages {
		_ = d.channel.Reject(m.DeliveryTag, true)
	}
	<-cancelled
}

// reason tells why there are no more messages.
func (d *delivery) reason() error {
	select {
	case err := <-d.closed:
		return closeReason(err)
	default:
		return errors.New("the broker has cancelled the consumer")
	}
}

// received decodes m. Its Settle belongs to the channel that delivered m, since
// delivery tags begin anew on each.
func (c *consumer) received(ch *amqp.Channel, m *amqp.Delivery) *outbox.Received {
	c.unsettled.add()
	r := &outbox.Received{Message: message(m), Redelivered: m.Redelivered, ReceivedAt: time.Now()}
	tag := m.DeliveryTag
	var settled atomic.Bool
	r.Settle = func(how outbox.Settlement) error {
		if settled.Swap(true) {
			return errSettled // acknowledging twice closes the channel
		}
		defer c.unsettled.remove()
		var err error
		if how.Outcome == outbox.Ack {
			err = ch.Ack(tag, false)
		} else {
			err = ch.Reject(tag, true)
		}
		if errors.Is(err, amqp.ErrClosed) {
			return errStale
		}
		return err
	}
	return r
}

// unsettled counts messages that were passed on and not settled. The zero value is
// ready to use.
type unsettled struct {
	mu   sync.Mutex
	n    int
	zero chan struct{} // closed when n is 0; nil unless somebody waits
}

func (u *unsettled) add() {
	u.mu.Lock()
	u.n++
	u.mu.Unlock()
}

func (u *unsettled) remove() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.n--
	if u.n == 0 && u.zero != nil {
		close(u.zero)
		u.zero = nil
	}
}

// none returns a channel that is closed when nothing is unsettled. It is called
// when nothing more is added.
func (u *unsettled) none() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.zero == nil {
		u.zero = make(chan struct{})
	}
	zero := u.zero
	if u.n == 0 {
		close(u.zero)
		u.zero = nil
	}
	return zero
}
