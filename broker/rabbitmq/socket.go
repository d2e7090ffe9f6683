package rabbitmq

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// socketBuffer is how many bytes may wait to be written before Write blocks.
const socketBuffer = 256 << 10

// flushTimeout bounds the writing of what remains when a socket is closed.
const flushTimeout = 250 * time.Millisecond

// socket writes in the background, so that what is written while a system call
// runs goes out with the next one: each message, and each frame of the library's,
// comes by a Write of its own. Write never fails: when the peer is gone the socket
// is closed, and the reader, which finds out, ends the connection from its own
// goroutine.
type socket struct {
	net.Conn
	*tap

	mu      sync.Mutex
	filled  sync.Cond // there is something to write, or the end
	emptied sync.Cond // there is room, or the socket is broken
	pending []byte
	closed  bool // write what is pending, then end
	broken  bool // write nothing more
	flushed chan struct{}
}

func newSocket(conn net.Conn) *socket {
	s := &socket{Conn: conn, tap: newTap(conn), flushed: make(chan struct{})}
	s.filled.L, s.emptied.L = &s.mu, &s.mu
	go s.flush()
	return s
}

// Read implements [net.Conn].
func (s *socket) Read(b []byte) (int, error) { return s.tap.Read(b) }

// Write copies b and returns; it waits for room if too much is pending.
func (s *socket) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.pending) >= socketBuffer && !s.broken {
		s.emptied.Wait()
	}
	if s.broken || s.closed {
		return len(b), nil
	}
	if len(s.pending) == 0 {
		s.filled.Signal()
	}
	s.pending = append(s.pending, b...)
	return len(b), nil
}

// Close writes what is pending, if the peer takes it at once, and closes the
// connection.
func (s *socket) Close() error {
	s.mu.Lock()
	s.closed = true
	s.filled.Signal()
	s.mu.Unlock()
	_ = s.SetWriteDeadline(time.Now().Add(flushTimeout))
	<-s.flushed
	return s.Conn.Close()
}

// abort closes the connection at once.
func (s *socket) abort() {
	s.breakOff()
	<-s.flushed
}

func (s *socket) breakOff() {
	s.mu.Lock()
	s.broken = true
	s.filled.Signal()
	s.emptied.Broadcast()
	s.mu.Unlock()
	_ = s.below().Close()
}

// below returns the connection below TLS, which says farewell before it closes, and may
// wait for that.
func (s *socket) below() net.Conn {
	if c, ok := s.Conn.(*tls.Conn); ok {
		return c.NetConn()
	}
	return s.Conn
}

func (s *socket) flush() {
	defer close(s.flushed)
	var spare []byte
	for {
		s.mu.Lock()
		for len(s.pending) == 0 && !s.closed && !s.broken {
			s.filled.Wait()
		}
		if s.broken || len(s.pending) == 0 {
			s.mu.Unlock()
			return
		}
		out := s.pending
		s.pending = spare[:0]
		s.emptied.Broadcast()
		s.mu.Unlock()
		if _, err := s.Conn.Write(out); err != nil {
			s.breakOff()
			return
		}
		spare = out
		if cap(spare) > 2*socketBuffer {
			spare = nil // there was a great message, and may never be another
		}
	}
}
