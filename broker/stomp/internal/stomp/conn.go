package stomp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// grace is how long Read looks for the reason after a write has failed.
	grace = time.Second
	// chunk is how many bytes the peer has to take within WriteTimeout.
	chunk = 256 << 10
	// disconnectID is the receipt that DISCONNECT asks for.
	disconnectID = "outbox-disconnect"
)

// Conn is a connection. Read is for one goroutine at a time, all others are for any.
// It must be closed, even after an error.
type Conn struct {
	raw             net.Conn // below TLS
	conn            net.Conn
	session, server string
	beatEvery       time.Duration // 0 for no heart-beats of ours
	silence         time.Duration // 0 for any
	writeTimeout    time.Duration

	decoder *Decoder // belongs to Read

	mu   sync.Mutex
	w    *bufio.Writer
	head []byte // of the frame that is being written

	sent     atomic.Bool               // something was, since the last look
	end      atomic.Pointer[time.Time] // after a failed write: when Read is to end
	parted   atomic.Bool               // the server has confirmed DISCONNECT
	stop     sync.Once
	done     chan struct{} // closed when nothing more can be read
	routines sync.WaitGroup

	errMu sync.Mutex
	err   error
}

func newConn(raw, conn net.Conn, config *Config) *Conn {
	c := &Conn{raw: raw, conn: conn, writeTimeout: config.WriteTimeout, done: make(chan struct{})}
	c.decoder = NewDecoder(timedReader{c}, config.Limits)
	c.w = bufio.NewWriterSize(timedWriter{c}, bufferSize)
	return c
}

func (c *Conn) start() {
	if c.beatEvery > 0 {
		c.routines.Go(c.beat)
	}
}

// Session returns the session header of CONNECTED, or "".
func (c *Conn) Session() string { return c.session }

// Server returns the server header of CONNECTED, such as RabbitMQ/3.10.8, or "".
func (c *Conn) Server() string { return c.server }

// Err returns why the connection has ended, or nil.
func (c *Conn) Err() error {
	c.errMu.Lock()
	defer c.errMu.Unlock()
	return c.err
}

// fail notes why the connection ends, unless that is known already, and returns
// what is known.
func (c *Conn) fail(err error) error {
	c.errMu.Lock()
	defer c.errMu.Unlock()
	var said *ServerError
	if c.err == nil || !errors.Is(c.err, ErrClosed) && errors.As(err, &said) {
		c.err = err
	}
	return c.err
}

// Write puts a frame into the buffer, and sends what is there when it is full. f may
// be used again when it returns. A frame that cannot be encoded is an error that
// leaves the connection as it is; see [AppendFrame].
func (c *Conn) Write(f *Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.Err(); err != nil {
		return err
	}
	head, err := appendHead(c.head[:0], f)
	if err != nil {
		return err
	}
	c.head = head
	_, _ = c.w.Write(head) // the first error comes again
	_, _ = c.w.Write(f.Body)
	if err := c.w.WriteByte(0); err != nil {
		return c.failWrite(err)
	}
	return nil
}

// Flush sends what is in the buffer. It waits until the system has taken it, not
// until the server has.
func (c *Conn) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.Err(); err != nil {
		return err
	}
	return c.flush()
}

// flush is called with mu held.
func (c *Conn) flush() error {
	if err := c.w.Flush(); err != nil {
		return c.failWrite(err)
	}
	return nil
}

func (c *Conn) failWrite(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("the server takes no bytes for %v: %w", c.writeTimeout, err)
	}
	end := time.Now().Add(grace)
	if c.end.CompareAndSwap(nil, &end) {
		_ = c.raw.SetReadDeadline(end)
	}
	return c.fail(err)
}

// Read returns the next MESSAGE or RECEIPT; the frame is the caller's own. Any other
// frame ends the connection, ERROR by a [*ServerError]. With the end of Read nobody
// waits in Write or Flush any more.
func (c *Conn) Read() (*Frame, error) {
	select {
	case <-c.done:
		return nil, c.Err()
	default:
	}
	f, err := c.decoder.Decode()
	if err == nil {
		err = c.check(f)
	}
	if err != nil {
		err = c.fail(ended(err))
		c.abort() // who writes must not wait for a server that is gone
		return nil, err
	}
	return f, nil
}

// check returns how a frame ends the connection, if it does.
func (c *Conn) check(f *Frame) error {
	switch f.Command {
	case Message:
		return nil
	case Receipt:
		if id, _ := f.Get("receipt-id"); id == disconnectID {
			c.parted.Store(true)
			return ErrClosed
		}
		return nil
	case Error:
		return serverError(f, false)
	}
	return protocolError("%s from a server on an open connection", f.Command)
}

// ended puts the end of the stream into words.
func ended(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w in the middle of a frame: %w", errLost, err)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return err
}

// Disconnect ends the connection in order: it sends what is in the buffer and
// DISCONNECT, and waits until the server has confirmed that. Other receipts should
// be waited for before; a server need not send them any more. It closes the
// connection in any case, at the end of ctx at the latest, and returns nil if the
// server has confirmed. Somebody must go on reading until Read returns an error,
// which is [ErrClosed] then.
func (c *Conn) Disconnect(ctx context.Context) error {
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, c.abort)
	defer stop()
	if err := c.Write(&Frame{Command: Disconnect, Headers: []Header{{"receipt", disconnectID}}}); err != nil {
		return cause(ctx, err)
	}
	if err := c.Flush(); err != nil {
		return cause(ctx, err)
	}
	<-c.done
	if c.parted.Load() {
		return nil
	}
	return cause(ctx, c.Err())
}

// Close ends the connection at once, and what is in the buffer is lost. It unblocks
// Read, Write and Flush, and may be called again.
func (c *Conn) Close() error {
	c.abort()
	c.routines.Wait()
	return nil
}

// abort does all of Close but wait. Why the connection has ended before remains.
func (c *Conn) abort() {
	_ = c.fail(ErrClosed)
	c.stop.Do(func() { close(c.done) })
	_ = c.raw.Close()
}

// timedReader reads from the connection, and takes a peer that is silent for too
// long for dead.
type timedReader struct{ c *Conn }

func (r timedReader) Read(b []byte) (int, error) {
	c := r.c
	if c.silence > 0 {
		_ = c.conn.SetReadDeadline(time.Now().Add(c.silence))
	}
	// Looked at now, it cannot be missed: a write that fails later sets its deadline later.
	if end := c.end.Load(); end != nil {
		_ = c.conn.SetReadDeadline(*end)
	}
	n, err := c.conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w: nothing came for %v: %w", ErrSilent, c.silence, err)
	}
	return n, err
}

// timedWriter writes to the connection, and takes a peer that does not read for
// dead.
type timedWriter struct{ c *Conn }

func (w timedWriter) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		_ = w.c.conn.SetWriteDeadline(time.Now().Add(w.c.writeTimeout))
		n, err := w.c.conn.Write(b[:min(len(b), chunk)])
		written += n
		if err != nil {
			return written, err
		}
		w.c.sent.Store(true)
		b = b[n:]
	}
	return written, nil
}
