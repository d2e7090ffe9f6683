package natsjs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/natsjs"
)

// TestServerRestart stops the server in the middle of publishing and consuming
// and starts it again, with its port and its files: nothing that was confirmed
// may be missing, and nothing may be answered but with nil or ErrUnavailable.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	const n = 20_000
	server := startServer(t)
	broker := connect(t, server.url(), place())

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var mu sync.Mutex
	seen := map[string]int{}
	all := make(chan struct{})
	consuming := make(chan error, 1)
	go func() {
		s := outbox.Subscription{Queue: "restart", Topics: []string{"#"}, Prefetch: 200}
		consuming <- broker.Subscriber().Subscribe(ctx, s, func() {}, func(r *outbox.Received) {
			_ = r.Settle(outbox.Settlement{Outcome: outbox.Ack})
			mu.Lock()
			defer mu.Unlock()
			seen[r.Key]++
			if len(seen) == n && seen[r.Key] == 1 {
				close(all)
			}
		})
	}()

	p := broker.Publisher()
	defer p.Close()
	var restarts sync.WaitGroup
	again := publishAgain(t, p, n, func(i int) {
		if i == n/3 || i == 2*n/3 {
			restarts.Wait()
			restarts.Go(func() {
				server.stop()
				server.start()
			})
		}
	})
	restarts.Wait()
	await(t, all, func() string {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Sprintf("%d of %d messages have arrived", len(seen), n)
	})
	cancel()
	if err := <-consuming; err != nil {
		t.Errorf("Subscribe: %v", err)
	}
	if again == 0 {
		t.Error("no message was answered ErrUnavailable: the test has not tested a restart")
	}
	t.Logf("%d messages were sent again", again)
}

// publishAgain plays the relay: it publishes n messages with a window and sends
// again, in order, what was unavailable. It returns how many that were.
func publishAgain(t *testing.T, p outbox.Publisher, n int, before func(i int)) int {
	t.Helper()
	type answer struct {
		i   int
		err error
	}
	answers := make(chan answer, window)
	confirmed, again, outstanding, next := map[int]bool{}, 0, 0, 0
	var failed, todo []int // failed while others were outstanding; to be sent again
	for len(confirmed) < n {
		for len(failed) == 0 && outstanding < window && (len(todo) > 0 || next < n) {
			i := next
			if len(todo) > 0 {
				i, todo = todo[0], todo[1:]
			} else {
				before(i)
				next++
			}
			outstanding++
			p.Publish(context.Background(), benchMessage(i), func(err error) { answers <- answer{i, err} })
		}
		a := <-answers
		outstanding--
		switch {
		case a.err == nil:
			if confirmed[a.i] {
				t.Fatalf("message %d was answered twice", a.i)
			}
			confirmed[a.i] = true
		case errors.Is(a.err, outbox.ErrUnavailable):
			again++
			failed = append(failed, a.i)
		default:
			t.Fatalf("message %d: %v, want nil or ErrUnavailable", a.i, a.err)
		}
		if outstanding == 0 && len(failed) > 0 {
			slices.Sort(failed)
			failed, todo = nil, append(failed, todo...)
			time.Sleep(time.Millisecond) // the relay's back-off
		}
	}
	return again
}

// TestLateServer: a relay and a worker may start before their broker.
func TestLateServer(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	config := place()
	server.stop()
	if _, err := natsjs.Connect(context.Background(), server.url(), config); !errors.Is(err, outbox.ErrUnavailable) {
		t.Errorf("Connect without a server: %v, want ErrUnavailable", err)
	}
	broker, err := natsjs.New(server.url(), config)
	if err != nil {
		t.Fatal(err)
	}
	p := broker.Publisher()
	defer p.Close()
	answer := make(chan error, 1)
	p.Publish(context.Background(), benchMessage(0), func(err error) { answer <- err })
	if err := <-answer; !errors.Is(err, outbox.ErrUnavailable) {
		t.Errorf("publish without a server: %v, want ErrUnavailable", err)
	} else {
		wantError(t, err, "connect")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	got := make(chan struct{}, 1)
	consuming := make(chan error, 1)
	go func() {
		s := outbox.Subscription{Queue: "late", Topics: []string{"#"}, Prefetch: 1}
		consuming <- broker.Subscriber().Subscribe(ctx, s, func() {}, func(r *outbox.Received) {
			got <- struct{}{}
			if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
				t.Error(err)
			}
		})
	}()
	server.start()
	publishAgain(t, p, 1, func(int) {})
	await(t, got, func() string { return "no message has arrived" })
	cancel()
	if err := <-consuming; err != nil {
		t.Error(err)
	}
}

// logged is a logger that tells when something was logged.
type logged struct {
	slog.Handler
	text string
	seen chan struct{}
}

func watchLog(text string) *logged {
	return &logged{Handler: slog.DiscardHandler, text: text, seen: make(chan struct{}, 1)}
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }

func (l *logged) Handle(_ context.Context, r slog.Record) error {
	if r.Message == l.text {
		select {
		case l.seen <- struct{}{}:
		default:
		}
	}
	return nil
}

// outage stops the server and waits until the subscription has noticed.
func outage(t *testing.T, s *natsServer, lost *logged) {
	t.Helper()
	s.stop()
	await(t, lost.seen, func() string { return "nobody misses the server" })
}

// TestSettledWhileServerIsAway: what was handled does not come again, what was
// given back does, and what a retry has left is tidied up.
func TestSettledWhileServerIsAway(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	lost := watchLog("not connected")
	config := place()
	config.AckWait, config.Logger = 500*time.Millisecond, slog.New(lost)
	b := connect(t, s.url(), config)
	publishN(t, b, 4)
	c := subscribe(t, b, all("q", 4))
	var held []*outbox.Received
	for i := range 4 {
		held = append(held, c.want(i, 0))
	}
	c.settle(held[3], retryAfter(0, 1))
	held[3] = c.want(3, 1)
	outage(t, s, lost)
	c.settle(held[0], outbox.Settlement{Outcome: outbox.Ack})
	c.settle(held[1], outbox.Settlement{Outcome: outbox.Requeue})
	c.settle(held[3], outbox.Settlement{Outcome: outbox.Ack})
	if err := held[3].Settle(outbox.Settlement{Outcome: outbox.Ack}); err == nil {
		t.Error("to settle a message twice: no error")
	}
	time.Sleep(2 * config.AckWait) // now the server takes them for forgotten
	s.start()
	c.settle(c.want(1, 0), outbox.Settlement{Outcome: outbox.Ack})
	c.settle(held[2], outbox.Settlement{Outcome: outbox.Ack})
	js := s.jetStream(t)
	eventually(t, "all is acknowledged", func() bool {
		select {
		case r := <-c.got:
			t.Fatalf("message %s came again", r.Key)
		default:
		}
		info := consumerInfo(t, js, config.Stream, "q")
		return info.NumAckPending == 0 && info.AckFloor.Stream == 4
	})
	eventually(t, "the entry is gone", func() bool { return entries(t, js, config) == 0 })
	c.end()
}

// TestEndWhileServerIsAway: the end waits for the server to be told, but not for
// ever.
func TestEndWhileServerIsAway(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	lost := watchLog("not connected")
	config := place()
	config.AckWait, config.Logger = time.Hour, slog.New(lost)
	config.ConnectTimeout = patience
	b := connect(t, s.url(), config)
	publishN(t, b, 2)
	c := subscribe(t, b, all("q", 1))
	r := c.want(0, 0)
	outage(t, s, lost)
	c.stop()
	c.settle(r, outbox.Settlement{Outcome: outbox.Ack})
	s.start()
	c.end()
	if info := consumerInfo(t, s.jetStream(t), config.Stream, "q"); info.AckFloor.Stream != 1 {
		t.Errorf("after the end %d messages are acknowledged, want 1", info.AckFloor.Stream)
	}

	lost = watchLog("not connected")
	config.Logger, config.ConnectTimeout = slog.New(lost), 100*time.Millisecond
	c = subscribe(t, connect(t, s.url(), config), all("q", 1))
	r = c.want(1, 0)
	outage(t, s, lost)
	c.settle(r, outbox.Settlement{Outcome: outbox.Ack})
	c.end()
}
