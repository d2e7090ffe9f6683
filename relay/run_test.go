package relay_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/memstore"
)

func quiet() *relay.Config { return &relay.Config{Logger: slog.New(slog.DiscardHandler)} }

func TestFaultsAreReportedAllAtOnce(t *testing.T) {
	t.Parallel()
	r := relay.New(nil, nil, &relay.Config{
		Window: -1, Memory: 1, ReadBatch: 10_001, SettleBatch: 20_000, SettleDelay: -1, LeaseTTL: time.Millisecond, PollInterval: 1,
		DrainTimeout: -1, MaxShards: -1, Pipelined: []string{"a..b"}, RefusedBackoff: -1, MaxRefusedBackoff: -2,
		UnavailableBackoff: -1, MaxUnavailableBackoff: -2, MaxAttempts: -1, PurgeInterval: time.Millisecond, Keep: -1,
		Policies: []relay.TopicPolicy{{Pattern: "p..q"}, {Pattern: "p", Policy: 3}},
		Rates:    []relay.Rate{{Pattern: "r..s", PerSecond: 1}, {Pattern: "none"}, {Pattern: "nan", PerSecond: math.NaN()}},
	})
	err := r.Run(t.Context())
	if err == nil {
		t.Fatal("ran")
	}
	for _, field := range []string{
		"Window", "Memory", "ReadBatch", "SettleBatch", "SettleDelay", "LeaseTTL", "PollInterval", "DrainTimeout", "MaxShards",
		"Pipelined", " RefusedBackoff", "MaxRefusedBackoff", " UnavailableBackoff", "MaxUnavailableBackoff", "store", "publisher",
		"MaxAttempts", "PurgeInterval", "Keep", `Policies has "p..q"`, `Policies has policy 3 for "p"`, `Rates has "r..s"`,
		`Rates has 0 a second for "none"`, `Rates has NaN a second for "nan"`,
	} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("the error does not name %s: %v", strings.TrimSpace(field), err)
		}
	}
}

func TestDefaultsAreValid(t *testing.T) {
	t.Parallel()
	for _, c := range []*relay.Config{nil, {}, {SweepInterval: -1}, {RefusedBackoff: time.Hour}, {UnavailableBackoff: time.Minute}, {Keep: relay.Forever}} {
		if err := c.Validate(); err != nil {
			t.Errorf("config %+v: %v", c, err)
		}
	}
}

func TestPoliciesHaveNames(t *testing.T) {
	t.Parallel()
	for _, p := range []relay.Policy{relay.Skip, relay.Park, relay.Block} {
		if got, err := relay.ParsePolicy(p.String()); err != nil || got != p {
			t.Errorf("policy %v is parsed as %v (%v)", p, got, err)
		}
	}
	if _, err := relay.ParsePolicy("drop"); err == nil {
		t.Error("drop is taken for a policy")
	}
}

func TestRunningTwiceAtOnceIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(nil)
		r := relay.New(s, membroker.New().Publisher(), quiet())
		for range 2 { // one after another is none
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			synctest.Wait()
			if err := r.Run(t.Context()); !errors.Is(err, relay.ErrRunning) {
				t.Errorf("the second Run returned %v, want ErrRunning", err)
			}
			if n := r.Stats().Shards; n != 64 {
				t.Errorf("owns %d shards, want 64", n)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if n := r.Stats().Shards; n != 0 {
				t.Errorf("owns %d shards after Run, want none", n)
			}
		}
	})
}

func TestMissingTablesEndRun(t *testing.T) {
	t.Parallel()
	missing := &store.MissingError{Missing: []string{"table outbox.message"}}
	s := &tampered{Store: memstore.New(nil), before: func(_ context.Context, op string) error {
		if op != "check" {
			t.Errorf("the relay does %s in a database that lacks its table", op)
		}
		return missing
	}}
	var got *store.MissingError
	if err := relay.New(s, membroker.New().Publisher(), quiet()).Run(t.Context()); !errors.As(err, &got) || got != missing {
		t.Fatalf("Run returned %v, want the MissingError", err)
	}
}

func TestDatabaseThatIsAwayAtTheStartIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		b.emit(100, 10)
		up := time.Now().Add(time.Minute)
		s := &tampered{Store: b.store, before: func(context.Context, string) error {
			if time.Now().Before(up) {
				return errTampered
			}
			return nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- relay.New(s, got, quiet()).Run(ctx) }()
		time.Sleep(70 * time.Second)
		got.wantOnce(t, b.next)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestStopWhileTheDatabaseIsAwayAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tampered{Store: memstore.New(nil), before: func(context.Context, string) error { return errTampered }}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := relay.New(s, membroker.New().Publisher(), quiet()).Run(ctx); err != nil {
			t.Fatal(err)
		}
	})
}

// TestRunEndsWhateverHangs: the bubble ends only when all goroutines have.
func TestRunEndsWhateverHangs(t *testing.T) {
	for _, hangs := range []string{"claim", "read", "settle", "fail", "leave"} {
		t.Run(hangs, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				var hanging atomic.Bool
				s := &tampered{Store: b.store, before: func(ctx context.Context, op string) error {
					if op == hangs && hanging.Load() {
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				}}
				p := newBlocker("b")
				_, stop := b.startOn(s, p, nil)
				b.emitBlocked(100, 2)
				time.Sleep(time.Second)
				hanging.Store(true)
				b.emitBlocked(100, 2)
				time.Sleep(3 * time.Second)
				began := time.Now()
				_ = stop()
				if took := time.Since(began); took > 45*time.Second {
					t.Fatalf("stopped after %v", took)
				}
				hanging.Store(false)
				p.open.Store(true)
				_, stop = b.startOn(b.store, p, nil)
				time.Sleep(10 * time.Minute)
				p.want(t, b.next)
				b.stopped(stop)
			})
		})
	}
}

func TestStopGivesTheShardsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		_, stop := b.startWith(got, nil)
		time.Sleep(time.Second)
		b.stopped(stop)
		b.emit(100, 10)
		_, stop = b.startWith(got, nil)
		synctest.Wait() // no time passes
		got.wantOnce(t, b.next)
		b.stopped(stop)
	})
}

// TestHooksAreTold of all that there is a hook for.
func TestHooksAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, h := newBench(t), &hook{}
		_, stop := b.start(&relay.Config{Hooks: []relay.Hook{h, "not a hook"}})
		b.emit(10, 10)
		time.Sleep(time.Second)
		b.broker.SetDown(true)
		b.emit(1, 1)
		time.Sleep(time.Second)
		b.broker.SetDown(false)
		time.Sleep(20 * time.Second)
		b.stopped(stop)
		if h.publishing.Load() != h.answered.Load() || h.publishing.Load() < 12 {
			t.Errorf("told of %d messages and %d answers, want at least 12 of each", h.publishing.Load(), h.answered.Load())
		}
		if h.read.Load() != 11 || h.settled.Load() != 11 {
			t.Errorf("told of %d messages read and %d deleted, want 11", h.read.Load(), h.settled.Load())
		}
		if h.shards.Load() != 64 || h.away.Load() != 1 || h.back.Load() != 1 {
			t.Errorf("told of %d shards, the broker gone %d times and back %d times", h.shards.Load(), h.away.Load(), h.back.Load())
		}
	})
}

type hook struct{ publishing, answered, read, settled, shards, away, back atomic.Int64 }

func (h *hook) Publishing(*outbox.Message)                     { h.publishing.Add(1) }
func (h *hook) Answered(*outbox.Message, time.Duration, error) { h.answered.Add(1) }
func (h *hook) Read(rows int, _ time.Duration, _ error)        { h.read.Add(int64(rows)) }
func (h *hook) Settled(messages int, _ time.Duration, _ error) { h.settled.Add(int64(messages)) }
func (h *hook) Leased(shards, _ int)                           { h.shards.Store(int64(shards)) }
func (h *hook) Availability(err error) {
	if err != nil {
		h.away.Add(1)
	} else {
		h.back.Add(1)
	}
}

// gatherer is a publisher that sends when it is flushed.
type gatherer struct {
	outbox.PublishFunc
	mu   sync.Mutex
	held []func(error)
}

func (g *gatherer) Publish(_ context.Context, _ *outbox.Message, done func(error)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held = append(g.held, done)
}

func (g *gatherer) Flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, done := range g.held {
		done(nil)
	}
	g.held = nil
	return nil
}

// TestStopFlushesThePublisher that holds messages back, so that the end need not wait
// for them.
func TestStopFlushesThePublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, g := newBench(t), &gatherer{}
		b.emit(1, 1)
		var stop func() error
		hook := onPublishing(func() { go func() { _ = stop() }(); synctest.Wait() })
		_, stop = b.startWith(g, &relay.Config{Hooks: []relay.Hook{hook}})
		time.Sleep(time.Second)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

type onPublishing func()

func (f onPublishing) Publishing(*outbox.Message) { f() }
