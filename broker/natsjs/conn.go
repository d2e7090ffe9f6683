package natsjs

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// conn is one connection to a server. It never reconnects: its end is seen in
// order with what was sent on it, and whoever owns it opens another one.
type conn struct {
	*nats.Conn
	js   jetstream.JetStream
	lost chan struct{} // closed when the connection has ended
}

// dial connects and gives up when ctx ends.
func (b *Broker) dial(ctx context.Context, role string) (*conn, error) {
	c := &conn{lost: make(chan struct{})}
	attempt := &dialer{ctx: ctx}
	defer attempt.release()
	options := []nats.Option{
		nats.Name("outbox " + role + " " + b.config.Stream),
		nats.PingInterval(20 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			b.config.Logger.Warn("nats client error", "role", role, "error", err)
		}),
	}
	options = append(options, b.config.Options...)
	options = append(options,
		nats.Timeout(b.config.ConnectTimeout),
		nats.FlusherTimeout(b.config.ConfirmTimeout),
		nats.NoReconnect(),
		nats.RetryOnFailedConnect(false),
		attempt.option,
		c.observe,
	)
	var err error
	if c.Conn, err = nats.Connect(b.url, options...); err != nil {
		return nil, unavailable("connect", err)
	}
	if c.js, err = jetstream.New(c.Conn, jetstream.WithDefaultTimeout(b.config.ConnectTimeout)); err != nil {
		c.close()
		return nil, unavailable("connect", err)
	}
	return c, nil
}

// observe adds to the user's handler of the connection's end.
func (c *conn) observe(o *nats.Options) error {
	users := o.ClosedCB
	o.ClosedCB = func(nc *nats.Conn) {
		close(c.lost)
		if users != nil {
			users(nc)
		}
	}
	return nil
}

// close ends the connection and waits until it has ended.
func (c *conn) close() {
	c.Close()
	<-c.lost
}

// dialer makes a connection attempt end with its context, also while the server
// says nothing. It lives for one attempt, which is why it may hold a context.
type dialer struct {
	ctx   context.Context
	inner nats.CustomDialer

	mu    sync.Mutex
	stops []func() bool
}

func (d *dialer) option(o *nats.Options) error {
	d.inner = o.CustomDialer
	if d.inner == nil {
		d.inner = &net.Dialer{Timeout: o.Timeout}
	}
	o.CustomDialer = d
	return nil
}

// Dial connects with the user's dialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	if err := d.ctx.Err(); err != nil {
		return nil, err
	}
	c, err := d.inner.Dial(network, address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(d.ctx, func() { _ = c.Close() })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stops = append(d.stops, stop)
	return c, nil
}

// release frees what was dialled from the context.
func (d *dialer) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, stop := range d.stops {
		stop()
	}
}

// SkipTLSHandshake passes on what the user's dialer says.
func (d *dialer) SkipTLSHandshake() bool {
	skip, ok := d.inner.(interface{ SkipTLSHandshake() bool })
	return ok && skip.SkipTLSHandshake()
}

// retryDelay returns how long to wait before the attempt after n failures.
func (b *Broker) retryDelay(n int) time.Duration {
	if n == 0 {
		return 0
	}
	d := firstRetryDelay << min(n-1, 20)
	d = min(d, b.config.ReconnectMaxWait)
	return d - time.Duration(rand.Int64N(int64(d)/2+1))
}

// pause waits for d, or until stop is closed, and reports whether it was not.
func pause(stop <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
		return false
	}
}
