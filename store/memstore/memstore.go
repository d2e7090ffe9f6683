// Package memstore keeps an outbox and an inbox in the memory of the process: for
// tests, for trying things out, and for measuring a relay without a database.
// Nothing survives the process.
//
// It behaves like a database with concurrent transactions: a message has its
// position when it is emitted, is seen when its transaction commits, and
// transactions commit in any order. Time comes from [time.Now], so that a test
// inside a testing/synctest bubble rules it.
package memstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// Config changes the defaults of [New].
type Config struct {
	// Shards is the number of shards, 1 to 64. Defaults to 64, also for any
	// number outside that range.
	Shards int
}

// Store is an outbox in memory, seen by those who drain one of its routes. It is
// safe for concurrent use; all who share it see the same data. Make it with [New].
type Store struct {
	*data
	route string
}

// data is what all views of an outbox share.
type data struct {
	shards    int
	system    string
	positions atomic.Int64
	places    atomic.Int64 // of scheduled messages

	mu      sync.RWMutex
	commits uint64         // number of commits so far
	last    int64          // the greatest position that was committed
	pending map[int64]*row // by position, of all routes
	lanes   map[string]*lane
	values  map[string]string
	pauses  map[store.Pause]struct{}

	scheduled shelf
	due       dueQueue // what is on the shelf of scheduled messages
	dead      shelf
	sent      shelf

	tokens int64
	joined int64

	inbox inbox

	listeners listeners
}

// lane has what belongs to one route.
type lane struct {
	log     []*row // in the order of commits; within one, of positions
	removed int    // rows in log that are pending no longer
	leases  [store.MaxShards]lease
	relays  map[string]*member
	parked  map[store.Key]int // how many dead letters keep the key parked
}

// row is a committed message. What a reader needs to skip it stays when it is
// removed, so that positions in the log can still be compared.
type row struct {
	commit   uint64
	position int64
	shard    uint8
	removed  bool
	blocked  bool
	retryAt  time.Time
	message  outbox.Message
}

// New returns an empty store. config may be nil.
func New(config *Config) *Store {
	shards := store.MaxShards
	if config != nil && config.Shards >= 1 && config.Shards <= store.MaxShards {
		shards = config.Shards
	}
	return &Store{data: &data{
		shards:  shards,
		system:  rand.Text(),
		pending: make(map[int64]*row),
		lanes:   make(map[string]*lane),
		values:  make(map[string]string),
		pauses:  make(map[store.Pause]struct{}),
		inbox:   inbox{done: make(map[inboxKey]struct{}), held: make(map[inboxKey]chan struct{})},
	}}
}

// Route returns the same outbox as those see it who drain the route of that name:
// reads, leases, relays, failures and parked keys are the route's own. [New] returns
// the view of the route "".
func (s *Store) Route(name string) *Store { return &Store{data: s.data, route: name} }

// lane returns what belongs to a route. The caller may write.
func (d *data) lane(route string) *lane {
	l := d.lanes[route]
	if l == nil {
		l = &lane{relays: make(map[string]*member), parked: make(map[store.Key]int)}
		d.lanes[route] = l
	}
	return l
}

// peek is lane for who may only read.
func (d *data) peek(route string) *lane {
	if l := d.lanes[route]; l != nil {
		return l
	}
	return &lane{}
}

// Shards returns the number of shards.
func (s *Store) Shards() int { return s.shards }

// Check returns nil: nothing can be missing.
func (s *Store) Check(ctx context.Context) error { return ctx.Err() }

// Get returns the value that was committed under key by [Tx.Put], and whether
// there is one.
func (s *Store) Get(key string) (string, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	value, ok := s.values[key]
	return value, ok
}

// Len returns the number of values that were committed by [Tx.Put].
func (s *Store) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.values)
}

// Pending returns the number of committed messages that are not settled.
func (s *Store) Pending() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.pending)
}

// Insert adds copies of msgs to tx, those that are due with their positions. They
// are seen when tx commits.
func (s *Store) Insert(ctx context.Context, tx *Tx, msgs []outbox.Message) error {
	if err := s.usable(ctx, tx); err != nil {
		return err
	}
	rows := make([]row, len(msgs))
	for i := range msgs {
		r := &rows[i]
		r.message = msgs[i]
		r.message.Payload = slices.Clone(msgs[i].Payload)
		r.message.Headers = maps.Clone(msgs[i].Headers)
		r.message.CreatedAt = msgs[i].CreatedAt.UTC()
		if msgs[i].DeliverAt.IsZero() {
			s.position(r)
			tx.rows = append(tx.rows, r)
		} else {
			tx.scheduled = append(tx.scheduled, &stored{place: s.places.Add(1), row: r})
		}
	}
	return nil
}

// usable reports whether tx can be worked in.
func (d *data) usable(ctx context.Context, tx *Tx) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case tx == nil:
		return outbox.ErrNilTx
	case tx.store.data != d:
		return errors.New("memstore: the transaction is another store's")
	case tx.done:
		return ErrTxDone
	}
	return nil
}

// position gives a message the next place in the outbox.
func (d *data) position(r *row) {
	r.position = d.positions.Add(1)
	r.message.Position = r.position
	r.shard = d.shardOf(r.message.Key, r.position)
}

// shardOf hashes by FNV-1a, with a final mix because its low bits alone are
// poor for short keys.
func (d *data) shardOf(key string, position int64) uint8 {
	h := uint64(position)
	if key != "" {
		h = 14695981039346656037
		for i := range len(key) {
			h = (h ^ uint64(key[i])) * 1099511628211
		}
	}
	h ^= h >> 32
	h *= 0x9e3779b97f4a7c15
	return uint8((h >> 40) % uint64(d.shards)) //nolint:gosec // below 64
}

// commit makes rows visible that were not seen before, in the order of their
// positions.
func (d *data) commit(rows []*row) {
	if len(rows) == 0 {
		return
	}
	d.commits++
	for _, r := range rows {
		r.commit = d.commits
		d.pending[r.position] = r
		d.last = max(d.last, r.position)
		l := d.lane(r.message.Route)
		l.log = append(l.log, r)
	}
}

// find returns the pending message that ref names, nil if there is none.
func (d *data) find(ref store.Ref) *row {
	r := d.pending[ref.Position]
	if r == nil || r.message.ID != ref.ID {
		return nil
	}
	return r
}

// remove takes a row from the pending ones and returns it as it was.
func (d *data) remove(r *row) *row {
	was := *r
	delete(d.pending, r.position)
	r.removed = true
	r.message = outbox.Message{}
	l := d.lane(was.message.Route)
	l.removed++
	l.compact()
	return &was
}

// putBack makes rows pending again that were so before, each where it was: in its
// first commit, so that it comes before all that were committed later, however a
// reader cuts the commits into epochs.
func (d *data) putBack(rows []*row) {
	touched := make(map[*lane]struct{})
	for _, r := range rows {
		d.pending[r.position] = r
		l := d.lane(r.message.Route)
		l.log = append(l.log, r)
		touched[l] = struct{}{}
	}
	for l := range touched {
		l.drop() // two rows at one position would mislead who pages by it
		slices.SortFunc(l.log, func(a, b *row) int {
			return cmp.Or(cmp.Compare(a.commit, b.commit), cmp.Compare(a.position, b.position))
		})
	}
}

// compact drops removed rows from the log once they are the greater part of it,
// so that each is moved once on the average.
func (l *lane) compact() {
	if l.removed >= 4096 && l.removed >= len(l.log)/2 {
		l.drop()
	}
}

// drop drops removed rows from the log.
func (l *lane) drop() {
	kept := make([]*row, 0, len(l.log)-l.removed)
	for _, r := range l.log {
		if !r.removed {
			kept = append(kept, r)
		}
	}
	l.log, l.removed = kept, 0
}
