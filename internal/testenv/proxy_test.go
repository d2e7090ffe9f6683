package testenv_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
)

// patience is for what comes at once unless the proxy is broken.
const patience = 10 * time.Second

// peer is a server that hands over its connections.
type peer struct {
	addr  string
	conns chan net.Conn
}

func newPeer(t *testing.T) *peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p := &peer{addr: l.Addr().String(), conns: make(chan net.Conn, 10)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.conns <- conn
		}
	}()
	return p
}

// pair returns both ends of a new connection through the proxy.
func pair(t *testing.T, proxy *testenv.Proxy, p *peer) (client, server net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", proxy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	server = <-p.conns
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
	})
	for _, c := range []net.Conn{client, server} {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	return client, server
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

// expectSilence reports bytes that should have been held; nothing tells of what does not come, so it waits a little.
func expectSilence(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	var b [1]byte
	if n, err := conn.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v; want none", n, err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
}

func expectReset(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("connection ends with %v, want a reset", err)
	}
}

func TestProxyCarriesBytesAndTheirEnd(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	client, server := pair(t, testenv.NewProxy(t, p.addr), p)
	send(t, client, "ask")
	expect(t, server, "ask")
	if err := client.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(server); err != nil || len(rest) > 0 {
		t.Errorf("read %q, %v after the end", rest, err)
	}
	send(t, server, "answer")
	expect(t, client, "answer")
}

func TestProxyCutResetsBothSidesAndTakesNewConnections(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	proxy := testenv.NewProxy(t, p.addr)
	client, server := pair(t, proxy, p)
	send(t, client, "x")
	expect(t, server, "x")
	proxy.Cut()
	expectReset(t, client)
	expectReset(t, server)
	client, server = pair(t, proxy, p)
	send(t, client, "again")
	expect(t, server, "again")
}

func TestProxyCutAfterLetsExactlySoManyBytesThrough(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	proxy := testenv.NewProxy(t, p.addr)
	client, server := pair(t, proxy, p)
	cut := proxy.CutAfter(5)
	send(t, client, "abc")
	expect(t, server, "abc")
	send(t, client, "defgh")
	expect(t, server, "de")
	if rest, err := io.ReadAll(server); err != nil || len(rest) > 0 {
		t.Errorf("read %q, %v after the cut", rest, err)
	}
	<-cut
	expectReset(t, client)
	client, server = pair(t, proxy, p)
	send(t, client, "much longer than that")
	expect(t, server, "much longer than that")
}

func TestProxyStallHoldsBothDirectionsUntilResumed(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	proxy := testenv.NewProxy(t, p.addr)
	client, server := pair(t, proxy, p)
	proxy.Stall()
	send(t, client, "ask")
	send(t, server, "answer")
	expectSilence(t, server)
	expectSilence(t, client)
	proxy.Resume()
	expect(t, server, "ask")
	expect(t, client, "answer")
	proxy.Stall()
	proxy.Cut()
	expectReset(t, client)
}

func TestProxyRefusesNewConnectionsOnly(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	proxy := testenv.NewProxy(t, p.addr)
	client, server := pair(t, proxy, p)
	proxy.Refuse()
	if _, err := net.Dial("tcp", proxy.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v, want a refusal", err)
	}
	send(t, client, "still")
	expect(t, server, "still")
	proxy.Accept()
	client, server = pair(t, proxy, p)
	send(t, client, "new")
	expect(t, server, "new")
}

func TestProxyDelayHoldsEachWay(t *testing.T) {
	t.Parallel()
	const delay = 40 * time.Millisecond
	p := newPeer(t)
	proxy := testenv.NewProxy(t, p.addr)
	proxy.Delay(delay)
	client, server := pair(t, proxy, p)
	start := time.Now()
	for range 5 {
		send(t, client, "ask")
	}
	expect(t, server, "askaskaskaskask")
	send(t, server, "answer")
	expect(t, client, "answer")
	if took := time.Since(start); took < 2*delay {
		t.Errorf("there and back took %v, want at least %v", took, 2*delay)
	}
}

func TestProxyWithoutServerResetsItsClients(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := l.Addr().String()
	_ = l.Close()
	client, err := net.Dial("tcp", testenv.NewProxy(t, target).Addr())
	if errors.Is(err, syscall.ECONNRESET) {
		return // before Dial had looked at its connection
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	expectReset(t, client)
}
