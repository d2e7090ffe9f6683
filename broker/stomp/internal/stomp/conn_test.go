package stomp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
)

// rabbit returns how to connect to a virtual host of its own.
func rabbit(t *testing.T) *Config {
	t.Helper()
	server := testenv.RabbitMQ(t)
	u, err := url.Parse(server.STOMPURL(server.NewVHost(t)))
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	return &Config{Addr: u.Host, Host: strings.TrimPrefix(u.Path, "/"), Login: u.User.Username(), Passcode: password}
}

func TestRoundTripThroughRabbitMQ(t *testing.T) {
	t.Parallel()
	c := dial(t, rabbit(t))
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
}

func TestRabbitMQRefusesConnections(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change      func(c *Config)
		want        string
		credentials bool
	}{
		"password":     {func(c *Config) { c.Passcode = "wrong-secret" }, "Access refused for user 'guest'", true},
		"user":         {func(c *Config) { c.Login = "nobody" }, "Access refused for user 'nobody'", true},
		"virtual host": {func(c *Config) { c.Host = "nowhere:\\" }, `Virtual host 'nowhere:\' access denied`, false},
	} {
		config := rabbit(t)
		test.change(config)
		_, err := Dial(testContext(t), config)
		var refused *ServerError
		if !errors.As(err, &refused) || refused.Body != test.want || refused.CredentialsRefused() != test.credentials {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error tells the passcode: %v", name, err)
		}
	}
}

func TestAnyPasscodeCanBeSent(t *testing.T) {
	t.Parallel()
	config := rabbit(t)
	config.Login = config.Host + "-user"
	server := testenv.RabbitMQ(t)
	t.Cleanup(func() {
		server.Eval(fmt.Sprintf(`rabbit_auth_backend_internal:delete_user(<<"%s">>, <<"test">>).`, config.Login))
	})
	for _, passcode := range []string{"a:b", `a\nb\x\`, "a\nb\r", " a ", "\u00fc\U0001f600"} {
		server.Eval(fmt.Sprintf(`rabbit_auth_backend_internal:put_user(#{name => <<"%s">>, password => list_to_binary(%s), tags => <<"">>},
			<<"3.10">>, <<"test">>).`, config.Login, erlang(passcode)))
		server.Eval(fmt.Sprintf(`rabbit_auth_backend_internal:set_permissions(<<"%s">>, <<"%s">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>).`,
			config.Login, config.Host))
		config.Passcode = passcode
		_ = dial(t, config).Close()
	}
}

// erlang returns the bytes of s as a list in Erlang.
func erlang(s string) string {
	return strings.ReplaceAll(fmt.Sprint([]byte(s)), " ", ",")
}

func TestRabbitMQEndsAConnectionByAReason(t *testing.T) {
	t.Parallel()
	c := dial(t, rabbit(t))
	write(t, c, &Frame{Command: Send, Headers: []Header{{"destination", "/exchange/missing/a"}, {"receipt", "1"}}})
	var reason *ServerError
	if err := readToEnd(c); !errors.As(err, &reason) || reason.Handshake || reason.Message != "not_found" || !strings.Contains(reason.Body, "no exchange 'missing'") {
		t.Errorf("got %v", err)
	}
}

func TestDisconnectIsConfirmed(t *testing.T) {
	t.Parallel()
	c := dial(t, rabbit(t))
	if err := c.Write(&Frame{Command: Send, Headers: []Header{{"destination", "/queue/a"}}}); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { read <- readToEnd(c) }()
	if err := c.Disconnect(testContext(t)); err != nil {
		t.Error(err)
	}
	if err := <-read; !errors.Is(err, ErrClosed) {
		t.Errorf("Read returns %v, want %v", err, ErrClosed)
	}
	if err := c.Disconnect(testContext(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("the second Disconnect returns %v, want %v", err, ErrClosed)
	}
}

func TestDisconnectTellsThatItWasNotConfirmed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer string
		want   string
	}{
		"closed":        {"", "the server has closed the connection"},
		"error":         {"ERROR\nmessage:no\n\n\x00", "the server answers: no"},
		"other receipt": {"RECEIPT\nreceipt-id:1\n\n\x00", "the server has closed the connection"},
	} {
		c := dialPeer(t, &Config{}, func(p *peer) {
			p.next()
			p.say(test.answer)
		})
		var running sync.WaitGroup
		running.Go(func() { _ = readToEnd(c) })
		if err := c.Disconnect(testContext(t)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
		running.Wait()
	}
}

func TestDisconnectEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(c *Conn) error{
		"silent server": readToEnd,
		"nobody reads":  func(*Conn) error { return ErrClosed },
	} {
		bubble(t, func(t *testing.T, c *Conn, p *peer) {
			c.silence = 0
			go p.wait()
			done := make(chan error, 1)
			go func() { done <- read(c) }()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			began := time.Now()
			if err := c.Disconnect(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Minute {
				t.Errorf("%s: Disconnect returns %v after %v", name, err, time.Since(began))
			}
			if err := <-done; !errors.Is(err, ErrClosed) {
				t.Errorf("%s: Read returns %v", name, err)
			}
		})
	}
}

func TestManyWriters(t *testing.T) {
	t.Parallel()
	const writers, each = 8, 200
	c := dial(t, rabbit(t))
	var running sync.WaitGroup
	defer running.Wait()
	for w := range writers {
		running.Go(func() {
			for i := range each {
				f := published()
				f.Headers[0], f.Headers[1] = Header{"destination", "/queue/a"}, Header{"receipt", fmt.Sprintf("%d-%d", w, i)}
				if err := errors.Join(c.Write(f), c.Flush()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	next := [writers]int{}
	for range writers * each {
		f, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		var w, i int
		if id, _ := f.Get("receipt-id"); f.Command != Receipt {
			t.Fatalf("got %v, want a receipt", f)
		} else if _, err := fmt.Sscanf(id, "%d-%d", &w, &i); err != nil || i != next[w] {
			t.Fatalf("got receipt %s, %v; want %d", id, err, next[w])
		}
		next[w]++
	}
}

func TestCloseUnblocks(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	defer close(stop)
	c := dialPeer(t, &Config{}, func(*peer) { <-stop }) // it takes no bytes
	errs := make(chan error, 3)
	go func() { errs <- readToEnd(c) }()
	writing := make(chan struct{})
	go func() {
		close(writing)
		errs <- c.Write(&Frame{Command: Send, Body: make([]byte, 64<<20)})
	}()
	<-writing
	go func() { errs <- c.Flush() }()
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	for range 3 {
		select {
		case err := <-errs:
			if !errors.Is(err, ErrClosed) {
				t.Errorf("got %v, want %v", err, ErrClosed)
			}
		case <-time.After(deadline):
			t.Fatal("Close has not unblocked all")
		}
	}
}

func TestFrameThatCannotBeSentLeavesTheConnection(t *testing.T) {
	t.Parallel()
	c := dial(t, rabbit(t))
	if err := c.Write(&Frame{Command: Send, Headers: []Header{{"a", "b"}, {"", ""}}}); err == nil {
		t.Fatal("it was taken")
	}
	write(t, c, &Frame{Command: Send, Headers: []Header{{"destination", "/queue/a"}, {"receipt", "1"}}})
	if f, err := c.Read(); err != nil || f.Command != Receipt {
		t.Errorf("got %v, %v, want a receipt", f, err)
	}
}

func TestWrongConfigurationsAreReportedWhole(t *testing.T) {
	t.Parallel()
	wrong := &Config{
		Addr: "localhost", Passcode: "s3cret", Send: -1, Receive: -2, Timeout: -3, WriteTimeout: -4,
		Limits: Limits{HeaderLine: -5, Headers: -6, HeaderBytes: -7, Body: -8},
	}
	_, err := Dial(t.Context(), wrong)
	if err == nil {
		t.Fatal("it was taken")
	}
	for _, want := range []string{
		`Addr is "localhost": want host:port`,
		"Send is -1ns: want 0 or more", "Receive is -2ns", "Timeout is -3ns", "WriteTimeout is -4ns",
		"Limits.HeaderLine is -5: want 0 or more", "Limits.Headers is -6", "Limits.HeaderBytes is -7", "Limits.Body is -8",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nlacks %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v tells the passcode", err)
	}
}

func TestConnectionsThatCannotBeMade(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, err := Dial(testContext(t), &Config{Addr: l.Addr().String()}); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	addr := serve(t, func(p *peer) {
		p.next()
		cancel()
		p.wait()
	})
	if _, err := Dial(ctx, &Config{Addr: addr}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestContextOfDialHasNoInfluenceLater(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Dial(ctx, &Config{Addr: serve(t, func(p *peer) {
		p.greet("")
		if p.next() != nil {
			p.say("RECEIPT\n\n\x00")
		}
		p.wait()
	})})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	cancel()
	write(t, c, published())
	if _, err := c.Read(); err != nil {
		t.Error(err)
	}
}
