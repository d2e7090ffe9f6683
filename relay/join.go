package relay

import (
	"slices"

	"github.com/outbox-go/outbox/store"
)

// common tells that a stream brings what has no stream of its own.
func (st *stream) common() bool { return st.key == nil && st.tenant == nil }

// join merges streams that stand at the same place: those of the same kind, those
// of tenants with the common one, and those of keys with whichever then brings the
// rest of their shard.
func (q *queue) join(streams []*stream) {
	gone := map[*stream]bool{}
	kinds := map[*tenant]*stream{} // nil for the common one
	for _, st := range streams {
		if st.key != nil {
			continue
		}
		if first := kinds[st.tenant]; first == nil {
			kinds[st.tenant] = st
		} else {
			gone[st] = true
			first.shards |= st.shards
		}
	}
	q.joinTenants(kinds, gone)
	for _, st := range streams {
		if st.key != nil && q.brings(kinds, st.key) {
			gone[st] = true
			st.key.behind = nil
			q.settleKey(st.key)
		}
	}
	q.streams = slices.DeleteFunc(q.streams, func(st *stream) bool { return gone[st] })
	q.unsplit()
}

// joinTenants joins those with the common stream of which all has come to the end.
func (q *queue) joinTenants(kinds map[*tenant]*stream, gone map[*stream]bool) {
	common := kinds[nil]
	if common == nil {
		return
	}
	for t, st := range kinds {
		if t == nil || st.shards.Without(common.shards) != 0 {
			continue
		}
		all := true
		for _, other := range q.streams {
			all = all && (other.tenant != t || other == st || gone[other])
		}
		if all {
			gone[st] = true
			delete(kinds, t)
			t.split = false
		}
	}
}

// brings tells that one of the streams brings what follows of a key.
func (q *queue) brings(kinds map[*tenant]*stream, k *keyQueue) bool {
	var of *tenant
	if t := q.tenants[k.name.Tenant]; t != nil && t.split {
		of = t
	}
	st := kinds[of]
	return st != nil && st.shards.Has(k.shard.lease.Shard)
}

// exceptTenants returns the tenants that are read by themselves.
func (q *queue) exceptTenants() (names []string) {
	for _, t := range q.splits {
		names = append(names, t.name)
	}
	return names
}

// begin streams for shards that are to be read from the start.
func (q *queue) beginStreams(shards store.ShardSet) {
	q.streams = append(q.streams, &stream{shards: shards, more: true})
	for _, t := range q.splits {
		q.streams = append(q.streams, &stream{shards: shards, tenant: t, more: true})
	}
}
