package relay_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

// TestBrokerThatIsAwayForHalfAnHourCostsNothing, with what is set by default.
func TestBrokerThatIsAwayForHalfAnHourCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, down := newBench(t), atomic.Bool{}
		p := publisherFunc(func(ctx context.Context, m *outbox.Message, done func(error)) {
			if down.Load() {
				done(outbox.Unavailable(errTampered))
				return
			}
			b.broker.Publisher().Publish(ctx, m, done)
		})
		ctx, cancel := context.WithCancel(t.Context())
		r := relay.New(b.store, p, quiet())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		b.emitMany(5000, 100)
		down.Store(true)
		b.emitMany(5000, 100)
		time.Sleep(30 * time.Minute)
		for _, row := range b.pending() {
			if row.Attempts != 0 || row.RetryIn > 0 {
				t.Fatalf("a message has %d attempts and waits %v after the broker was away", row.Attempts, row.RetryIn)
			}
		}
		b.wantDead()
		if s := r.Stats(); !s.BrokerDown || s.Outages != 1 {
			t.Errorf("the figures are %+v, want one outage that lasts", s)
		}
		down.Store(false)
		time.Sleep(11 * time.Second)
		b.wantAll()
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

// TestTopicThatNeverSucceedsDoesNotSlowTheOthers: neither by its attempts nor by its
// dead letters.
func TestTopicThatNeverSucceedsDoesNotSlowTheOthers(t *testing.T) {
	took := func(bad bool) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			b, got := newBench(t), newSink()
			var end time.Time
			p := publisherFunc(func(_ context.Context, m *outbox.Message, done func(error)) {
				if m.Topic == "bad" {
					done(outbox.Refused(errTampered))
					return
				}
				time.AfterFunc(time.Millisecond, func() { got.deliver(m); end = time.Now(); done(nil) })
			})
			for i := range 20 {
				b.emitMany(1000, 1000)
				for range 5 {
					if bad {
						b.emitKeys("bad", fmt.Sprint("x", i), fmt.Sprint("y", i), fmt.Sprint("z", i))
					}
				}
			}
			began := time.Now()
			_, stop := b.startWith(p, &relay.Config{Window: 100, MaxAttempts: 3, RefusedBackoff: 10 * time.Millisecond})
			time.Sleep(time.Minute)
			want := map[string]int{}
			for i := range 1000 {
				want[fmt.Sprint("k", i)] = 20
			}
			got.want(t, want)
			took = end.Sub(began)
			b.stopped(stop)
		})
		return took
	}
	without, with := took(false), took(true)
	if with > without+without/10 {
		t.Fatalf("the others took %v, and %v without the topic", with, without)
	}
}

// TestManySuccessorsOfAParkedKey: they follow it without filling the memory, and the
// others go on.
func TestManySuccessorsOfAParkedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p := newBench(t), newBlocker("b")
		p.refuses = func(m *outbox.Message) bool { return m.Key == "b0" }
		many := 50_000
		if os.Getenv("OUTBOX_SOAK") != "" {
			many = 1_000_000
		}
		b.emitBlocked(many, 1)
		s := &tampered{Store: b.store}
		s.before = func(_ context.Context, op string) error {
			if op == "fail" {
				time.Sleep(50 * time.Millisecond)
			}
			return nil
		}
		_, stop := b.startOn(s, p, &relay.Config{Memory: 1 << 20, MaxAttempts: 1, Policies: policy(relay.Park)})
		bounded := b.bound(p, 1<<20, 1<<10)
		time.Sleep(time.Second) // of which 20 batches of dead letters at most
		p.want(t, b.others("b"))
		time.Sleep(time.Duration(many) * 5 * time.Millisecond / 4)
		bounded()
		if n := len(b.stored(store.Dead)); n != many || p.lastOf("b0") != 0 {
			t.Fatalf("%d messages joined the dead letters, want all %d", n, many)
		}
		b.emitBlocked(10, 1)
		time.Sleep(10 * time.Second)
		if n := len(b.stored(store.Dead)); n != many+10 {
			t.Fatalf("%d messages joined the dead letters, want the new ones, too", n)
		}
		p.want(t, b.others("b"))
		b.wantEmpty()
		b.stopped(stop)
	})
}

// TestBlockedKeyIsNotReadAgainAndAgain by the sweep.
func TestBlockedKeyIsNotReadAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p := newBench(t), newBlocker("b")
		many := 50_000
		if os.Getenv("OUTBOX_SOAK") != "" {
			many = 1_000_000
		}
		b.emitBlocked(many, 1)
		var rows atomic.Int64
		s := &tampered{Store: b.store, read: func(_ []store.ReadRequest, pages []store.Page) []store.Page {
			for i := range pages {
				rows.Add(int64(len(pages[i].Rows)))
			}
			return pages
		}}
		_, stop := b.startOn(s, p, &relay.Config{Memory: 1 << 20, MaxAttempts: 1, Policies: policy(relay.Block)})
		time.Sleep(time.Minute)
		p.want(t, b.others("b"))
		before := rows.Load()
		time.Sleep(time.Hour)
		if n := rows.Load() - before; n > 60*2000 {
			t.Fatalf("%d rows were read in an hour, in which nothing happened", n)
		}
		b.stopped(stop)
	})
}

// TestSuccessorsOfABlockedKeyAreNotKept, although there would be room for them.
func TestSuccessorsOfABlockedKeyAreNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, p := newBench(t), newBlocker("b")
		const many = 20_000
		b.emitBlocked(many, 1)
		_, stop := b.startWith(p, &relay.Config{Memory: 1 << 30, MaxAttempts: 1, Policies: policy(relay.Block), RefusedBackoff: time.Hour})
		time.Sleep(10 * time.Minute)
		p.want(t, b.others("b"))
		if h := b.watch[0].Held(); h.Spilled != 1 || h.Bytes > 100<<10 {
			t.Fatalf("%d bytes are held, and %d keys read by themselves", h.Bytes, h.Spilled)
		}
		b.stopped(stop)
	})
}
