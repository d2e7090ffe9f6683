package relay

import (
	"slices"
	"time"

	"github.com/outbox-go/outbox/store"
)

// Follower is a [Store] that knows what is committed in this process, and hands it to
// the relays that drain it here, so that it need not be read back. The rows are there
// all the same, and are read if no relay takes them. It is found by its methods: who
// embeds such a store to change what Read returns must hide them.
type Follower interface {
	// Follow has take called with what is committed, until stop. take keeps the
	// commit's rows and returns soon: with false if they must be read.
	Follow(take func(store.Commit) bool) (stop func())

	// Saw tells whether a reader that stands at a cursor has read what a commit's
	// mark stands for, or passed it after it was deleted.
	Saw(c store.Cursor, mark string) bool
}

const (
	// handoverQueue is with how many messages in memory nothing is handed over any
	// more: it would wait here as it does in the store.
	handoverQueue = 64

	// maxHanded bounds what is remembered of messages that may yet be read.
	maxHanded = 1000

	// handoverRest is for how long nothing is handed over to a shard, at least, of
	// which such a message was refused.
	handoverRest = 10 * time.Second
)

// handed is a message that was not read, but handed over, as long as it may yet be
// read.
type handed struct {
	id, mark string
	key      store.Key
	it       *item // nil when it is settled
}

// handOver takes in what was committed, now or after a read, if that keeps the order.
func (q *queue) handOver(c store.Commit) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopping || q.readFault != nil || q.handedCount >= maxHanded || q.ready.len()+q.inFlight+len(q.offers) > handoverQueue {
		return false
	}
	switch q.chanceOf(&c) {
	case atOnce:
		q.takeCommit(&c)
	case afterRead:
		q.offers = append(q.offers, c)
	case byReader:
		return false
	}
	return true
}

// reconsider looks again at what had to wait for a read.
func (q *queue) reconsider() {
	q.offers = slices.DeleteFunc(q.offers, func(c store.Commit) bool {
		switch q.chanceOf(&c) {
		case atOnce:
			q.takeCommit(&c)
		case afterRead:
			return false
		case byReader:
			q.readWake.set() // the read that is over may have been too early for it
		}
		return true
	})
}

// chance is whether a message can be handed over.
type chance uint8

const (
	byReader  chance = iota // not at all
	afterRead               // when a read is over that begins after it was written
	atOnce
)

// chanceOf returns the least chance of a commit's messages.
func (q *queue) chanceOf(c *store.Commit) chance {
	least := atOnce
	for i := range c.Rows {
		least = min(least, q.chance(&c.Rows[i], c))
	}
	return least
}

// chance tells whether a row can be sent without being read. One with a key can if all
// that was committed before it was written has been read: by a read that began later.
func (q *queue) chance(row *store.Row, c *store.Commit) chance {
	s := &q.shards[row.Shard]
	st := q.streamOf(row.Tenant, row.Shard)
	now := time.Now()
	switch {
	case !s.owned || s.fate != keep || q.fresh.Has(row.Shard) || now.Before(s.resting) || !now.Before(q.deadline):
		return byReader
	case st == nil || st.more || q.saw(st.cursor, c.Mark):
		return byReader
	case q.paused(&row.Message) || q.ruleFor(row.Topic) != nil:
		return byReader
	case row.Key == "":
		return atOnce
	}
	name := store.Key{Tenant: row.Tenant, Key: row.Key}
	_, parked := s.parked[name]
	_, forgotten := s.forgotten.keys[q.hash(name)]
	switch {
	case parked || forgotten || s.keys[name] != nil:
		return byReader
	case !st.read.After(c.Written):
		return afterRead
	}
	return atOnce
}

// streamOf returns the stream that brings the messages of a tenant and a shard.
func (q *queue) streamOf(tenantName string, shard uint8) *stream {
	var of *tenant
	if t := q.tenants[tenantName]; t != nil && t.split {
		of = t
	}
	for _, st := range q.streams {
		if st.key == nil && st.tenant == of && st.shards.Has(shard) {
			return st
		}
	}
	return nil
}

func (q *queue) takeCommit(c *store.Commit) {
	for i := range c.Rows {
		q.takeRow(&c.Rows[i], c.Mark)
	}
}

func (q *queue) takeRow(row *store.Row, mark string) {
	s := &q.shards[row.Shard]
	it := &item{row: *row, shard: s, gen: s.gen, mark: mark, size: row.Size() + itemOverhead}
	if s.handed == nil {
		s.handed = map[int64]*handed{}
	}
	name := store.Key{Tenant: row.Tenant, Key: row.Key}
	s.handed[row.Position] = &handed{id: row.ID, mark: mark, key: name, it: it}
	q.handedCount++
	if row.Key == "" {
		q.charge(it)
		q.list(it, false)
		return
	}
	k := q.keyOf(s, name)
	it.key = k
	q.charge(it)
	k.items = append(k.items, it)
	q.listNext(k, false)
}

// wasHanded reports whether a row that was read had been handed over. With nothing
// behind it in memory it then is as if it had been read.
func (q *queue) wasHanded(s *shard, row *store.Row, ep *epoch) bool {
	h := s.handed[row.Position]
	if h == nil || h.id != row.ID {
		return false
	}
	if it := h.it; it != nil && (it.key == nil || len(it.key.items) > 0 && it.key.items[len(it.key.items)-1] == it) {
		it.mark, it.epoch = "", ep
	}
	q.forgetHanded(s, row.Position)
	return true
}

func (q *queue) forgetHanded(s *shard, position int64) {
	delete(s.handed, position)
	q.handedCount--
}

// passHanded forgets what was handed over and can be read no more, since the stream
// that would bring it is behind it.
func (q *queue) passHanded(st *stream) {
	if st.more || st.key != nil || q.handedCount == 0 {
		return
	}
	for i := range q.shards {
		s := &q.shards[i]
		if len(s.handed) == 0 || !st.shards.Has(s.lease.Shard) {
			continue
		}
		for position, h := range s.handed {
			if q.streamOf(h.key.Tenant, s.lease.Shard) == st && q.saw(st.cursor, h.mark) {
				q.forgetHanded(s, position)
			}
		}
	}
}

// settledHanded notes that a message can be read by no read that begins from now on.
func (q *queue) settledHanded(it *item) {
	if it.mark == "" || it.void() {
		return
	}
	if h := it.shard.handed[it.row.Position]; h != nil {
		h.it = nil
	}
}

// unread tells that a message of the key was handed over which a reader has yet to
// pass: the reader could not go on behind it.
func (k *keyQueue) unread() bool {
	for _, it := range k.items {
		if it.mark != "" {
			return true
		}
	}
	for _, h := range k.shard.handed {
		if h.it != nil && h.key == k.name {
			return true
		}
	}
	return false
}

// refusedHanded has the shard of a refused message that no reader has passed read from
// the start: what waits behind it may fill the memory, and could not be left in the
// store.
func (q *queue) refusedHanded(it *item) {
	if it.mark == "" || it.void() {
		return
	}
	s := it.shard
	rows := s.held + s.cut + s.forgotten.rows
	s.resting = time.Now().Add(max(handoverRest, time.Duration(rows)*rereadPerRow))
	if s.owned && s.fate == keep {
		q.drop(s, restart)
		q.dropVoid()
	}
}
