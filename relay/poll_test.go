package relay_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

// deaf is a store that wakes nobody.
type deaf struct{ relay.Store }

func (deaf) Listen(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return nil
}

// pollOnly is a store that cannot notify.
type pollOnly struct{ relay.Store }

func (pollOnly) Listen(context.Context, func()) error { return store.ErrPollOnly }

func TestWakeUpLeadsToDeliveryAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		_, stop := b.startWith(got, &relay.Config{PollInterval: time.Hour})
		time.Sleep(10 * time.Second)
		for range 20 {
			before := got.count()
			b.emit(1, 1)
			synctest.Wait() // no time passes
			if got.count() != before+1 {
				t.Fatal("a message waits though the relay was woken")
			}
			time.Sleep(7 * time.Second)
		}
		b.stopped(stop)
	})
}

// TestPollFindsMessagesWithoutWakeUps: at the poll interval, or, if the store says
// that it cannot notify, soon.
func TestPollFindsMessagesWithoutWakeUps(t *testing.T) {
	for _, tt := range []struct {
		name  string
		store func(relay.Store) relay.Store
		most  time.Duration
	}{
		{"deaf", func(s relay.Store) relay.Store { return deaf{s} }, 3 * time.Second},
		{"poll only", func(s relay.Store) relay.Store { return pollOnly{s} }, 200 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, got, d := newBench(t), newSink(), newDice(1)
				_, stop := b.startOn(tt.store(b.store), got, &relay.Config{PollInterval: 3 * time.Second})
				time.Sleep(10 * time.Second)
				for range 20 {
					before := got.count()
					b.emit(1, 1)
					time.Sleep(tt.most + time.Millisecond)
					if got.count() != before+1 {
						t.Fatalf("a message was not found within %v", tt.most)
					}
					time.Sleep(d.wait(10 * time.Second))
				}
				b.stopped(stop)
			})
		})
	}
}

// hidden is a store of which some rows do not become newly visible: only a reader
// from the start sees them.
type hidden struct {
	relay.Store
	key    string
	starts atomic.Int64
}

func (h *hidden) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	pages, err := h.Store.Read(ctx, requests...)
	if err != nil {
		return nil, err
	}
	for i := range pages {
		if requests[i].Cursor == (store.Cursor{}) {
			h.starts.Add(1)
			continue
		}
		pages[i].Rows = slices.DeleteFunc(pages[i].Rows, func(r store.Row) bool { return r.Key == h.key })
	}
	return pages, nil
}

func TestSweepFindsRowsThatDidNotBecomeVisible(t *testing.T) {
	for _, interval := range []time.Duration{30 * time.Second, -1} {
		t.Run(fmt.Sprint(interval), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, got := newBench(t), newSink()
				h := &hidden{Store: b.store, key: "restored"}
				_, stop := b.startOn(h, got, &relay.Config{SweepInterval: interval})
				time.Sleep(time.Second)
				for range 10 {
					b.emitKeys("t", "restored", "a")
				}
				time.Sleep(time.Second)
				if a, r := got.lastOf("a"), got.lastOf("restored"); a != 10 || r != 0 {
					t.Fatalf("%d and %d messages were delivered, want the 10 that became visible", a, r)
				}
				starts := h.starts.Load()
				time.Sleep(40 * time.Second)
				want := 10
				if interval < 0 {
					want = 0
				}
				if n := got.lastOf("restored"); n != want {
					t.Fatalf("%d of the other messages were delivered, want %d", n, want)
				}
				if interval < 0 && h.starts.Load() != starts {
					t.Fatal("swept though that is off")
				}
				if n := got.repeated(); n != 0 {
					t.Fatalf("the sweep repeated %d messages", n)
				}
				b.stopped(stop)
			})
		})
	}
}

// TestSweepDoesNotDisturb: with traffic and blocked keys it repeats nothing and
// keeps the order and the waiting times.
func TestSweepDoesNotDisturb(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d := newBench(t), newDice(1)
		p := &moody{sink: newSink(), dice: d, late: time.Millisecond, refuse: 0.05}
		_, stop := b.startWith(p, &relay.Config{SweepInterval: 50 * time.Millisecond, RefusedBackoff: 100 * time.Millisecond})
		for range 300 {
			b.emitMany(10, 7)
			time.Sleep(d.wait(100 * time.Millisecond))
		}
		time.Sleep(time.Minute)
		p.wantOnce(t, b.next)
		b.wantEmpty()
		b.stopped(stop)
	})
}

// armed is a store whose notifications can be off, and which counts snapshots as
// PostgreSQL does: next grows with each transaction, and horizon stays behind while
// the test has one open.
type armed struct {
	relay.Store
	mu       sync.Mutex
	on       bool
	switches []bool
	next     uint64
	old      uint64 // a transaction that is open, or 0
	reads    []time.Time
	fail     bool
}

func (a *armed) Arm(_ context.Context, _ string, on bool) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail {
		return 0, errTampered
	}
	a.on = on
	a.switches = append(a.switches, on)
	a.next += 10
	return a.next, nil
}

func (a *armed) Listen(ctx context.Context, wake func()) error {
	return a.Store.Listen(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.on {
			wake()
		}
	})
}

func (a *armed) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	pages, err := a.Store.Read(ctx, requests...)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reads = append(a.reads, time.Now())
	for i := range pages {
		a.next++
		pages[i].Horizon, pages[i].Next = a.next, a.next
		if a.old != 0 {
			pages[i].Horizon = a.old
		}
	}
	return pages, err
}

func (a *armed) state() (on bool, switches int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.on, len(a.switches)
}

// gaps returns the times between the reads since then.
func (a *armed) gaps(since time.Time) []time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	var gaps []time.Duration
	for i, at := range a.reads {
		if i > 0 && !a.reads[i-1].Before(since) {
			gaps = append(gaps, at.Sub(a.reads[i-1]))
		}
	}
	return gaps
}

// open has a transaction begin that does not end before close.
func (a *armed) open() (end func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next++
	a.old = a.next
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.old = 0
	}
}

// TestBusyRelayDisarmsAndAnIdleOneArms, also when its reads are full pages back to
// back.
func TestBusyRelayDisarmsAndAnIdleOneArms(t *testing.T) {
	for _, batch := range []int{1000, 5} {
		t.Run(fmt.Sprint("pages of ", batch), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, got := newBench(t), newSink()
				s := &armed{Store: slowReads{b.store}}
				_, stop := b.startOn(s, got, &relay.Config{ReadBatch: batch})
				time.Sleep(time.Second)
				if on, _ := s.state(); !on {
					t.Fatal("not armed at the start")
				}
				var emitting atomic.Bool
				emitting.Store(true)
				done := make(chan struct{})
				go func() {
					defer close(done)
					for emitting.Load() {
						b.emitMany(10, 100)
						time.Sleep(time.Millisecond)
					}
				}()
				time.Sleep(2 * time.Second)
				if on, _ := s.state(); on {
					t.Error("armed while it is busy")
				}
				emitting.Store(false)
				<-done
				time.Sleep(20 * time.Second)
				if on, n := s.state(); !on || n != 3 {
					t.Errorf("armed %v after %d switches, want to be armed after 3", on, n)
				}
				got.wantOnce(t, b.next)
				b.stopped(stop)
			})
		})
	}
}

// slowReads takes half a millisecond for each read, as a database does.
type slowReads struct{ relay.Store }

func (s slowReads) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	time.Sleep(500 * time.Microsecond)
	return s.Store.Read(ctx, requests...)
}

// TestDisarmedRelayPollsEachMillisecond: nobody wakes it.
func TestDisarmedRelayPollsEachMillisecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		s := &armed{Store: b.store}
		_, stop := b.startOn(s, got, nil)
		time.Sleep(time.Second)
		for range 1000 {
			b.emitMany(10, 100)
			time.Sleep(time.Millisecond)
		}
		since := time.Now().Add(-500 * time.Millisecond)
		if gap := slices.Max(s.gaps(since)); gap > 2*time.Millisecond {
			t.Fatalf("a busy relay that is not notified read nothing for %v", gap)
		}
		if on, _ := s.state(); on {
			t.Fatal("armed while it is busy")
		}
		b.stopped(stop)
	})
}

// TestArmedRelayPollsUntilTheHorizonHasPassed: a transaction that is older than the
// arming does not notify.
func TestArmedRelayPollsUntilTheHorizonHasPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		s := &armed{Store: b.store}
		end := s.open()
		_, stop := b.startOn(s, got, nil)
		time.Sleep(10 * time.Second)
		gaps := s.gaps(time.Time{})
		want := []time.Duration{2, 4, 8, 16, 32, 64, 128, 200, 200, 200}
		first := slices.Index(gaps, 2*time.Millisecond) // before it there may have been wake-ups
		if first < 0 || first > 3 {
			t.Fatalf("the times between reads are %v", gaps)
		}
		for i, d := range want {
			if gap := gaps[first+i]; gap != d*time.Millisecond {
				t.Fatalf("the times between reads are %v, want 2 ms doubled up to 200 ms", gaps[first:])
			}
		}
		s.mu.Lock()
		s.on = false // what this transaction emits wakes nobody
		s.mu.Unlock()
		b.emit(1, 1)
		time.Sleep(250 * time.Millisecond)
		got.want(t, b.next)
		end()
		since := time.Now().Add(2 * time.Second)
		time.Sleep(12 * time.Second)
		if n := len(s.gaps(since)); n > 16 { // a renewal of the leases reads, too
			t.Fatalf("%d reads in 10 s though all old transactions have ended, want the poll interval of 1 s", n)
		}
		b.stopped(stop)
	})
}

// TestArmingIsTriedAgain: until it has worked, the relay takes it for off.
func TestArmingIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		s := &armed{Store: b.store, fail: true}
		_, stop := b.startOn(s, got, nil)
		time.Sleep(10 * time.Second)
		s.mu.Lock()
		s.fail = false
		s.mu.Unlock()
		time.Sleep(3 * time.Second)
		if on, _ := s.state(); !on {
			t.Fatal("not armed after the store came back")
		}
		b.stopped(stop)
	})
}
