package relay

import (
	"slices"
	"time"

	"github.com/outbox-go/outbox/store"
)

const (
	// spillKeep is how many messages of a key stay in memory when the rest of it is
	// left in the store; below spillLow more of them are read. It must be less: what
	// was cut would be read again at once.
	spillKeep = 64
	spillLow  = 32

	// spillBatch is how many messages of such a key are read at once, unless they
	// only join a dead letter.
	spillBatch = 256

	// maxSpilled bounds the keys that are read by themselves.
	maxSpilled = 64

	// splitRows is how many messages of one tenant, with no other between them and
	// more behind, show that the tenant must be read by itself.
	splitRows = 100

	// lookEvery is how long streams that had come to the end wait for one that has
	// more.
	lookEvery = 20 * time.Millisecond
)

// plan says what to read next: one stream that has more, or all that have come to
// the end together, so that they can be joined. It returns nil when there is no
// room, or nothing to read from.
func (q *queue) plan() ([]*stream, []store.ReadRequest) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopping || q.allPaused() {
		return nil, nil
	}
	if fresh := q.fresh & q.known; fresh != 0 {
		q.beginStreams(fresh)
		q.fresh = q.fresh.Without(fresh)
	}
	more, room, ended := q.candidates()
	turn := q.again // of the one that has more
	q.again = false
	if more >= 0 && (len(ended) == 0 || turn || time.Since(q.looked) < lookEvery) {
		st := q.streams[more]
		// To the back, so that the others get their turn.
		q.streams = append(slices.Delete(q.streams, more, more+1), st)
		st.asked = time.Now()
		return []*stream{st}, []store.ReadRequest{q.request(st, room)}
	}
	q.again, q.looked = more >= 0, time.Now()
	requests := make([]store.ReadRequest, len(ended))
	for i, st := range ended {
		st.asked = q.looked
		requests[i] = q.request(st, q.free()/len(ended))
	}
	return ended, requests
}

// candidates returns the place of the first stream that has more, -1 if there is
// none, with the room for it, and the streams that have come to the end. It leaves
// out those for which there is no room.
func (q *queue) candidates() (more, roomForIt int, ended []*stream) {
	more = -1
	room := q.room()
	rooms := make(map[*tenant]int, len(q.splits)) // before the loop, since making room drops streams
	for _, t := range q.splits {
		rooms[t] = q.tenantRoom(t, room)
	}
	for i, st := range q.streams {
		left := room
		switch {
		case st.key != nil:
			if !q.wants(st.key) {
				continue
			}
			left = q.keyRoom()
		case room == 0:
			continue
		case st.tenant != nil:
			if left = rooms[st.tenant]; left == 0 {
				continue
			}
		}
		switch {
		case !st.more:
			ended = append(ended, st)
		case more < 0:
			more, roomForIt = i, left
		}
	}
	return more, roomForIt, ended
}

func (q *queue) request(st *stream, room int) store.ReadRequest {
	r := store.ReadRequest{Cursor: st.cursor, Shards: st.shards, Limit: q.config.ReadBatch}
	if st.key != nil {
		r.Only = &st.key.name
		if !st.key.park {
			r.Limit = min(r.Limit, spillBatch)
		}
	}
	// A row takes itemOverhead beside its bytes.
	r.Limit = min(r.Limit, max(1, room/(2*itemOverhead)))
	r.MaxBytes = max(1, room-r.Limit*itemOverhead)
	if st.key != nil {
		return r
	}
	if st.tenant != nil {
		r.OnlyTenant = &st.tenant.name
	} else {
		r.ExceptTenants = q.exceptTenants()
	}
	for _, other := range q.streams {
		if other.key != nil {
			r.Except = append(r.Except, other.key.name)
		}
	}
	return r
}

// admit takes in what was read. It returns how many messages came and whether
// reading on at once finds more.
func (q *queue) admit(streams []*stream, requests []store.ReadRequest, pages []store.Page) (rows int, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	var heavy *tenant
	joined := len(streams) > 1
	for i, st := range streams {
		page := &pages[i]
		if st.cursor != requests[i].Cursor || st.shards == 0 {
			// Spilled again or dropped while the read was under way.
			joined, more = false, true
			continue
		}
		if t := q.admitPage(st, page, now); t != nil && st.common() {
			heavy = t
		}
		more = more || st.more && !page.More // of another stream, perhaps
		st.cursor, st.more, st.read = page.Cursor, page.More, st.asked
		q.passHanded(st)
		rows += len(page.Rows)
		joined = joined && !page.More
		more = more || page.More
	}
	if heavy != nil {
		q.split(heavy)
	}
	more = more || q.again
	if joined {
		q.join(streams)
	}
	q.reconsider()
	return rows, more
}

// admitPage takes in a page. It returns a tenant of which there is too much, if any.
func (q *queue) admitPage(st *stream, page *store.Page, now time.Time) (heavy *tenant) {
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
		if q.wasHanded(s, row, ep) {
			continue
		}
		it := &item{row: *row, shard: s, gen: s.gen, epoch: ep, size: row.Size() + itemOverhead, rule: q.ruleFor(row.Topic)}
		if !row.ExpiresAt.IsZero() {
			it.until = now.Add(min(row.ExpiresIn, farOff))
		}
		if q.paused(&row.Message) {
			it.wait(store.Never, now)
		} else if row.RetryIn > 0 {
			it.wait(row.RetryIn, now)
		}
		if row.Key == "" {
			q.charge(it)
			q.list(it, false)
		} else if !q.admitKeyed(st, s, it, now) {
			continue
		}
		if it.tenant.bytes > q.config.Memory/4 {
			heavy = it.tenant
		}
	}
	if heavy == nil && page.More && len(page.Rows) >= min(splitRows, q.config.ReadBatch) && ofOneTenant(page.Rows) {
		heavy = q.tenants[page.Rows[0].Tenant]
	}
	return heavy
}

func ofOneTenant(rows []store.Row) bool {
	for i := range rows {
		if rows[i].Tenant != rows[0].Tenant {
			return false
		}
	}
	return true
}

// admitKeyed reports whether it took the item in.
func (q *queue) admitKeyed(st *stream, s *shard, it *item, now time.Time) bool {
	name := store.Key{Tenant: it.row.Tenant, Key: it.row.Key}
	if q.passOver(s, name) {
		return false
	}
	k := q.keyOf(s, name)
	if k.behind != nil && k.behind != st {
		return false // its own stream brings it
	}
	it.key = k
	q.charge(it)
	k.items = append(k.items, it)
	q.listNext(k, false)
	if k.behind == nil { // else the page that brings it is not at its end
		q.trim(k, now)
	}
	return true
}

// keyOf returns what the queue holds of a key.
func (q *queue) keyOf(s *shard, name store.Key) *keyQueue {
	k := s.keys[name]
	if k == nil {
		_, park := s.parked[name]
		k = &keyQueue{name: name, shard: s, park: park}
		s.keys[name] = k
	}
	return k
}

// trim leaves in the store what is behind a message that waits: however many there
// are, they are not to be sent soon.
func (q *queue) trim(k *keyQueue, now time.Time) {
	if len(k.items) > k.inFlight+spillKeep && k.waits(now) && (k.behind != nil || q.spilled() < maxSpilled) && !k.unread() {
		q.spillKey(k, now)
	}
}

// spilled returns how many keys are read by themselves.
func (q *queue) spilled() (n int) {
	for _, st := range q.streams {
		if st.key != nil {
			n++
		}
	}
	return n
}
