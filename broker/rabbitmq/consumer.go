package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/consuming"
	amqp "github.com/rabbitmq/amqp091-go"
)

const consumerTag = "outbox"

// consumer is one running Subscribe.
type consumer struct {
	endpoint *endpoint
	config   *SubscriberConfig
	sub      outbox.Subscription
	queue    string // its name at the broker, also of a subscription to its dead letters
	ready    func()
	receive  func(*outbox.Received)
	closed   <-chan struct{} // closed with the subscriber, which also ends the context

	ladder      ladder
	copier      *copier
	established bool // ready has been called
	unsettled   consuming.Unsettled
	forwards    sync.WaitGroup // messages on their way to another delay queue
}

// delivery is a channel that consumes, from its opening to its end.
type delivery struct {
	conn     *connection
	channel  *amqp.Channel
	arrived  *deliveries
	consumed <-chan amqp.Delivery // gets nothing, and is closed when nothing more comes
	closed   chan *amqp.Error
	ended    chan struct{} // closed when what it delivered cannot be settled any more
	ledger   *ledger
	opened   time.Time
	received bool // a message has come
}

// run subscribes until ctx ends, or for ever.
func (c *consumer) run(ctx context.Context) error {
	defer c.forwards.Wait()
	log := c.endpoint.config.Logger
	for attempt := 0; ; attempt++ {
		d, err := c.open(ctx)
		if err == nil {
			log.Info("subscribed", "broker", d.conn.address.String(), "queue", c.sub.Queue)
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

// hopeless reports whether the subscription can never work: with several brokers,
// by none of them.
func (c *consumer) hopeless(err error) bool {
	var several failures
	if errors.As(err, &several) {
		return !slices.ContainsFunc(several, func(err error) bool { return !c.hopeless(err) })
	}
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

func newDelivery(conn *connection, ch *amqp.Channel, prefetch int) *delivery {
	return &delivery{
		conn: conn, channel: ch, arrived: newDeliveries(), ledger: newLedger(ch, prefetch),
		closed: make(chan *amqp.Error, 1), ended: make(chan struct{}),
	}
}

// open connects and begins to consume.
func (c *consumer) open(ctx context.Context) (*delivery, error) {
	var d *delivery
	err := c.endpoint.connect(ctx, func(conn *connection) error {
		if err := ensure(conn, c.config.Topology, c.config.entities(&c.sub)); err != nil {
			return err
		}
		ch, err := conn.Channel()
		if err != nil {
			return fmt.Errorf("open channel: %w", err)
		}
		if err := ch.Qos(c.sub.Prefetch, 0, false); err != nil {
			return fmt.Errorf("set prefetch: %w", err)
		}
		// One for each host: the library closes what it has been given.
		d = newDelivery(conn, ch, c.sub.Prefetch)
		ch.NotifyClose(d.closed)
		queue := c.queue
		if c.sub.DeadLetters {
			queue = deadLetterQueue(queue)
		}
		conn.socket.intercept(d.arrived)
		d.consumed, err = ch.Consume(queue, consumerTag, false, false, false, false, nil)
		return declareError("consume", "queue", queue, err)
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
	var flushing sync.WaitGroup
	flushing.Go(func() { d.ledger.run(d.ended) })
	defer flushing.Wait()
	defer close(d.ended)
	c.established = true
	c.ready()
	if err := c.consume(ctx, d); err != nil || isClosed(c.closed) {
		return err
	}
	if c.sub.InOrder {
		// To cancel the consumer would let another member begin, before what is under
		// way here. The end of the channel gives all back at once, in order.
		d.ledger.keep()
	} else {
		c.giveBack(d)
	}
	c.forwards.Wait()
	select {
	case <-c.unsettled.None():
	case <-d.closed: //nolint:errcheck // why it was lost does not matter at the end
	case <-c.closed:
	}
	return nil
}

// consume passes messages on until the subscription is lost, which is an error, or
// ctx ends.
func (c *consumer) consume(ctx context.Context, d *delivery) error {
	var batch []*arrival
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.consumed:
			return d.reason()
		case err := <-d.arrived.failed:
			return err
		case <-d.arrived.wake:
			d.received = true
			batch = d.arrived.all(batch)
			for i, a := range batch {
				if ctx.Err() != nil {
					if !c.sub.InOrder {
						d.reject(batch[i:])
					}
					return nil
				}
				if d.channel.IsClosed() {
					break // what it delivered comes again
				}
				batch[i] = nil
				c.pass(ctx, d, a)
			}
		}
	}
}

// pass passes a message on, to whom it is for or to another delay.
func (c *consumer) pass(ctx context.Context, d *delivery, a *arrival) {
	if at, ok := a.Headers[headerRetryAt]; ok && !c.sub.DeadLetters {
		if left := untilRetry(at, time.Now()); left > 0 {
			c.forward(ctx, d, &a.Delivery, left)
			return
		}
	}
	c.receive(c.receipt(d, a))
}

// reject gives messages back that were not passed on.
func (d *delivery) reject(list []*arrival) {
	for _, a := range list {
		_ = d.channel.Reject(a.DeliveryTag, true)
	}
}

// forwardPause is the wait before a message is given back that could not be sent
// on, since it comes again at once.
const forwardPause = time.Second

// forward sends a message that came before its time to the next delay queue.
func (c *consumer) forward(ctx context.Context, d *delivery, m *amqp.Delivery, left time.Duration) {
	e := &entry{tag: m.DeliveryTag}
	d.ledger.add(e)
	c.forwards.Go(func() {
		cleanHeaders(m.Headers, c.queue)
		p := copyOf(m)
		t, err := c.retryTarget(&p, left)
		if err == nil {
			err = c.copier.publish(t, &p)
		}
		if err == nil {
			_ = d.ledger.ack(e) // else it comes again, and so do its copies
			return
		}
		c.endpoint.config.Logger.Warn("message not delayed further", "queue", c.sub.Queue, "id", m.MessageId, "error", err)
		sleep(ctx, forwardPause)
		_ = d.ledger.requeue(e)
	})
}

// giveBack stops the deliveries and requeues those that have arrived.
func (c *consumer) giveBack(d *delivery) {
	if err := d.channel.Cancel(consumerTag, false); err != nil {
		d.conn.abort()
	}
	d.reject(d.arrived.all(nil))
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
