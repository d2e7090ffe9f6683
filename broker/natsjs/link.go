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
	matcher *matcher
	drained chan struct{}
	broken  chan error // one: why this connection is of no more use
	heard   atomic.Int64
	ackWait time.Duration
}

// keepConnected keeps a link until ctx ends.
func (c *consumption) keepConnected(ctx context.Context) {
	log := c.broker.config.Logger.With("role", "subscriber", "stream", c.broker.config.Stream, "queue", c.sub.Queue)
	failures, ever := 0, false
	for ctx.Err() == nil {
		l, err := c.connect(ctx)
		if err == nil {
			ever = true
			log.Info("connected", "server", l.conn.ConnectedAddr())
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
		log.Warn("not connected", "error", err, "failures", failures)
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
	conn, err := c.broker.dial(ctx, "subscriber "+c.name)
	if err != nil {
		return nil, err
	}
	l := &link{
		conn: conn, inbox: conn.NewInbox(),
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
	if err := c.broker.ensureStream(ctx, l.conn); err != nil {
		return err
	}
	asked := time.Now()
	config, err := c.broker.ensureConsumer(ctx, l.conn, c.sub.Queue, c.sub.Topics)
	if err != nil {
		return err
	}
	l.ackWait = config.AckWait
	l.matcher = c.broker.newMatcher(config, asked)
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

func (c *consumption) attach(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link, c.matcher, c.requested = l, l.matcher, 0
	c.news++
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
	ticker := time.NewTicker(max(min(l.ackWait/3, pullHeartbeat), time.Millisecond))
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
		}
	}
}

// progress renews the server's patience with all that is in our hands.
func (c *consumption) progress() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d := range c.unsettled {
		_ = c.publish(d, inProgress) // else the message comes again
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
	body, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{room, pullExpires, pullHeartbeat})
	if err != nil {
		panic(err) // numbers can always be encoded
	}
	subject := fmt.Sprintf("$JS.API.CONSUMER.MSG.NEXT.%s.%s", c.broker.config.Stream, c.name)
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
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requested = max(0, c.requested-1)
	if c.abandoned {
		_ = c.publish(d, nak) // else it comes back after AckWait
		return
	}
	c.buffer = append(c.buffer, d)
	c.request()
	c.signal()
}

// status takes a message of the server's about a request.
func (c *consumption) status(l *link, msg *nats.Msg) {
	switch code := msg.Header.Get("Status"); code {
	case "100": // a sign of life
	case "404", "408", "409":
		left, err := strconv.Atoi(msg.Header.Get("Nats-Pending-Messages"))
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

// fail makes the consumption give the link up and connect again.
func (l *link) fail(err error) {
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

// topicOf returns the topic of a message.
func (b *Broker) topicOf(msg *nats.Msg) string {
	return strings.TrimPrefix(msg.Subject, b.config.SubjectPrefix)
}
