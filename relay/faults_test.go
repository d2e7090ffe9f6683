package relay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
)

// TestPoliciesUnderFaults: relays die and the store fails, and still of each key what
// is sent is in order, what is parked is behind its dead letter, and nothing is lost.
func TestPoliciesUnderFaults(t *testing.T) {
	for _, p := range []relay.Policy{relay.Skip, relay.Park} {
		for seed := range seeds(15) {
			t.Run(fmt.Sprint(p, " seed ", seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { policiesUnderFaults(t, p, seed) })
			})
		}
	}
}

// choosy takes or refuses each message by its id, the same way each time.
type choosy struct {
	mu       sync.Mutex
	dice     *dice
	healed   bool
	bad      map[string]bool
	sent     map[string][]int // the first times of each message, by key
	seen     map[string]bool
	disorder []string
}

func (c *choosy) Publish(_ context.Context, m *outbox.Message, done func(error)) {
	if c.dice.chance(0.02) {
		done(outbox.Unavailable(errTampered))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bad[m.Key+string(m.Payload)] && !c.healed {
		time.AfterFunc(c.dice.wait(3*time.Millisecond), func() { done(outbox.Refused(errTampered)) })
		return
	}
	if !c.seen[m.ID] {
		c.seen[m.ID] = true
		var n int
		_, _ = fmt.Sscan(string(m.Payload), &n)
		if list := c.sent[m.Key]; len(list) > 0 && list[len(list)-1] > n && !c.healed {
			c.disorder = append(c.disorder, fmt.Sprintf("%s: %d behind %d", m.Key, n, list[len(list)-1]))
		}
		c.sent[m.Key] = append(c.sent[m.Key], n)
	}
	time.AfterFunc(c.dice.wait(3*time.Millisecond), func() { done(nil) })
}

func (c *choosy) Close() error { return nil }

func policiesUnderFaults(t *testing.T, p relay.Policy, seed uint64) {
	b, d := newBench(t), newDice(seed)
	c := &choosy{dice: d, bad: map[string]bool{}, sent: map[string][]int{}, seen: map[string]bool{}}
	keys := 1 + d.upTo(40)
	for key := range keys {
		if d.chance(0.5) {
			c.bad[fmt.Sprint("k", key, 1+d.upTo(30))] = true
		}
	}
	fault := func(op string) error {
		if op != "listen" && d.chance(0.05) {
			return errTampered
		}
		return nil
	}
	config := &relay.Config{
		Memory: 64<<10 + d.upTo(200<<10), Window: 1 + d.upTo(100), SettleBatch: 1 + d.upTo(50), ReadBatch: 1 + d.upTo(100),
		MaxAttempts: 1 + d.upTo(3), Policies: policy(p), RefusedBackoff: 20 * time.Millisecond, SweepInterval: time.Second, DrainTimeout: time.Second,
	}
	var relays []*mortal
	var stops []func() error
	begin := func() {
		m := newMortal(b.store)
		pass := m.before
		m.before = func(ctx context.Context, op string) error { return errors.Join(pass(ctx, op), fault(op)) }
		m.after = fault
		_, stop := b.startOn(m, c, config)
		relays, stops = append(relays, m), append(stops, stop)
	}
	begin()
	for range 20 {
		if d.chance(0.3) {
			begin()
		}
		if len(relays) > 1 && d.chance(0.3) {
			relays[0].gate.close()
			_ = stops[0]()
			relays, stops = relays[1:], stops[1:]
		}
		b.emitMany(100, keys)
		time.Sleep(d.wait(5 * time.Second))
	}
	time.Sleep(5 * time.Minute)
	c.judge(t, b, p)
	c.mu.Lock()
	c.healed = true
	c.mu.Unlock()
	b.redrive()
	time.Sleep(5 * time.Minute)
	for key, n := range b.next {
		if len(c.sent[key]) != n || p == relay.Park && !slices.IsSorted(c.sent[key]) {
			t.Fatalf("key %s was sent as %v, want all %d", key, c.sent[key], n)
		}
	}
	for _, stop := range stops {
		_ = stop()
	}
}

func (c *choosy) judge(t *testing.T, b *bench, p relay.Policy) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.disorder) > 0 {
		t.Fatalf("out of order: %v", c.disorder)
	}
	for key, n := range b.next {
		want := make([]int, 0, n)
		for i := 1; i <= n; i++ {
			bad := c.bad[fmt.Sprint(key, i)]
			if !bad {
				want = append(want, i)
			}
			if bad && p == relay.Park {
				break
			}
		}
		if !slices.Equal(c.sent[key], want) {
			t.Fatalf("key %s was sent as %v, want %v", key, c.sent[key], want)
		}
	}
	if n := b.store.Pending(); n != 0 {
		t.Fatalf("%d messages are pending", n)
	}
}
