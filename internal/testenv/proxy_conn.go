package testenv

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// proxyConn is one connection through a proxy.
type proxyConn struct {
	proxy          *Proxy
	client, server *net.TCPConn
	once           sync.Once
	done           chan struct{} // closed with the connections
}

// chunk is what one read got, and when it is due on the other side.
type chunk struct {
	data []byte
	due  time.Time
}

// pump carries the bytes of one direction. A delay must not slow the reading down, so reading and writing are apart.
func (c *proxyConn) pump(from, to *net.TCPConn, write func(io.Writer, []byte) (int, error)) {
	const readAhead = 256
	chunks := make(chan chunk, readAhead)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(chunks)
		c.read(from, chunks)
	})
	defer reader.Wait()
	for chunk := range chunks {
		if !c.hold(chunk.due) {
			break
		}
		if _, err := write(to, chunk.data); err != nil {
			c.reset()
			break
		}
	}
	_ = to.CloseWrite() // after a reset it is closed anyway
}

func (c *proxyConn) read(from *net.TCPConn, chunks chan<- chunk) {
	for {
		buf := make([]byte, 16<<10)
		n, err := from.Read(buf)
		if n > 0 {
			select {
			case chunks <- chunk{data: buf[:n], due: time.Now().Add(c.proxy.currentDelay())}:
			case <-c.done:
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				c.reset() // one side's reset is the other's
			}
			return
		}
	}
}

// hold waits until bytes are due and the proxy is not stalled. It returns false if the connection ends before.
func (c *proxyConn) hold(due time.Time) bool {
	if wait := time.Until(due); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.done:
			return false
		}
	}
	select {
	case <-c.proxy.gate():
		return true
	case <-c.done:
		return false
	}
}

func (p *Proxy) gate() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

func (p *Proxy) currentDelay() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delay
}

// reset ends both connections by RST.
func (c *proxyConn) reset() {
	c.end(func() {
		abort(c.client)
		abort(c.server)
	})
}

// hangUp ends the client's connection by RST, and the server's so that it still gets what was written.
func (c *proxyConn) hangUp() {
	c.end(func() {
		abort(c.client)
		_ = c.server.CloseWrite()
		_ = c.server.Close()
	})
}

// close ends both connections in order.
func (c *proxyConn) close() {
	c.end(func() {
		_ = c.client.Close()
		_ = c.server.Close()
	})
}

func (c *proxyConn) end(f func()) {
	c.once.Do(func() {
		close(c.done)
		f()
	})
}

func abort(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}
