package relay

import (
	"sort"
	"time"

	"github.com/outbox-go/outbox/store"
)

const (
	// spillKeep is how many messages of a key stay in memory when the rest of it is
	// left in the store; below spillLow more of them are read.
	spillKeep = 64
	spillLow  = 32

	// spillBatch is how many messages of such a key are read at once.
	spillBatch = 256

	// maxSpilled bounds the keys that are read by themselves.
	maxSpilled = 64
)

// plan says what to read next: one stream that has more, or all that have come to
// the end together, so that they can be joined. It returns nil when there is no
// room, or nothing to read from.
func (q *queue) plan() ([]*stream, []store.ReadRequest) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopping {
		return nil, nil
	}
	if q.fresh != 0 {
		q.streams = append(q.streams, &stream{shards: q.fresh, more: true})
		q.fresh = 0
	}
	room := q.room()
	var ended []*stream
	for i, st := range q.streams {
		switch {
		case st.key != nil && !q.wants(st.key):
		case st.key == nil && room == 0:
		case st.more:
			// To the back, so that the others get their turn.
			q.streams = append(append(q.streams[:i:i], q.streams[i+1:]...), st)
			if st.key != nil {
				room = q.keyRoom()
			}
			return []*stream{st}, []store.ReadRequest{q.request(st, room)}
		default:
			ended = append(ended, st)
		}
	}
	requests := make([]store.ReadRequest, len(ended))
	for i, st := range ended {
		requests[i] = q.request(st, q.free()/len(ended))
	}
	return ended, requests
}

// room returns how many bytes may be read; none until a quarter of the memory is
// free, so that reads are worth their while.
func (q *queue) room() int {
	enough := q.config.Memory / 4
	if q.free() < enough && q.ready.len() < q.config.Window {
		// Else there is enough to send, and memory comes free by itself.
		q.spill()
		if q.free() < enough {
			q.forget()
		}
	}
	if q.full = q.free() < enough; q.full {
		return 0
	}
	return q.free()
}

func (q *queue) free() int { return q.config.Memory - q.bytes }

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
	if q.free() <= 0 && (len(k.items) > 0 || q.inFlight+q.settling > 0) {
		q.full = true
		return false
	}
	next := k.next()
	return next == nil || next.due.IsZero() || !time.Now().Before(next.due)
}

func (q *queue) request(st *stream, room int) store.ReadRequest {
	r := store.ReadRequest{Cursor: st.cursor, Shards: st.shards, Limit: q.config.ReadBatch}
	if st.key != nil {
		r.Only = &st.key.name
		r.Limit = min(r.Limit, spillBatch)
	}
	// A row takes itemOverhead beside its bytes.
	r.Limit = min(r.Limit, max(1, room/(2*itemOverhead)))
	r.MaxBytes = max(1, room-r.Limit*itemOverhead)
	if st.key != nil {
		return r
	}
	for _, other := range q.streams {
		if other.key != nil {
			r.Except = append(r.Except, other.key.name)
		}
	}
	return r
}

// spill leaves in the store what waits behind a message that cannot be sent yet,
// or too long a row of one key, so that a few keys do not keep the others out of
// memory. What was read of them is read again, from where it was cut, when it is
// their turn.
func (q *queue) spill() {
	spilled := 0
	var long []*keyQueue
	for i := range q.shards {
		for _, k := range q.shards[i].keys {
			if k.behind != nil {
				spilled++
			}
			if len(k.items) > k.inFlight+q.keeps(k) {
				long = append(long, k)
			}
		}
	}
	sort.Slice(long, func(i, j int) bool { return len(long[i].items) > len(long[j].items) })
	for _, k := range long {
		if q.bytes <= q.config.Memory/2 {
			return
		}
		if k.behind == nil {
			if spilled == maxSpilled {
				continue
			}
			spilled++
		}
		q.spillKey(k)
	}
}

// keeps returns how many messages of a key stay in memory beside those in flight.
func (q *queue) keeps(k *keyQueue) int {
	if next := k.next(); next != nil && !next.due.IsZero() {
		return 1
	}
	return spillKeep
}

func (q *queue) spillKey(k *keyQueue) {
	n := k.inFlight + q.keeps(k)
	last := k.items[n-1]
	for _, it := range k.items[n:] {
		q.bytes -= it.size
	}
	clear(k.items[n:])
	k.items = k.items[:n]
	if k.behind == nil {
		k.behind = &stream{shards: store.ShardSet(0).With(k.shard.lease.Shard), key: k}
		q.streams = append(q.streams, k.behind)
	}
	k.behind.cursor, k.behind.more = last.cursorBehind(), true
}

// admit takes in what was read. It returns how many messages came and whether
// reading on at once finds more.
func (q *queue) admit(streams []*stream, requests []store.ReadRequest, pages []store.Page) (rows int, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	joined := len(streams) > 1
	for i, st := range streams {
		page := &pages[i]
		if st.cursor != requests[i].Cursor || st.shards == 0 {
			// Spilled again or dropped while the read was under way.
			joined, more = false, true
			continue
		}
		q.admitPage(st, page, now)
		st.cursor, st.more = page.Cursor, page.More
		rows += len(page.Rows)
		joined = joined && !page.More
		more = more || page.More
	}
	if joined {
		q.join(streams)
	}
	return rows, more
}

func (q *queue) admitPage(st *stream, page *store.Page, now time.Time) {
	ep := &epoch{seen: st.cursor.Seen, until: page.Cursor.Epoch}
	if ep.until == "" {
		ep.until = page.Cursor.Seen
	}
	for i := range page.Rows {
		row := &page.Rows[i]
		if !st.shards.Has(row.Shard) {
			continue // lost while the read was under way
		}
		s := &q.shards[row.Shard]
		it := &item{row: *row, shard: s, gen: s.gen, epoch: ep, size: row.Size() + itemOverhead}
		if row.RetryIn > 0 {
			it.due = now.Add(row.RetryIn)
		}
		if row.Key == "" {
			q.bytes += it.size
			q.list(it, false)
			continue
		}
		q.admitKeyed(st, s, it)
	}
}

func (q *queue) admitKeyed(st *stream, s *shard, it *item) {
	name := store.Key{Tenant: it.row.Tenant, Key: it.row.Key}
	if q.passOver(s, name) {
		return
	}
	k := s.keys[name]
	if k == nil {
		k = &keyQueue{name: name, shard: s}
		s.keys[name] = k
	}
	if k.behind != nil && k.behind != st {
		return // its own stream brings it
	}
	it.key = k
	q.bytes += it.size
	k.items = append(k.items, it)
	q.listNext(k, false)
}

// join merges streams that stand at the same place. What is left of a key that was
// spilled comes with its shard again.
func (q *queue) join(streams []*stream) {
	var main *stream
	gone := map[*stream]bool{}
	for _, st := range streams {
		switch {
		case st.key != nil:
		case main == nil:
			main = st
		default:
			gone[st] = true
			main.shards |= st.shards
		}
	}
	for _, st := range streams {
		if st.key != nil && main != nil && main.shards.Has(st.key.shard.lease.Shard) {
			gone[st] = true
			st.key.behind = nil
			q.settleKey(st.key)
		}
	}
	kept := q.streams[:0]
	for _, st := range q.streams {
		if !gone[st] {
			kept = append(kept, st)
		}
	}
	clear(q.streams[len(kept):])
	q.streams = kept
}

// sweepable tells that nothing is on its way and every stream has come to the end,
// so that reading from the start costs little and repeats nothing.
func (q *queue) sweepable() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, st := range q.streams {
		if st.more {
			return false
		}
	}
	return q.inFlight == 0 && q.settling == 0 && q.ready.len() == 0 && q.unwritten == 0 && q.fresh == 0
}
