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
)

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
