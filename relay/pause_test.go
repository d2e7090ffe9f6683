package relay_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

func (b *bench) pause(p store.Pause) {
	b.t.Helper()
	if _, err := b.store.Pause(b.t.Context(), p); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) resume(p store.Pause) {
	b.t.Helper()
	if is, err := b.store.Resume(b.t.Context(), p); err != nil || !is {
		b.t.Fatalf("resumed %+v: %t, %v", p, is, err)
	}
}

func TestPausesHoldBackWhatTheyName(t *testing.T) {
	for _, p := range []store.Pause{{}, {Topic: "t.#"}, {Key: "k"}, {Topic: "t.*", Key: "k"}} {
		t.Run(fmt.Sprintf("%+v", p), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { pauses(t, p) })
		})
	}
}

func pauses(t *testing.T, p store.Pause) {
	b := newBench(t)
	emit := func() {
		b.emitKeys("t.a", "k", "l")
		b.emitKeys("u", "k", "m")
		b.next[""]++
	}
	_, stop := b.start(nil)
	emit()
	time.Sleep(time.Second)
	b.pause(p)
	time.Sleep(2 * time.Second) // a fifth of the lease
	before := b.count()
	emit()
	emit()
	time.Sleep(time.Hour)
	want := map[store.Pause]int{{}: 0, {Topic: "t.#"}: 2, {Key: "k"}: 4, {Topic: "t.*", Key: "k"}: 4}[p]
	if n := b.count() - before; n != want {
		t.Fatalf("%d messages were delivered in the pause, want %d: %v", n, want, b.delivered())
	}
	b.stopped(stop)
	_, stop = b.start(nil) // another relay knows it, too
	time.Sleep(time.Minute)
	if n := b.count() - before; n != want {
		t.Fatalf("%d messages were delivered in the pause by another relay, want %d", n, want)
	}
	b.resume(p)
	time.Sleep(2*time.Second + 20*time.Millisecond)
	delete(b.next, "")
	b.wantAll()
	b.stopped(stop)
}

// TestPausedMessagesDoNotFillTheMemory, of one key or of many.
func TestPausedMessagesDoNotFillTheMemory(t *testing.T) {
	for _, keys := range []int{1, 20_000} {
		t.Run(fmt.Sprint(keys, " keys"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				p := &blocker{sink: newSink(), refuses: func(*outbox.Message) bool { return false }}
				b.pause(store.Pause{Topic: "paused"})
				for i := range 20 {
					var names []string
					for j := range 1000 {
						names = append(names, fmt.Sprint("b", (1000*i+j)%keys))
					}
					b.emitKeys("paused", names...)
					b.emitMany(100, 10)
				}
				_, stop := b.startWith(p, &relay.Config{Memory: 256 << 10})
				// Beside the memory there are the hashes of keys that wait.
				bounded := b.bound(p, 256<<10+32*keys, 1<<10)
				time.Sleep(5 * time.Second)
				p.want(t, b.others("b"))
				b.emitMany(100, 10)
				time.Sleep(time.Second)
				p.want(t, b.others("b"))
				b.resume(store.Pause{Topic: "paused"})
				time.Sleep(time.Minute)
				bounded()
				p.wantOnce(t, b.next)
				b.wantEmpty()
				b.stopped(stop)
			})
		})
	}
}

// TestNothingIsReadWhileAllIsPaused.
func TestNothingIsReadWhileAllIsPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var reads atomic.Int64
		s := &tampered{Store: b.store, before: func(_ context.Context, op string) error {
			if op == "read" {
				reads.Add(1)
			}
			return nil
		}}
		b.pause(store.Pause{})
		b.emit(10, 10)
		_, stop := b.startOn(s, b.broker.Publisher(), nil)
		time.Sleep(time.Minute)
		if n := reads.Load(); n != 0 {
			t.Fatalf("read %d times", n)
		}
		b.stopped(stop)
	})
}

// TestPausesThatCannotBeAskedForAreNotForgotten: the leases are renewed, and what
// was paused stays so.
func TestPausesThatCannotBeAskedForAreNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		s := &tampered{Store: b.store}
		b.pause(store.Pause{Topic: "t"})
		r, stop := b.startOn(s, b.broker.Publisher(), nil)
		time.Sleep(3 * time.Second)
		s.failPauses.Store(true)
		time.Sleep(20 * time.Second) // longer than a lease
		b.emitKeys("t", "k")
		b.emitKeys("u", "l")
		time.Sleep(time.Minute)
		if got := fmt.Sprint(b.delivered()); got != "map[l:[1]]" || r.Stats().Shards != 64 {
			t.Fatalf("delivered %s with %d shards, want what is not paused, with all", got, r.Stats().Shards)
		}
		b.stopped(stop)
	})
}
