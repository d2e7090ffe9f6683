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
)

// emitOf emits n messages of a tenant, spread over keys, whose names tell it.
func (b *bench) emitOf(tenant string, n, keys int) {
	b.t.Helper()
	var events []outbox.Event
	for i := range n {
		key := fmt.Sprint(tenant, "-", i%keys)
		b.next[key]++
		events = append(events, outbox.Event{Topic: "t", Tenant: tenant, Key: key, Payload: fmt.Appendf(nil, "%d ", b.next[key])})
		if len(events) == 1000 || i == n-1 {
			b.emitEvents(events...)
			events = events[:0]
		}
	}
}

func (b *bench) ofTenants(names ...string) map[string]int {
	want := map[string]int{}
	for key, n := range b.next {
		for _, name := range names {
			if len(key) > len(name) && key[:len(name)+1] == name+"-" {
				want[key] = n
			}
		}
	}
	return want
}

// slowBroker takes 1,000 messages a second with a window of 10.
func slowBroker(got *sink) publisherFunc {
	return func(_ context.Context, m *outbox.Message, done func(error)) {
		time.AfterFunc(10*time.Millisecond, func() { got.deliver(m); done(nil) })
	}
}

// TestTenantWithManyMessagesDoesNotHoldUpOthers, whether all fit into memory or not,
// and whichever came first.
func TestTenantWithManyMessagesDoesNotHoldUpOthers(t *testing.T) {
	for _, memory := range []int{128 << 10, 32 << 20} {
		for _, large := range []string{"", "a"} {
			t.Run(fmt.Sprintf("tenant %q, memory of %d", large, memory), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b, got := newBench(t), newSink()
					if large == "" {
						b.emitOf("c", 1, 1) // else there are no tenants to be seen
					}
					b.emitOf(large, 20_000, 1000)
					b.emitOf("b", 10, 10)
					_, stop := b.startWith(slowBroker(got), &relay.Config{Window: 10, Memory: memory})
					time.Sleep(time.Second)
					got.want(t, b.ofTenants("b"))
					for range 5 {
						b.emitOf("b", 10, 3)
						time.Sleep(500 * time.Millisecond)
						got.want(t, b.ofTenants("b"))
					}
					time.Sleep(time.Minute)
					got.wantOnce(t, b.next)
					b.wantEmpty()
					b.stopped(stop)
				})
			})
		}
	}
}

// TestTenantsThatAreReadByThemselvesLoseNothing, with keys that wait and relays that
// come and go.
func TestTenantsThatAreReadByThemselvesLoseNothing(t *testing.T) {
	for seed := range seeds(15) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tenantsLoseNothing(t, seed) })
		})
	}
}

func tenantsLoseNothing(t *testing.T, seed uint64) {
	b, d := newBench(t), newDice(seed)
	p := &moody{sink: newSink(), dice: d, late: 5 * time.Millisecond, refuse: 0.01 * float64(d.upTo(3)), lose: 0.01 * float64(d.upTo(2))}
	config := &relay.Config{
		Memory: 64<<10 + d.upTo(100<<10), Window: 1 + d.upTo(100), ReadBatch: 1 + d.upTo(300), SettleBatch: 1 + d.upTo(100),
		RefusedBackoff: 20 * time.Millisecond, MaxRefusedBackoff: time.Second, SweepInterval: time.Second,
	}
	var stops []func() error
	var split atomic.Int64
	for range 20 {
		if len(stops) == 0 || d.chance(0.2) {
			_, stop := b.startWith(p, config)
			stops = append(stops, stop)
		}
		if len(stops) > 1 && d.chance(0.2) {
			b.stopped(stops[0])
			stops = stops[1:]
		}
		for range d.upTo(4) {
			b.emitOf([]string{"", "a", "b", "c"}[d.upTo(4)], 1+d.upTo(500), 1+d.upTo(100))
		}
		time.Sleep(d.wait(time.Second))
		for _, w := range b.watch {
			split.Add(int64(w.Split()))
		}
	}
	time.Sleep(5 * time.Minute)
	p.wantOnce(t, b.next)
	if split.Load() == 0 {
		t.Log("no tenant was read by itself")
	}
	b.watch = b.watch[len(b.watch)-len(stops):] // those that run
	for _, w := range b.watch {
		if w.Split() != 0 {
			t.Fatal("a tenant is still read by itself though nothing of it is left")
		}
	}
	b.wantEmpty()
	for _, stop := range stops {
		b.stopped(stop)
	}
}

// TestTenantsTakeTurns: with all in memory each gets the same part.
func TestTenantsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		for _, tenant := range []string{"a", "b", "c"} {
			b.emitOf(tenant, 1000, 1000)
		}
		_, stop := b.startWith(slowBroker(got), &relay.Config{Window: 10})
		time.Sleep(300 * time.Millisecond)
		for _, tenant := range []string{"a", "b", "c"} {
			n := 0
			for key := range b.ofTenants(tenant) {
				n += got.lastOf(key)
			}
			if n < 90 || n > 110 {
				t.Errorf("tenant %s got %d of 300 turns, want a third", tenant, n)
			}
		}
		b.stopped(stop)
	})
}

// TestTenantThatIsReadForLongDoesNotHoldUpNewMessages: the broker is faster than the
// database.
func TestTenantThatIsReadForLongDoesNotHoldUpNewMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := newBench(t), newSink()
		s := &tampered{Store: b.store, before: func(_ context.Context, op string) error {
			if op == "read" {
				time.Sleep(50 * time.Millisecond)
			}
			return nil
		}}
		b.emitOf("a", 20_000, 1000)
		_, stop := b.startOn(s, got, &relay.Config{ReadBatch: 100, Memory: 256 << 10})
		time.Sleep(2 * time.Second)
		if n := b.watch[0].Split(); n != 1 {
			t.Fatalf("%d tenants are read by themselves, want the one with many messages", n)
		}
		for range 5 {
			b.emitOf("b", 10, 10)
			time.Sleep(300 * time.Millisecond)
			got.want(t, b.ofTenants("b"))
		}
		if n := b.store.Pending(); n < 5000 {
			t.Fatalf("%d messages are left of the other tenant, want it still to be read", n)
		}
		time.Sleep(time.Minute)
		got.wantOnce(t, b.next)
		b.stopped(stop)
	})
}
