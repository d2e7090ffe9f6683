package stomp

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// deadline is how long a test waits for what must come.
const deadline = 30 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// peer is the server's side of a connection.
type peer struct {
	net.Conn
	decoder *Decoder
}

// serve runs script for each connection that comes, closes it, and returns the
// address to connect to.
func serve(t testing.TB, script func(p *peer)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, script)
}

func serveOn(t testing.TB, l net.Listener, script func(p *peer)) string {
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(deadline))
				script(newPeer(conn))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return l.Addr().String()
}

func newPeer(conn net.Conn) *peer { return &peer{conn, NewDecoder(conn, Limits{})} }

// say sends text, and ends where nobody takes it.
func (p *peer) say(text string) { _, _ = io.WriteString(p.Conn, text) }

// next returns the next frame of the client, or nil when it is gone.
func (p *peer) next() *Frame {
	f, err := p.decoder.Decode()
	if err != nil {
		return nil
	}
	return f
}

// greet reads CONNECT and answers it, with these further headers.
func (p *peer) greet(headers string) *Frame {
	f := p.next()
	p.say("CONNECTED\nversion:1.2\n" + headers + "\n\x00")
	return f
}

// wait returns when the client has closed the connection.
func (p *peer) wait() { _, _ = io.Copy(io.Discard, p.Conn) }

// dialPeer connects to a peer that greets and then runs script.
func dialPeer(t testing.TB, config *Config, script func(p *peer)) *Conn {
	t.Helper()
	config.Addr = serve(t, func(p *peer) {
		p.greet("")
		script(p)
	})
	return dial(t, config)
}

func dial(t testing.TB, config *Config) *Conn {
	t.Helper()
	c, err := Dial(testContext(t), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// readToEnd reads until the connection ends and returns why.
func readToEnd(c *Conn) error {
	for {
		if _, err := c.Read(); err != nil {
			return err
		}
	}
}

func write(t testing.TB, c *Conn, frames ...*Frame) {
	t.Helper()
	for _, f := range frames {
		if err := c.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}
