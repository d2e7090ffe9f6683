package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// maxCopies is the greatest number of copies that wait for the broker's confirm.
const maxCopies = 256

var errCopyTimeout = errors.New("rabbitmq: the broker did not confirm the copy in time")

// copier publishes copies of messages and waits for their confirms. It has a
// connection of its own, opened when it is needed first: the broker stops reading
// from a connection that publishes while it is short of memory or disk, and must
// go on reading the acknowledgements, which free both.
type copier struct {
	endpoint *endpoint
	topology Topology
	timeout  time.Duration
	closed   <-chan struct{} // gives up what is under way
	slots    chan struct{}

	mu       sync.Mutex // held while connecting, too: the others wait for it
	link     *link
	ended    bool  // by close
	failed   error // why there is no link
	failures int
	again    time.Time // not to be tried before
}

// link is a channel in confirm mode, with its connection, from its opening to its
// end.
type link struct {
	conn    *connection
	channel *amqp.Channel
	returns chan amqp.Return
	blocks  chan amqp.Blocking
	closed  chan *amqp.Error

	mu       sync.Mutex
	flying   map[*flight]struct{}
	declared map[string]bool // by name, what need not be declared again
	blocked  bool
	reason   error // why the channel was closed
}

// flight is a copy that is not confirmed.
type flight struct {
	target   *target
	confirm  *amqp.DeferredConfirmation
	returned error
}

func newCopier(e *endpoint, config *SubscriberConfig, closed <-chan struct{}) *copier {
	own := *e
	own.config.Name += ", copies"
	return &copier{
		endpoint: &own, topology: config.Topology, timeout: config.ConfirmTimeout, closed: closed,
		slots: make(chan struct{}, maxCopies),
	}
}

// publish returns nil when the broker has taken responsibility for p. Otherwise it
// may have taken it all the same, unless it has said no.
func (c *copier) publish(t *target, p *amqp.Publishing) error {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-c.closed:
		return errSubscriberClosed
	}
	l, err := c.open()
	if err != nil {
		return err
	}
	if err := fit(p, maxProperties(l.conn.Config.FrameSize)); err != nil {
		return err
	}
	// A broker that reads no more can keep us in writing.
	guard := time.AfterFunc(c.timeout, l.conn.socket.breakOff)
	f, err := l.send(c.topology, t, p)
	guard.Stop()
	if err != nil {
		return err
	}
	timer := time.NewTimer(c.timeout)
	defer timer.Stop()
	select {
	case <-f.confirm.Done():
		return l.outcome(f)
	case <-timer.C:
		return c.giveUp(l, f)
	case <-c.closed:
		return errSubscriberClosed
	}
}

// open returns the link, a new one if the last is lost.
func (c *copier) open() (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case isClosed(c.closed):
		return nil, errSubscriberClosed
	case c.ended:
		return nil, errStale
	case c.link != nil && !c.link.channel.IsClosed():
		return c.link, nil
	case time.Now().Before(c.again):
		return nil, c.failed
	}
	if c.link != nil {
		c.link.conn.close()
		c.link = nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // ends with this call
		select {
		case <-c.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	l, err := openLink(ctx, c.endpoint)
	if err != nil {
		err = fmt.Errorf("rabbitmq: %w", err)
		c.failed, c.again = err, time.Now().Add(c.endpoint.config.backoff(c.failures))
		c.failures++
		return nil, err
	}
	c.link, c.failures = l, 0
	return l, nil
}

func openLink(ctx context.Context, e *endpoint) (*link, error) {
	l := &link{
		returns:  make(chan amqp.Return, maxCopies),
		blocks:   make(chan amqp.Blocking, 8),
		closed:   make(chan *amqp.Error, 1),
		flying:   make(map[*flight]struct{}),
		declared: make(map[string]bool),
	}
	err := e.connect(ctx, func(conn *connection) error {
		ch, err := conn.Channel()
		if err != nil {
			return fmt.Errorf("open channel: %w", err)
		}
		if err := ch.Confirm(false); err != nil {
			return fmt.Errorf("confirm mode: %w", err)
		}
		l.conn, l.channel = conn, ch
		conn.NotifyBlocked(l.blocks)
		ch.NotifyReturn(l.returns)
		ch.NotifyClose(l.closed)
		return nil
	})
	return l, err
}

// send declares what is to be there, if that has not been done on this link, and
// publishes.
func (l *link) send(topology Topology, t *target, p *amqp.Publishing) (*flight, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look()
	if l.blocked {
		return nil, errBlocked
	}
	if topology == Declare && t.entities != nil && !l.declared[t.String()] {
		if err := ensure(l.conn, topology, t.entities()); err != nil {
			return nil, fmt.Errorf("rabbitmq: %w", err)
		}
		l.declared[t.String()] = true
	}
	confirm, err := l.channel.PublishWithDeferredConfirm(t.exchange, t.key, true, false, *p)
	if err != nil {
		return nil, l.lost()
	}
	f := &flight{target: t, confirm: confirm}
	l.flying[f] = struct{}{}
	return f, nil
}

// outcome tells what the broker's answer to f means.
func (l *link) outcome(f *flight) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look() // the return of a message comes before its confirm
	delete(l.flying, f)
	switch {
	case f.returned != nil:
		return f.returned
	case f.confirm.Acked():
		return nil
	case l.channel.IsClosed():
		return l.lost()
	}
	return fmt.Errorf("rabbitmq: %s did not take the copy (basic.nack): is a queue full?", f.target)
}

// look takes what the broker has said besides confirms. A return does not tell
// which message it is of, as ids may be missing or repeated; all that are under way
// to the same place count as returned, since some copy too many is no loss. The
// caller holds l.mu.
func (l *link) look() {
	for {
		select {
		case r, ok := <-l.returns:
			if !ok {
				l.returns = nil
				continue
			}
			for f := range l.flying {
				if f.target.exchange == r.Exchange && f.target.key == r.RoutingKey {
					f.returned = f.target.noteMissing(r)
					delete(l.declared, f.target.String())
				}
			}
		case b, ok := <-l.blocks:
			if !ok {
				l.blocks = nil
				continue
			}
			l.blocked = b.Active
		default:
			return
		}
	}
}

// lost tells why the channel has ended. The caller holds l.mu.
func (l *link) lost() error {
	select {
	case err := <-l.closed:
		if l.reason == nil {
			l.reason = closeReason(err)
		}
	default:
	}
	if l.reason == nil {
		return errLost
	}
	return l.reason
}

// giveUp is called when the broker has not confirmed f in time. While it blocks
// publishers it says nothing else; otherwise the link is broken.
func (c *copier) giveUp(l *link, f *flight) error {
	l.mu.Lock()
	l.look()
	delete(l.flying, f)
	blocked := l.blocked
	l.mu.Unlock()
	if blocked {
		return errBlocked
	}
	l.conn.abort()
	return errCopyTimeout
}

// close ends the connection, if there is one. Nothing is published any more.
func (c *copier) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.link != nil {
		c.link.conn.close()
		c.link = nil
	}
}
