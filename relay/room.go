package relay

import (
	"sort"
	"time"

	"github.com/outbox-go/outbox/store"
)

// room returns how many bytes may be read; none until a quarter of the memory is
// free, so that reads are worth their while.
func (q *queue) room() int {
	enough := q.config.Memory / 4
	if q.free() < enough && q.ready.len() < q.config.Window {
		// Else there is enough to send, and memory comes free by itself.
		over := func() bool { return q.bytes > q.config.Memory/2 }
		q.spill(nil, over)
		if q.free() < enough {
			q.forget(nil, over)
		}
	}
	if q.full = q.free() < enough; q.full {
		return 0
	}
	return q.free()
}

// wakeForRoom wakes a reader that waits for room, when what is in memory waits.
func (q *queue) wakeForRoom() {
	if q.full && q.ready.len() < q.config.Window {
		q.readWake.set()
	}
}

// free returns how many bytes there is room for. The hashes of forgotten keys take a
// quarter at most, lest nothing could be read any more.
func (q *queue) free() int {
	return q.config.Memory - q.bytes - min(q.hashes, q.config.Memory/4)
}

// keyRoom returns how many bytes may be read of one of the keys that are read by
// themselves.
func (q *queue) keyRoom() int {
	return min(q.free(), max(q.config.Memory/(8*maxSpilled), q.free()/4))
}

// wants tells whether more of a key that was spilled is to be read now. In a memory
// that is full, and of which nothing comes free by itself, it may have one message,
// so that it goes on.
func (q *queue) wants(k *keyQueue) bool {
	if len(k.items)-k.inFlight >= spillLow {
		return false
	}
	if q.free() <= 0 && (len(k.items) > 0 || q.inFlight+q.settling+q.unwritten > 0) {
		q.full = true
		return false
	}
	return !k.waits(time.Now())
}

// spill leaves in the store what waits behind a message that cannot be sent yet,
// or too long a row of one key, of one tenant unless that is nil, while there is too
// much, so that a few keys do not keep the others out of memory. What was read of
// them is read again, from where it was cut, when it is their turn.
func (q *queue) spill(of *tenant, over func() bool) {
	spilled, now := q.spilled(), time.Now()
	var long []*keyQueue
	for i := range q.shards {
		for _, k := range q.shards[i].keys {
			if len(k.items) > k.inFlight+k.keeps(now) && (of == nil || k.name.Tenant == of.name) && !k.unread() {
				long = append(long, k)
			}
		}
	}
	sort.Slice(long, func(i, j int) bool { return len(long[i].items) > len(long[j].items) })
	for _, k := range long {
		if !over() {
			return
		}
		if k.behind == nil {
			if spilled == maxSpilled {
				continue
			}
			spilled++
		}
		q.spillKey(k, now)
	}
}

// keeps returns how many messages of a key stay in memory beside those in flight.
func (k *keyQueue) keeps(now time.Time) int {
	if k.waits(now) {
		return 1
	}
	return spillKeep
}

func (q *queue) spillKey(k *keyQueue, now time.Time) {
	n := k.inFlight + k.keeps(now)
	for i := n; i < len(k.items); i++ {
		if k.items[i].state == dying {
			n = i + 1
		}
	}
	last := k.items[n-1]
	for _, it := range k.items[n:] {
		q.discharge(it)
		k.shard.cut++
	}
	clear(k.items[n:])
	k.items = k.items[:n]
	if k.behind == nil {
		k.behind = &stream{shards: store.ShardSet(0).With(k.shard.lease.Shard), key: k}
		q.streams = append(q.streams, k.behind)
	}
	k.behind.cursor, k.behind.more = last.cursorBehind(), true
}
