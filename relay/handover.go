package relay

import (
	"slices"
	"time"

	"github.com/outbox-go/outbox/store"
)

// Follower is a [Store] that knows what is committed in this process, and hands it to
// the relays that drain it here, so that it need not be read back. The rows are there
// all the same, and are read if no relay takes them.
type Follower interface {
	// Follow has take, which does not block, called with what is committed, until
	// stop. What is taken too late or not at all comes by Read.
	Follow(take func(store.Commit)) (stop func())

	// Saw tells whether a reader that stands at a cursor has read what a commit's
	// mark stands for, or passed it after it was deleted.
	Saw(c store.Cursor, mark string) bool
}

const (
	// handoverQueue is with how many messages in memory nothing is handed over any
	// more: it would wait here as it does in the store.
	handoverQueue = 64

	// handoverRest is for how long nothing is handed over to a shard of which such a
	// message was refused.
	handoverRest = 10 * time.Second
)

// handed is a message that was not read, but handed over, as long as it may yet be
// read.
type handed struct {
	it   *item
	mark string
}

// handOver takes in what was committed, if that keeps the order.
func (q *queue) handOver(c store.Commit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.stopping && q.ready.len()+q.inFlight+len(q.offers) <= handoverQueue && q.wait(&c) {
		q.offers = append(q.offers, c)
	}
}

// reconsider looks again at what had to wait for a read.
func (q *queue) reconsider() {
	q.offers = slices.DeleteFunc(q.offers, func(c store.Commit) bool { return !q.wait(&c) })
}

// wait takes in the rows of a commit if they can be sent now, and reports whether they
// have to wait for a read.
func (q *queue) wait(c *store.Commit) bool {
	chance := atOnce
	for i := range c.Rows {
		chance = min(chance, q.chance(&c.Rows[i], c))
	}
	if chance == atOnce {
		for i := range c.Rows {
			q.takeRow(&c.Rows[i], c.Mark)
		}
	}
	return chance == afterRead
}

// chance is whether a message can be handed over.
type chance uint8

const (
	byReader  chance = iota // not at all
	afterRead               // when a read is over that begins after it was written
	atOnce
)

// chance tells whether a row can be sent without being read. One with a key can if all
// that was committed before it was written has been read: by a read that began later.
func (q *queue) chance(row *store.Row, c *store.Commit) chance {
	s := &q.shards[row.Shard]
	st := q.streamOf(row.Tenant, row.Shard)
	switch {
	case !s.owned || s.fate != keep || q.fresh.Has(row.Shard) || time.Now().Before(s.resting) || !time.Now().Before(q.deadline):
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

func (q *queue) takeRow(row *store.Row, mark string) {
	s := &q.shards[row.Shard]
	it := &item{row: *row, shard: s, gen: s.gen, mark: mark, size: row.Size() + itemOverhead}
	if s.handed == nil {
		s.handed = map[int64]handed{}
	}
	s.handed[row.Position] = handed{it, mark}
	if row.Key == "" {
		q.charge(it)
		q.list(it, false)
		return
	}
	k := q.keyOf(s, store.Key{Tenant: row.Tenant, Key: row.Key})
	it.key = k
	q.charge(it)
	k.items = append(k.items, it)
	q.listNext(k, false)
}

// wasHanded reports whether a row that was read had been handed over.
func (s *shard) wasHanded(row *store.Row) bool {
	h, is := s.handed[row.Position]
	is = is && h.it.row.ID == row.ID
	if is {
		delete(s.handed, row.Position)
	}
	return is
}

// passHanded forgets what was handed over and can be read no more, since the stream
// that would bring it is behind it.
func (q *queue) passHanded(st *stream) {
	if st.more || st.key != nil {
		return
	}
	for i := range q.shards {
		s := &q.shards[i]
		if len(s.handed) == 0 || !st.shards.Has(s.lease.Shard) {
			continue
		}
		for position, h := range s.handed {
			if q.streamOf(h.it.row.Tenant, s.lease.Shard) == st && q.saw(st.cursor, h.mark) {
				delete(s.handed, position)
			}
		}
	}
}

// handed tells that a message of a key was handed over that is in memory or may yet
// be read. A reader cannot go on behind it, since it has not been there.
func (k *keyQueue) handed() bool {
	for _, it := range k.items {
		if it.mark != "" {
			return true
		}
	}
	for _, h := range k.shard.handed {
		if h.it.row.Key == k.name.Key && h.it.row.Tenant == k.name.Tenant {
			return true
		}
	}
	return false
}

// refusedHanded has the shard of a refused message that was handed over read from the
// start: what waits behind it may fill the memory, and could not be left in the store.
func (q *queue) refusedHanded(s *shard) {
	s.resting = time.Now().Add(handoverRest)
	if s.owned && s.fate == keep {
		q.drop(s, restart)
		q.dropVoid()
	}
}
