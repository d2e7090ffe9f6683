package natsjs

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const drainTimeout = 5 * time.Second

// link is one connection of a consumption.
type link struct {
	conn    *conn
	inbox   string
	sub     *nats.Subscription
	drained chan struct{}
	broken  chan error // one: why this connection is of no more use
	failed  atomic.Bool
	heard   atomic.Int64

	// What the server said when the link was made.
	matcher *matcher
	ackWait time.Duration
	group   string    // the consumer's priority group, if it has one
	created time.Time // when the consumer was made
	retried uint64    // the last message for which there was an entry in the bucket

	// The questions about entries, by number; guarded by the consumption's mu.
	lookInbox  string
	lastLook   uint64
	looks      map[uint64]*delivery
	lookWarned bool // one warning is enough
}

// keepConnected keeps a link until ctx ends.
func (c *consumption) keepConnected(ctx context.Context) {
	failures, ever := 0, false
	for ctx.Err() == nil {
		l, err := c.connect(ctx)
		if err == nil {
			ever = true
			c.log.Info("connected", "server", l.conn.ConnectedAddr())
			began := time.Now()
			for err == nil && !c.attach(l) {
				err = c.repay(ctx, l)
			}
			if err == nil {
				err = c.tend(ctx, l)
			}
			c.detach(l)
			if time.Since(began) > c.broker.config.ReconnectMaxWait {
				failures = -1 // it was a good one: try at once
			}
		} else if !ever && isPermanent(err) {
			c.mu.Lock()
			c.fatal = err
			c.mu.Unlock()
			c.signal()
			return
		}
		if ctx.Err() != nil {
			return
		}
		failures++
		c.log.Warn("not connected", "error", err, "failures", failures)
		if !pause(ctx.Done(), c.broker.retryDelay(failures)) {
			return
		}
	}
}

// isPermanent reports whether waiting will not mend err.
func isPermanent(err error) bool {
	var topology *topologyError
	return errors.As(err, &topology) || errors.Is(err, nats.ErrAuthorization)
}

// connect connects and sees to the stream and the consumer.
func (c *consumption) connect(ctx context.Context) (*link, error) {
	conn, err := c.broker.dial(ctx, "subscriber "+c.src.consumer)
	if err != nil {
		return nil, err
	}
	l := &link{
		conn: conn, inbox: conn.NewInbox(), lookInbox: conn.NewInbox() + ".", looks: map[uint64]*delivery{},
		drained: make(chan struct{}), broken: make(chan error, 1),
	}
	l.alive(time.Now())
	if err := c.prepare(ctx, l); err != nil {
		conn.close()
		return nil, err
	}
	return l, nil
}

func (c *consumption) prepare(ctx context.Context, l *link) error {
	asked := time.Now()
	info, err := c.ensure(ctx, l)
	if err != nil {
		return err
	}
	l.ackWait, l.created = info.Config.AckWait, info.Created
	l.matcher = c.src.newMatcher(&info.Config, asked)
	if groups := info.Config.PriorityGroups; len(groups) > 0 {
		l.group = groups[0]
	}
	if _, err := l.conn.Subscribe(l.lookInbox+"*", func(msg *nats.Msg) { c.found(l, msg) }); err != nil {
		return unavailable("subscribe", err)
	}
	l.sub, err = l.conn.Subscribe(l.inbox, func(msg *nats.Msg) { c.arrive(l, msg) })
	if err == nil {
		l.sub.SetClosedHandler(func(string) { close(l.drained) })
		err = errors.Join(l.sub.SetPendingLimits(-1, -1), l.conn.FlushTimeout(c.broker.config.ConnectTimeout))
	}
	if err != nil {
		return unavailable("subscribe", err)
	}
	return nil
}

// ensure sees to all that the subscription needs, the consumer last: from then on
// messages are delivered, to be retried and to die.
func (c *consumption) ensure(ctx context.Context, l *link) (*jetstream.ConsumerInfo, error) {
	b := c.broker
	main, err := b.ensureStream(ctx, l.conn)
	if err != nil {
		return nil, err
	}
	missing := b.ensureDeadStream(ctx, l.conn, main)
	if !c.src.dead {
		l.retried, err = b.ensureBucket(ctx, l.conn, main, c.sub.Queue)
		missing = errors.Join(missing, err)
	}
	if missing != nil && (b.config.Topology == Declare || c.src.dead) {
		return nil, missing
	}
	info, err := b.ensureConsumer(ctx, l.conn, c.src, c.sub)
	return info, errors.Join(missing, err) // all that is missing, at once
}

// attach begins to use l, unless something is owed.
func (c *consumption) attach(l *link) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.owed) > 0 {
		return false
	}
	c.link, c.matcher, c.requested = l, l.matcher, 0
	c.news++
	for _, d := range c.buffer {
		if !d.known {
			c.look(l, d)
		}
	}
	c.request()
	c.signal()
	return true
}

func (c *consumption) detach(l *link) {
	c.mu.Lock()
	c.link = nil
	c.mu.Unlock()
	_ = l.conn.FlushTimeout(c.broker.config.ConnectTimeout) // the last settlements
	l.conn.close()
}

// tend tells the server that unsettled messages are being worked on, until the
// link is of no more use, and returns why.
func (c *consumption) tend(ctx context.Context, l *link) error {
	ticker := time.NewTicker(max(min(l.ackWait/3, pullHeartbeat, lookupPatience), time.Millisecond))
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.conn.lost:
			return errLost
		case err := <-l.broken:
			return err
		case now := <-ticker.C:
			if l.silent(now) && c.waits() {
				return errSilent
			}
			if now.Sub(last) >= l.ackWait/4 {
				last = now
				c.progress()
			}
			c.lookAgain(l, now)
		}
	}
}

// progress renews the server's patience with all that is in our hands.
func (c *consumption) progress() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d := range c.unsettled {
		if !d.released {
			_ = c.publish(d, inProgress) // else the message comes again
		}
	}
	for _, d := range c.buffer {
		_ = c.publish(d, inProgress)
	}
}

// fail makes the consumption give the link up and connect again.
func (l *link) fail(err error) {
	l.failed.Store(true)
	select {
	case l.broken <- err:
	default:
	}
}

func (l *link) alive(now time.Time) { l.heard.Store(now.UnixNano()) }

func (l *link) silent(now time.Time) bool {
	return now.Sub(time.Unix(0, l.heard.Load())) > 3*pullHeartbeat
}

// drain makes the server send nothing more and waits for what is on its way.
func (l *link) drain() {
	if l.sub.Drain() != nil {
		return // the connection has ended
	}
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-l.drained:
	case <-l.conn.lost:
	case <-timer.C:
	}
}
