package stomp

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
)

// deadline is how long a test waits for what must come.
const deadline = 30 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// rabbit returns how to connect to a virtual host of its own.
func rabbit(t *testing.T) *Config {
	t.Helper()
	server := testenv.RabbitMQ(t)
	u, err := url.Parse(server.STOMPURL(server.NewVHost(t)))
	if err != nil {
		t.Fatal(err)
	}
	vhost, err := url.PathUnescape(u.EscapedPath()[1:])
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	return &Config{Addr: u.Host, Host: vhost, Login: u.User.Username(), Passcode: password}
}

func TestRoundTripThroughRabbitMQ(t *testing.T) {
	t.Parallel()
	c, err := Dial(testContext(t), rabbit(t))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(c.Server(), "RabbitMQ/") || c.Session() == "" {
		t.Errorf("server %q, session %q", c.Server(), c.Session())
	}
	sent := &Frame{Command: Send, Body: []byte("a\x00b\n"), Headers: []Header{
		{"destination", "/queue/a"}, {"x-a:b\\c", "d\ne\rf:g\\"}, {"receipt", "one"},
	}}
	write(t, c, sent, &Frame{Command: Subscribe, Headers: []Header{{"destination", "/queue/a"}, {"id", "0"}}})
	got := map[string]*Frame{}
	for range 2 {
		f, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		got[f.Command] = f
	}
	if f := got[Receipt]; f == nil || !slices.Equal(f.Headers, []Header{{"receipt-id", "one"}}) {
		t.Errorf("got %v, want a receipt", f)
	}
	f := got[Message]
	if f == nil {
		t.Fatal("no message")
	}
	if value, _ := f.Get("x-a:b\\c"); value != sent.Headers[1].Value || !bytes.Equal(f.Body, sent.Body) {
		t.Errorf("got %q", f)
	}
	done := make(chan error, 1)
	go func() { done <- c.Disconnect(testContext(t)) }()
	if f, err := c.Read(); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, %v, want %v", f, err, ErrClosed)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func write(t *testing.T, c *Conn, frames ...*Frame) {
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
