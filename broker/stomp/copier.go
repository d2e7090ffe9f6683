package stomp

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

// maxCopies is the greatest number of copies that wait for the broker's receipt.
const maxCopies = 256

var errStopped = errors.New("stomp: the copy is given up: the subscription ends")

var errCopyTimeout = errors.New("stomp: the broker did not confirm the copy in time")

// copier sends copies of messages and waits for their receipts. It has a connection
// of its own, opened when it is needed first: RabbitMQ stops reading from a connection
// that sends while it is short of memory or disk, and must go on reading the
// acknowledgements, which free both.
type copier struct {
	endpoint *endpoint
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

// link is a connection that sends copies, from its opening to its end.
type link struct {
	conn  *stomp.Conn
	ended chan struct{} // closed when nothing is read any more
	err   error         // why; valid after ended

	mu     sync.Mutex
	next   uint64
	flying map[string]chan struct{} // by receipt; closed when it has come
}

func newCopier(e *endpoint, timeout time.Duration, closed <-chan struct{}) *copier {
	return &copier{endpoint: e, timeout: timeout, closed: closed, slots: make(chan struct{}, maxCopies)}
}

// publish returns nil when the broker has taken responsibility for f. Otherwise it
// may have taken it all the same. It gives up when stop is closed, which may be nil.
func (c *copier) publish(f *stomp.Frame, stop <-chan struct{}) error {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-stop:
		return errStopped
	case <-c.closed:
		return errSubscriberClosed
	}
	l, err := c.open(stop)
	if err != nil {
		return err
	}
	timer := time.NewTimer(c.timeout)
	defer timer.Stop()
	receipt, confirmed := l.register()
	defer l.forget(receipt)
	f.Add(headerReceipt, receipt)
	if err := l.send(f); err != nil {
		return err
	}
	select {
	case <-confirmed:
		return nil
	case <-l.ended:
		return l.err
	case <-timer.C:
		_ = l.conn.Close()
		return errCopyTimeout
	case <-stop:
		return errStopped
	case <-c.closed:
		return errSubscriberClosed
	}
}

// open returns the link, a new one if the last is lost.
func (c *copier) open(stop <-chan struct{}) (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case isClosed(c.closed):
		return nil, errSubscriberClosed
	case isClosed(stop):
		return nil, errStopped
	case c.ended:
		return nil, errStale
	case c.link != nil && !isClosed(c.link.ended):
		return c.link, nil
	case time.Now().Before(c.again):
		return nil, c.failed
	}
	if c.link != nil {
		c.link.close()
		c.link = nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // ends with this call
		select {
		case <-c.closed:
			cancel()
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	conn, err := c.endpoint.connect(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, errStopped // the others may try
	}
	if err != nil {
		err = fmt.Errorf("stomp: %w", err)
		c.failed, c.again = err, time.Now().Add(c.endpoint.config.backoff(c.failures))
		c.failures++
		return nil, err
	}
	c.link, c.failures = newLink(conn), 0
	return c.link, nil
}

// close ends the connection, if there is one. Nothing is published any more.
func (c *copier) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.link != nil {
		c.link.close()
		c.link = nil
	}
}

func newLink(conn *stomp.Conn) *link {
	l := &link{conn: conn, ended: make(chan struct{}), flying: make(map[string]chan struct{})}
	go l.read()
	return l
}

func (l *link) read() {
	defer close(l.ended)
	for {
		f, err := l.conn.Read()
		if err != nil {
			l.err = fmt.Errorf("stomp: the copy is not confirmed: %w", err)
			return
		}
		id, _ := f.Get(headerReceiptID)
		l.mu.Lock()
		if confirmed := l.flying[id]; confirmed != nil {
			close(confirmed)
			delete(l.flying, id)
		}
		l.mu.Unlock()
	}
}

// register returns a new receipt, and what is closed when it comes.
func (l *link) register() (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	id, confirmed := strconv.FormatUint(l.next, 10), make(chan struct{})
	l.flying[id] = confirmed
	return id, confirmed
}

func (l *link) forget(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.flying, id)
}

func (l *link) send(f *stomp.Frame) error {
	err := l.conn.Write(f)
	if err == nil {
		err = l.conn.Flush()
	}
	if err != nil {
		return fmt.Errorf("stomp: send the copy: %w", err)
	}
	return nil
}

func (l *link) close() {
	_ = l.conn.Close()
	<-l.ended
}
