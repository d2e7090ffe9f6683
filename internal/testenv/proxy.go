package testenv

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy is a TCP proxy before a server that disturbs the connections through it on demand. Its methods may be called
// from any goroutine.
type Proxy struct {
	target string
	port   *port
	wg     sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	listener net.Listener
	conns    map[*proxyConn]struct{}
	open     chan struct{} // closed while bytes flow
	delay    time.Duration

	budgetMu sync.Mutex    // taken before mu
	cut      chan struct{} // nil unless a cut is to come
	budget   int64         // bytes to the server that are left until then
}

// NewProxy starts a proxy before the server at that address. It ends with the test.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	taken, err := takePort()
	must(tb, err)
	p := &Proxy{target: target, port: taken, conns: map[*proxyConn]struct{}{}, open: make(chan struct{})}
	close(p.open)
	must(tb, p.listen())
	tb.Cleanup(p.close)
	return p
}

// Addr returns the address that clients connect to.
func (p *Proxy) Addr() string { return p.port.addr() }

// Cut resets all connections there are, on both sides. New ones are accepted.
func (p *Proxy) Cut() {
	p.cutAll((*proxyConn).reset)
}

// CutAfter cuts once, after exactly n more bytes have gone from clients to the server, of all connections together.
// These bytes do reach the server. The channel is closed at the cut. Another call takes the place of one whose cut is
// still to come.
func (p *Proxy) CutAfter(n int64) <-chan struct{} {
	p.budgetMu.Lock()
	defer p.budgetMu.Unlock()
	p.budget, p.cut = n, make(chan struct{})
	return p.cut
}

// Stall holds all bytes, in both directions. Connections remain open, and new ones are accepted.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flowing() {
		p.open = make(chan struct{})
	}
}

// Resume ends a stall; what was held is delivered.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.flowing() {
		close(p.open)
	}
}

// Refuse has new connections refused, as by a host without the server. Those there are go on.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		stopListening(p.listener)
		p.listener = nil
	}
}

// Accept ends Refuse. It panics if somebody else listens on the port by now.
func (p *Proxy) Accept() {
	if err := p.listen(); err != nil {
		panic("testenv: proxy: " + err.Error())
	}
}

// Delay holds every byte that arrives from now on for d, each way. The throughput remains as it is.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Connections returns the number of connections there are.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

func (p *Proxy) flowing() bool {
	select {
	case <-p.open:
		return true
	default:
		return false
	}
}

func (p *Proxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.listener != nil {
		return nil
	}
	l, err := p.port.listen()
	if err != nil {
		return err
	}
	p.listener = l
	p.wg.Go(func() { p.serve(l) })
	return nil
}

func (p *Proxy) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed by Refuse or close
		}
		p.wg.Go(func() { p.handle(conn.(*net.TCPConn)) })
	}
}

// handle connects a client with the server until both directions have ended.
func (p *Proxy) handle(client *net.TCPConn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		abort(client)
		return
	}
	c := &proxyConn{proxy: p, client: client, server: server.(*net.TCPConn), done: make(chan struct{})}
	if !p.add(c) {
		c.reset()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.pump(c.client, c.server, p.upstream) })
	both.Go(func() { c.pump(c.server, c.client, io.Writer.Write) })
	both.Wait()
	c.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) add(c *proxyConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.conns[c] = struct{}{}
	}
	return !p.closed
}

// upstream writes bytes to the server, as many as CutAfter leaves. Counting and writing are one step, so that no
// connection is cut while another still writes bytes that were counted.
func (p *Proxy) upstream(w io.Writer, b []byte) (int, error) {
	p.budgetMu.Lock()
	if p.cut == nil {
		p.budgetMu.Unlock()
		return w.Write(b)
	}
	defer p.budgetMu.Unlock()
	n, err := w.Write(b[:min(int64(len(b)), p.budget)])
	p.budget -= int64(n)
	if p.budget > 0 || err != nil {
		return n, err
	}
	p.cutAll((*proxyConn).hangUp)
	close(p.cut)
	p.cut = nil
	return n, net.ErrClosed
}

func (p *Proxy) cutAll(end func(*proxyConn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		end(c)
	}
}

func (p *Proxy) close() {
	p.Refuse()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Cut()
	p.wg.Wait()
	p.port.release()
}
