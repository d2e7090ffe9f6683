package natsjs

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outbox-go/outbox"
)

// consumption is one running Subscribe: what outlives its connections.
type consumption struct {
	broker *Broker
	sub    outbox.Subscription
	src    source
	log    *slog.Logger
	wake   chan struct{} // one token: there may be something to do
	gone   chan struct{} // closed by abandon

	mu        sync.Mutex
	link      *link                  // the connection, nil while there is none
	matcher   *matcher               // what the queue collects
	buffer    []*delivery            // arrived and not passed on
	unsettled map[*delivery]struct{} // passed on
	owed      map[*delivery][]byte   // settled without a connection, and by which word
	newest    uint64                 // the greatest sequence that has arrived
	requested int                    // asked for and not arrived
	pin       string                 // the server's word for us, if it keeps the queue to us
	ending    bool                   // nothing more is asked for
	abandoned bool                   // settling is over
	fatal     error                  // why the subscription can never work
	news      int                    // connections that ready was not yet called for
}

// delivery is one message as it arrived.
type delivery struct {
	msg     *nats.Msg
	reply   string // where it is settled; guarded by mu
	arrived time.Time
	position
	placed bool // position is known

	// What the bucket has of the message; guarded by the consumption's mu until
	// the message is passed on.
	known bool      // it was looked up, or there can be nothing
	entry *entry    // nil if there is none
	asked time.Time // when it was last asked for
	late  bool      // others need not wait until it is known

	// Guarded by mu.
	claimed  bool // it is being settled
	released bool // there must be no more signs of life

	received outbox.Received // what is passed on; here, since it is one allocation less
}

func newConsumption(b *Broker, sub outbox.Subscription) *consumption {
	src := b.source(sub)
	return &consumption{
		broker: b, sub: sub, src: src,
		log:  b.config.Logger.With("role", "subscriber", "stream", src.stream, "queue", sub.Queue),
		wake: make(chan struct{}, 1), gone: make(chan struct{}),
		unsettled: map[*delivery]struct{}{}, owed: map[*delivery][]byte{},
	}
}

// run is Subscribe, from the goroutine that calls receive.
func (c *consumption) run(ctx context.Context, ready func(), receive func(*outbox.Received)) error {
	connecting, stop := context.WithCancel(context.Background())
	var keeping sync.WaitGroup
	keeping.Go(func() { c.keepConnected(connecting) })
	defer keeping.Wait()
	defer stop()
	for ctx.Err() == nil {
		d, err := c.next(ctx, ready)
		if err != nil {
			return err
		}
		if d != nil {
			receive(c.received(d))
			continue
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
		case <-c.gone:
		}
	}
	return c.wind()
}

// next returns the next message to pass on, nil if there is none. It calls ready
// for each new connection before the messages that came by it.
func (c *consumption) next(ctx context.Context, ready func()) (*delivery, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if err := c.fault(); err != nil {
			return nil, err
		}
		if c.news > 0 {
			c.news--
			c.mu.Unlock()
			ready()
			c.mu.Lock()
			continue
		}
		i := c.first()
		if ctx.Err() != nil || i < 0 || len(c.unsettled) >= c.sub.Prefetch {
			return nil, nil
		}
		d := c.buffer[i]
		switch c.matcher.judge(c.src.topicOf(d.msg), d.arrived) {
		case wanted:
			early := d.early()
			if early == 0 {
				c.remove(i)
				c.unsettled[d] = struct{}{}
				return d, nil
			}
			if !c.sendBack(i, early) {
				return nil, nil
			}
		case unwanted:
			c.remove(i)
			_ = c.publish(d, ack) // else it comes back after AckWait
			c.request()
		case unknown:
			if !c.renewMatcher(ctx) {
				return nil, nil
			}
		}
	}
}

// first returns the index in the buffer of the next message to pass on, -1 if
// there is none. The caller holds mu.
func (c *consumption) first() int {
	for i, d := range c.buffer {
		if d.known {
			return i
		}
		if !d.late {
			return -1
		}
	}
	return -1
}

// remove takes message i out of the buffer. The caller holds mu.
func (c *consumption) remove(i int) {
	if i > 0 {
		c.buffer = slices.Delete(c.buffer, i, i+1)
		return
	}
	c.buffer[0] = nil
	c.buffer = c.buffer[1:]
}

// sendBack lets message i in the buffer come again later. Where it cannot, the
// next connection wakes the consumption. The caller holds mu.
func (c *consumption) sendBack(i int, later time.Duration) bool {
	if c.publish(c.buffer[i], nakAfter(later)) != nil {
		return false
	}
	c.remove(i)
	c.request()
	return true
}

// renewMatcher asks the server what the queue collects now. Where it cannot, the
// connection is renewed, which asks too, and wakes the consumption; but not where
// ctx has ended, since what is unsettled is settled by the connection. The caller
// holds mu, which is released meanwhile.
func (c *consumption) renewMatcher(ctx context.Context) bool {
	l := c.link
	if l == nil {
		return false
	}
	c.mu.Unlock()
	asked := time.Now()
	consumer, err := l.conn.js.Consumer(ctx, c.src.stream, c.src.consumer)
	c.mu.Lock()
	if err != nil {
		if ctx.Err() == nil {
			l.fail(err)
		}
		return false
	}
	c.matcher = c.src.newMatcher(&consumer.CachedInfo().Config, asked)
	return true
}

// fault tells why the subscription is over. The caller holds mu.
func (c *consumption) fault() error {
	if c.abandoned {
		return errClosed
	}
	return c.fatal
}

// wind ends the subscription in order: it gives back what was not passed on and
// waits for the rest to be settled, and a while for a connection if some of it could
// not be told.
func (c *consumption) wind() error {
	c.mu.Lock()
	c.ending = true
	l := c.link
	c.mu.Unlock()
	if l != nil {
		l.drain()
	}
	c.mu.Lock()
	for _, d := range c.buffer {
		_ = c.publish(d, nak) // else it comes back after AckWait
	}
	c.buffer = nil
	c.unpin()
	c.mu.Unlock()
	var expired <-chan time.Time
	for {
		c.mu.Lock()
		left, owed, err := len(c.unsettled), len(c.owed), c.fault()
		c.mu.Unlock()
		if left == 0 && owed == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if left == 0 && expired == nil {
			expired = time.After(c.broker.config.ConnectTimeout)
		}
		select {
		case <-c.wake:
		case <-c.gone:
		case <-expired:
			c.log.Warn("settlements not sent: the messages come again", "messages", owed)
			return nil
		}
	}
}

// abandon gives everything back at once.
func (c *consumption) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.abandoned {
		return
	}
	c.abandoned, c.ending = true, true
	if c.link != nil {
		_ = c.link.sub.Drain() // it must not be given to us again; what is on its way is
	}
	for d := range c.unsettled {
		_ = c.publish(d, nak) // else it comes back after AckWait
	}
	for _, d := range c.buffer {
		_ = c.publish(d, nak)
	}
	clear(c.unsettled)
	clear(c.owed)
	c.buffer = nil
	c.unpin()
	close(c.gone)
	if c.link != nil {
		_ = c.link.conn.FlushTimeout(c.broker.config.ConnectTimeout) // else, again, after AckWait
	}
}

func (c *consumption) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// publish tells the server something about a message. The caller holds mu.
func (c *consumption) publish(d *delivery, what []byte) error {
	if c.link == nil {
		return errConnecting
	}
	if err := c.link.conn.Publish(d.reply, what); err != nil {
		return unavailable("settle", err)
	}
	return nil
}

// read reads the message of a delivery. A failure among its headers is another
// queue's, or that of a dead letter that somebody has published again.
func (c *consumption) read(d *delivery, m *outbox.Message) {
	m.Topic, m.Payload, m.CreatedAt = c.src.topicOf(d.msg), d.msg.Data, d.stored
	readHeader(d.msg.Header, m)
	takeFailure(m)
}

// received makes what is passed on.
func (c *consumption) received(d *delivery) *outbox.Received {
	r := &d.received
	r.ReceivedAt, r.Redelivered = d.arrived, d.times > 1 || d.entry != nil
	switch {
	case c.src.dead:
		r.Topic, r.Payload, r.CreatedAt = c.src.topicOf(d.msg), d.msg.Data, d.stored
		r.Failure = readDead(d.msg.Header, &r.Message)
	case d.entry != nil:
		r.Failure = outbox.TakeFailure(d.entry.Failure)
		fallthrough
	default:
		c.read(d, &r.Message)
	}
	r.Settle = func(how outbox.Settlement) error { return c.settle(d, how) }
	return r
}
