package webhook

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
)

// A server closes what is idle when it likes, perhaps just as a request comes: that is
// no outage.
func TestAnIdleConnectionThatTheServerClosesIsNoOutage(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Structured, Binary, Batched} {
		p := open(t, onceEach(t), &PublisherConfig{Mode: mode})
		for _, m := range messages(3) {
			wantClass(t, p.Send(t.Context(), m), nil)
		}
	}
	p := open(t, onceEach(t), &PublisherConfig{Body: func(m *outbox.Message) (*Request, error) {
		if m.ID == "1" {
			return &Request{Body: m.Payload, Header: http.Header{"Idempotency-Key": {m.ID}}}, nil
		}
		return &Request{Body: m.Payload}, nil
	}})
	for i, want := range []error{nil, nil, outbox.ErrUnavailable} { // the last one does not say that it can be repeated
		wantClass(t, p.Send(t.Context(), messages(3)[i]), want)
	}
}

// onceEach starts a server that answers one request of each connection, and cuts it
// when the second comes.
func onceEach(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(c)
			for n := range 2 {
				r, err := http.ReadRequest(in)
				if err != nil {
					break
				}
				_, _ = io.Copy(io.Discard, r.Body)
				if len(r.Header["Idempotency-Key"]) > 0 && r.Header.Get("Ce-Id") != "" {
					t.Errorf("the header of net/http is sent: %v", r.Header)
				}
				if n == 0 {
					_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
				}
			}
			c.Close()
		}
	}()
	return "http://" + l.Addr().String()
}

func TestTLSOfTheConfiguration(t *testing.T) {
	t.Parallel()
	s := &sink{}
	server := newTLSSink(t, s)
	transport, _ := server.Client().Transport.(*http.Transport)
	secure := transport.TLSClientConfig.Clone()
	secure.NextProtos = nil
	p := open(t, server.URL, &PublisherConfig{TLS: secure})
	publish(t, p, message("1", "")).want(nil)
	if r := s.only(t); r.Proto != "HTTP/2.0" {
		t.Errorf("the request came by %s", r.Proto)
	}
	if secure.NextProtos != nil {
		t.Error("the configuration of the caller was changed")
	}
}

// stalling is a connection whose peer can go silent.
type stalling struct {
	net.Conn
	silent *atomic.Bool
	over   context.Context
}

func (c stalling) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.silent.Load() {
		<-c.over.Done()
		return 0, net.ErrClosed
	}
	return n, err
}

func (c stalling) Close() error { return c.Conn.Close() }

// A connection of HTTP/2 whose peer is gone would be used for ever, with a time-out
// each time.
func TestADeadHTTP2ConnectionIsGivenUp(t *testing.T) {
	t.Parallel()
	server := newTLSSink(t, &sink{})
	over, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	var conns atomic.Int32
	transport := server.Client().Transport.(*http.Transport).Clone()
	first := new(atomic.Bool)
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil || conns.Add(1) > 1 {
			return c, err
		}
		return stalling{c, first, over}, nil
	}
	p := open(t, server.URL, &PublisherConfig{Transport: transport, Timeout: time.Second})
	wantClass(t, p.Send(t.Context(), message("0", "")), nil)
	first.Store(true)
	deadline := time.Now().Add(patience)
	for i := 1; ; i++ {
		err := p.Send(t.Context(), messages(i + 1)[i])
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %d requests by %d connections: %v", i, conns.Load(), err)
		}
	}
}

// Close leaves no connections behind, neither to the publisher's URL nor to others.
func TestCloseClosesIdleConnections(t *testing.T) {
	t.Parallel()
	for _, address := range []func(string) string{func(string) string { return "" }, func(u string) string { return u }} {
		closed := make(chan struct{}, 10)
		server := httptest.NewUnstartedServer(&sink{})
		server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				closed <- struct{}{}
			}
		}
		server.Start()
		t.Cleanup(server.Close)
		p := open(t, server.URL, &PublisherConfig{
			Allow: func(string) bool { return true },
			URL:   func(*outbox.Message) string { return address(server.URL) },
		})
		publish(t, p, message("1", "")).want(nil)
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		receive(t, closed, "the end of the connection")
	}
}

// The user's ways to connect know no guard.
func TestDialFunctionsAreNotUsedForTheURLOfAMessage(t *testing.T) {
	t.Parallel()
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("it was dialled") }
	old := func(string, string) (net.Conn, error) { return nil, errors.New("it was dialled") }
	for name, transport := range map[string]*http.Transport{
		"DialContext":    {DialContext: dial},
		"DialTLSContext": {DialTLSContext: dial},
		"Dial":           {Dial: old},
		"DialTLS":        {DialTLS: old},
	} {
		p := open(t, "", &PublisherConfig{Transport: transport, URL: func(m *outbox.Message) string { return m.Key }})
		for _, address := range []string{"http://127.0.0.1", "https://127.0.0.1"} {
			err := p.Send(t.Context(), message("1", address))
			if !errors.Is(err, outbox.ErrInvalid) {
				t.Errorf("%s, %s: %v", name, address, err)
			}
		}
	}
}
