package relay_test

import (
	"fmt"
	"math"
	"strings"
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
		b.emitKeys("t", "k")
		b.emitKeys("u", "l")
		time.Sleep(time.Minute)
		if got := fmt.Sprint(b.delivered()); got != "map[l:[1]]" || r.Stats().Shards != 64 {
			t.Fatalf("delivered %s with %d shards, want what is not paused, with all", got, r.Stats().Shards)
		}
		b.stopped(stop)
	})
}

func TestRateBoundsItsTopicsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for i := range 1000 {
			b.emitKeys("slow.a", "", fmt.Sprint("s", i%10))
			b.emitKeys("fast", fmt.Sprint("s", i%10), fmt.Sprint("f", i%10))
		}
		r, stop := b.start(&relay.Config{Rates: []relay.Rate{{Pattern: "slow.#", PerSecond: 10}, {Pattern: "slow.a", PerSecond: 1e6}}})
		time.Sleep(time.Second)
		got := b.delivered()
		fast := 0
		for i := range 10 {
			fast += len(got[fmt.Sprint("f", i)])
		}
		if fast != 1000 {
			t.Fatalf("%d messages of the other topic and keys were delivered in a second, want all 1,000", fast)
		}
		if s := r.Stats(); s.InFlight != 0 || s.Waiting == 0 {
			t.Fatalf("the figures are %+v, want what waits to take no window", s)
		}
		time.Sleep(time.Minute - time.Second)
		slow := 0
		for _, m := range b.broker.Messages("all") {
			if m.Topic == "slow.a" {
				slow++
			}
		}
		if math.Abs(float64(slow)-600) > 3 {
			t.Fatalf("%d messages were delivered in a minute, want 10 a second", slow)
		}
		time.Sleep(5 * time.Minute)
		for key, n := range b.next {
			if strings.HasPrefix(key, "s") && len(b.delivered()[key]) != n {
				t.Fatalf("of key %s were delivered %d of %d", key, len(b.delivered()[key]), n)
			}
		}
		delete(b.next, "")
		b.wantAll()
		b.wantEmpty()
		b.stopped(stop)
	})
}

// TestRatedMessagesDoNotFillTheMemory, with keys or without.
func TestRatedMessagesDoNotFillTheMemory(t *testing.T) {
	for _, keys := range []int{0, 1, 1000} {
		t.Run(fmt.Sprint(keys, " keys"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { ratedMemory(t, keys) })
		})
	}
}

func ratedMemory(t *testing.T, keys int) {
	b := newBench(t)
	p := &blocker{sink: newSink(), refuses: func(*outbox.Message) bool { return false }}
	for i := range 5 {
		names := make([]string, 1000)
		for j := range names {
			if keys > 0 {
				names[j] = fmt.Sprint("b", (1000*i+j)%keys)
			}
		}
		b.emitKeys("slow", names...)
		b.emitMany(200, 10)
	}
	_, stop := b.startWith(p, &relay.Config{Memory: 256 << 10, Rates: []relay.Rate{{Pattern: "slow", PerSecond: 20}}})
	bounded := b.bound(p, 256<<10+32*keys, 1<<10)
	time.Sleep(2 * time.Second)
	delete(b.next, "")
	p.want(t, b.others("b"))
	for range 10 {
		b.emitMany(200, 10)
		time.Sleep(2 * time.Second)
		p.want(t, b.others("b"))
	}
	time.Sleep(30 * time.Minute)
	bounded()
	p.wantOnce(t, b.next)
	if n := b.store.Pending(); n != 0 {
		t.Fatalf("%d messages are pending", n)
	}
	b.wantEmpty()
	b.stopped(stop)
}
