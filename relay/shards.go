package relay

import (
	"container/heap"
	"time"

	"github.com/outbox-go/outbox/store"
)

// apply takes over what a claim says: begins shards that are new, drops those that
// are lost, and starts to give back what is wanted or exceeds the even share.
// deadline is when the leases end by the local clock.
func (q *queue) apply(claim store.Claim, released store.ShardSet, deadline time.Time) (owned int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.deadline, q.claimed = deadline, deadline
	for _, s := range released.Slice() {
		q.shards[s].owned, q.shards[s].fate = false, keep
	}
	var held store.ShardSet
	for _, lease := range claim.Leases {
		held = held.With(lease.Shard)
		s := &q.shards[lease.Shard]
		if !s.owned || s.lease != lease {
			s.owned, s.lease = true, lease
			s.told = 0 // the store keeps the greatest doubt, so that of before does no harm
			q.drop(s, restart)
		}
	}
	var active []*shard
	for i := range q.shards {
		s := &q.shards[i]
		switch {
		case s.owned && !held.Has(s.lease.Shard):
			s.owned = false
			q.drop(s, keep)
		case s.owned && s.fate != release && claim.Wanted.Has(s.lease.Shard):
			q.drop(s, release)
		case s.owned && s.fate != release:
			active = append(active, s)
		}
	}
	for len(active) > claim.Target {
		q.drop(active[len(active)-1], release)
		active = active[:len(active)-1]
	}
	q.dropVoid()
	q.publishWake.set()
	q.readWake.set()
	return held.Len()
}

// drop voids all that is in memory of a shard but what is in flight, which comes
// to its end first. The caller calls dropVoid when it has dropped all that it wants.
func (q *queue) drop(s *shard, then fate) {
	s.gen++
	for _, k := range s.keys {
		for _, it := range k.items {
			if it.state == waiting || it.state == returned {
				q.discharge(it)
			}
		}
	}
	s.keys = map[store.Key]*keyQueue{}
	q.hashes -= s.forgotten.size()
	q.handedCount -= len(s.handed)
	s.forgotten, s.parked, s.handed, s.cut = forgotten{}, nil, nil, 0
	s.fate = then
	only := store.ShardSet(0).With(s.lease.Shard)
	q.fresh, q.known = q.fresh.Without(only), q.known.Without(only)
	kept := q.streams[:0]
	for _, st := range q.streams {
		if st.shards = st.shards.Without(only); st.shards != 0 {
			kept = append(kept, st)
		}
	}
	clear(q.streams[len(kept):])
	q.streams = kept
	q.meetFate(s)
}

// dropVoid removes void items from where they wait.
func (q *queue) dropVoid() {
	valid := func(it *item) bool {
		if it.void() && it.key == nil {
			q.discharge(it)
		}
		return !it.void()
	}
	q.ready.filter(valid)
	for _, r := range q.rules {
		r.waiting.filter(valid)
	}
	q.unsplit()
	kept := make(timers, 0, len(q.timers))
	for _, it := range q.timers {
		if valid(it) {
			kept = append(kept, it)
		}
	}
	heap.Init(&kept)
	q.timers = kept
}

// meetFate does what was to be done with a shard once nothing of it is open.
func (q *queue) meetFate(s *shard) {
	if s.open > 0 || !s.owned {
		return
	}
	switch s.fate {
	case keep:
	case release:
		q.leaseWake.set()
	case restart:
		s.fate, s.begun = keep, time.Now()
		q.fresh = q.fresh.With(s.lease.Shard)
		q.readWake.set()
	}
}

// unknown returns the shards to be read from the start whose parked keys are yet to
// be asked for.
func (q *queue) unknown() (shards store.ShardSet, gens []int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if shards = q.fresh.Without(q.known); shards == 0 {
		return 0, nil
	}
	for i := range q.shards {
		gens = append(gens, q.shards[i].gen)
	}
	return shards, gens
}

// know takes over the parked keys of shards that are still to be read from the
// start. gens are their gens from before the store was asked.
func (q *queue) know(shards store.ShardSet, gens []int, keys []store.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	parked := make(map[store.Key]struct{}, len(keys))
	for _, key := range keys {
		parked[key] = struct{}{}
	}
	for i := range q.shards {
		s := &q.shards[i]
		if shards.Has(s.lease.Shard) && q.fresh.Has(s.lease.Shard) && s.gen == gens[i] {
			s.parked = parked
			q.known = q.known.With(s.lease.Shard)
		}
	}
}

// releasable returns the shards that can be given back now.
func (q *queue) releasable() store.ShardSet {
	q.mu.Lock()
	defer q.mu.Unlock()
	var set store.ShardSet
	for i := range q.shards {
		if s := &q.shards[i]; s.owned && s.fate == release && s.open == 0 {
			set = set.With(s.lease.Shard)
		}
	}
	return set
}

// restartAll has every shard read from the start, once what is in flight has come
// to its end.
func (q *queue) restartAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.shards {
		if s := &q.shards[i]; s.owned && s.fate != release {
			q.drop(s, restart)
		}
	}
	q.dropVoid()
}

// suspend stops publishing until the leases are known to hold.
func (q *queue) suspend() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.deadline = time.Time{}
	q.leaseWake.set()
}

// mayPublish tells whether the leases still hold by the local clock and the shard
// of a message that was taken is not known to be lost or asked back meanwhile.
func (q *queue) mayPublish(it *item) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !it.void() && time.Now().Before(q.deadline)
}
