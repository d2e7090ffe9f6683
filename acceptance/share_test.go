package acceptance

import (
	"fmt"
	"sync"
	"testing"

	"github.com/outbox-go/outbox/relay"
)

// sharers are relays on one outbox.
type sharers []*relayRun

func (s *system) startRelays(t *testing.T, n int, config func(i int) relay.Config) sharers {
	t.Helper()
	relays := make(sharers, n)
	for i := range relays {
		relays[i] = s.startRelay(t, config(i))
	}
	return relays
}

// shards is how many the database has.
func (s *system) shards() int {
	if _, ok := s.database.(*sqlite); ok {
		return 1
	}
	return 64
}

// share waits until the relays know of one another and have shared the shards out.
func (r sharers) share(t *testing.T, s *system) {
	t.Helper()
	eventually(t, "the shards to be shared out", func() (bool, string) {
		ok, sum, state := true, 0, ""
		for _, one := range r {
			stats := one.Stats()
			sum += stats.Shards
			even := stats.Shards - s.shards()/len(r)
			ok = ok && stats.Relays == len(r) && (even == 0 || even == 1)
			state += fmt.Sprintf("%d shards of %d relays, ", stats.Shards, stats.Relays)
		}
		return ok && sum == s.shards(), state
	})
}

// wantWork checks that each message was sent once, by whichever relay, and that
// each relay sent some.
func (r sharers) wantWork(t *testing.T, messages int) {
	t.Helper()
	sum := int64(0)
	for i, one := range r {
		stats := one.Stats()
		t.Logf("relay %d: %d messages", i, stats.Confirmed)
		if stats.Confirmed == 0 || stats.Failed != 0 {
			t.Errorf("relay %d confirmed %d messages and failed with %d, want some and none", i, stats.Confirmed, stats.Failed)
		}
		sum += stats.Confirmed
	}
	if sum != int64(messages) {
		t.Errorf("the relays sent %d messages, want %d", sum, messages)
	}
}

// owner returns the relay that has most shards.
func (r sharers) owner() *relayRun {
	owner := r[0]
	for _, one := range r {
		if one.Stats().Shards > owner.Stats().Shards {
			owner = one
		}
	}
	return owner
}

func (s *system) wantNoRepeats(t *testing.T, r *recorder) {
	t.Helper()
	if repeats := s.judge(t, r); repeats != 0 {
		t.Errorf("%d messages were delivered more than once", repeats)
	}
}

func TestK18_TwoRelaysShareTheWork(t *testing.T) {
	const keys, each = 500, 20 // 10,000 rows
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		relays := s.startRelays(t, 2, func(int) relay.Config { return relay.Config{} })
		relays.share(t, s)
		s.placeOrders(t, "first", keys, each/2)
		if s.shards() == 1 { // the two take turns, in the middle of it
			r.await(keys)
			relays.owner().stop()
		}
		s.placeOrders(t, "then", keys, each/2)
		s.wantNoRepeats(t, r)
		relays.wantWork(t, keys*each)
	})
}

func TestD09_TwoPublishersNoDuplicates(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		for range 2 {
			startChild(t, &childConfig{Database: s.databaseURL(), Broker: s.address, Relay: &relayConfig{}})
		}
		var emitting sync.WaitGroup
		for i := range 4 {
			emitting.Go(func() {
				if err := s.tryOrders(fmt.Sprint(i), 20, 10); err != nil {
					t.Error(err)
				}
			})
		}
		emitting.Wait()
		s.wantNoRepeats(t, r)
	})
}

func TestE17_ConcurrentRunnersAreDisjoint(t *testing.T) {
	const keys, each = 200, 5
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		s.placeOrders(t, "backlog", keys, each) // which both want at once
		books := []*sent{newSent(), newSent()}
		relays := s.startRelays(t, len(books), func(i int) relay.Config { return relay.Config{Hooks: []relay.Hook{books[i]}} })
		relays.share(t, s)
		s.placeOrders(t, "live", keys, each)
		s.wantNoRepeats(t, r)
		first, second := books[0].read(books[0].published), books[1].read(books[1].published)
		if s.shards() > 1 && (len(first) == 0 || len(second) == 0) {
			t.Errorf("the runners sent %d and %d messages, want some each", len(first), len(second))
		}
		if n := len(first) + len(second); n != 2*keys*each {
			t.Errorf("the runners sent %d messages, want %d", n, 2*keys*each)
		}
		for id := range first {
			if second[id] > 0 {
				t.Errorf("message %s was sent by both runners", id)
			}
		}
	})
}

func TestP14_TwoRunnersNoDuplicates(t *testing.T) {
	const keys = 50
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		stop := s.keepPlacing(t, r, keys)
		// Under load, one runner after the other joins, and the one before it stops:
		// each hands over what it has begun. It has done some work when more was
		// delivered than can have been on its way before: keepPlacing is ten orders of
		// each key ahead.
		const some = 12 * keys
		var runners sharers
		for range 4 {
			runners = append(runners, s.startRelay(t, relay.Config{}))
			if n := len(runners); n > 1 {
				runners[n-2:].share(t, s)
				r.await(r.distinct() + some)
				runners[n-2].stop()
			}
			r.await(r.distinct() + some)
		}
		stop()
		s.wantNoRepeats(t, r)
		runners.wantWork(t, r.distinct())
	})
}
