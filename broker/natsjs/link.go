package natsjs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// A request for messages ends at the server after pullExpires; the
	// consumption asks again. While one waits the server gives a sign of life
	// each pullHeartbeat, and three missing ones mean that it is gone.
	pullExpires   = 30 * time.Second
	pullHeartbeat = 5 * time.Second
	drainTimeout  = 5 * time.Second
)

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
			c.attach(l)
			err = c.tend(ctx, l)
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
	l.alive()
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

func (c *consumption) attach(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link, c.matcher, c.requested = l, l.matcher, 0
	c.news++
	for _, d := range c.buffer {
		if !d.known {
			c.look(l, d)
		}
	}
	c.request()
	c.signal()
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

// waits reports whether the server owes messages or signs of life.
func (c *consumption) waits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requested > 0
}

// request asks for as many messages as there is room for, but not for a few when
// more are on their way. The caller holds mu.
func (c *consumption) request() {
	room := c.sub.Prefetch - len(c.unsettled) - len(c.buffer) - c.requested
	if c.ending || c.link == nil || room <= 0 || c.requested > 0 && room < max(1, c.sub.Prefetch/4) {
		return
	}
	expires := pullExpires
	if c.link.group != "" {
		expires = min(expires, c.link.ackWait/3) // asking is what keeps the server to this member
	}
	body, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
		Group     string        `json:"group,omitempty"`
		Pin       string        `json:"id,omitempty"`
	}{room, expires, min(pullHeartbeat, expires/2), c.link.group, c.pin})
	if err != nil {
		panic(err) // strings and numbers can always be encoded
	}
	subject := fmt.Sprintf("$JS.API.CONSUMER.MSG.NEXT.%s.%s", c.src.stream, c.src.consumer)
	if err := c.link.conn.PublishRequest(subject, c.link.inbox, body); err == nil {
		c.requested += room
		c.link.alive()
	}
}

// arrive takes what the server sends: messages, and what became of requests.
func (c *consumption) arrive(l *link, msg *nats.Msg) {
	l.alive()
	if !strings.HasPrefix(msg.Reply, "$JS.ACK.") {
		c.status(l, msg)
		return
	}
	d := &delivery{msg: msg, arrived: time.Now()}
	d.position, d.placed = positionOf(msg.Reply)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requested = max(0, c.requested-1)
	if pin := msg.Header[headerPin]; len(pin) > 0 {
		c.pin = pin[0]
	}
	if c.abandoned {
		_ = c.publish(d, nak) // else it comes back after AckWait
		c.unpin()
		return
	}
	c.buffer = append(c.buffer, d)
	if d.known = !c.hasHistory(l, d); !d.known {
		c.look(l, d)
	}
	c.request()
	c.signal()
}

// status takes a message of the server's about a request.
func (c *consumption) status(l *link, msg *nats.Msg) {
	switch code := msg.Header.Get("Status"); code {
	case "100": // a sign of life
	case "423": // the consumer keeps to another member now
		left, err := strconv.Atoi(msg.Header.Get(headerLeft))
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil {
			left = c.requested
		}
		c.pin, c.requested = "", max(0, c.requested-left)
		c.request()
	case "404", "408", "409":
		left, err := strconv.Atoi(msg.Header.Get(headerLeft))
		if err == nil && code == "408" {
			c.mu.Lock()
			c.requested = max(0, c.requested-left)
			c.request()
			c.mu.Unlock()
			return
		}
		fallthrough
	default: // the consumer is gone, or moved, or the request was wrong
		l.fail(errors.New("natsjs: " + code + " " + msg.Header.Get("Description")))
	}
}

// unpin lets the server turn to another member at once. The caller holds mu.
func (c *consumption) unpin() {
	if c.pin == "" || c.link == nil {
		return
	}
	body, err := json.Marshal(struct {
		Group string `json:"group"`
	}{c.link.group})
	if err != nil {
		panic(err) // strings can always be encoded
	}
	_ = c.link.conn.Publish(fmt.Sprintf("$JS.API.CONSUMER.UNPIN.%s.%s", c.src.stream, c.src.consumer), body) // else after AckWait
	c.pin = ""
}

// fail makes the consumption give the link up and connect again.
func (l *link) fail(err error) {
	l.failed.Store(true)
	select {
	case l.broken <- err:
	default:
	}
}

func (l *link) alive() { l.heard.Store(time.Now().UnixNano()) }

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
