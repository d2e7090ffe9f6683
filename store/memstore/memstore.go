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
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// maxError is the number of bytes that are kept of a broker's error.
const maxError = 2000

// Config changes the defaults of [New].
type Config struct {
	// Shards is the number of shards, 1 to 64. Defaults to 64, also for any
	// number outside that range.
	Shards int
}

// Store is an outbox in memory. It is safe for concurrent use; all who share it
// see the same data. Make it with [New].
type Store struct {
	shards   int
	system   string
	position atomic.Int64

	mu      sync.RWMutex
	commits uint64         // number of commits so far
	log     []*row         // in the order of commits; within one, of positions
	removed int            // rows in log that are settled
	pending map[int64]*row // by position
	values  map[string]string

	leases [store.MaxShards]lease
	tokens int64
	relays map[string]*member
	joined int64

	inbox inbox

	listeners listeners
}

// row is a committed message. What a reader needs to skip it stays when it is
// removed, so that positions in the log can still be compared.
type row struct {
	commit   uint64
	position int64
	shard    uint8
	removed  bool
	retryAt  time.Time
	message  outbox.Message
}

// New returns an empty store. config may be nil.
func New(config *Config) *Store {
	shards := store.MaxShards
	if config != nil && config.Shards >= 1 && config.Shards <= store.MaxShards {
		shards = config.Shards
	}
	return &Store{
		shards:  shards,
		system:  rand.Text(),
		pending: make(map[int64]*row),
		values:  make(map[string]string),
		relays:  make(map[string]*member),
		inbox:   inbox{done: make(map[inboxKey]struct{}), held: make(map[inboxKey]chan struct{})},
	}
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

// Insert gives msgs their positions and adds copies of them to tx. They are
// seen when tx commits.
func (s *Store) Insert(ctx context.Context, tx *Tx, msgs []outbox.Message) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case tx == nil:
		return outbox.ErrNilTx
	case tx.store != s:
		return errors.New("memstore: the transaction is another store's")
	case tx.done:
		return ErrTxDone
	}
	rows := make([]row, len(msgs))
	position := s.position.Add(int64(len(msgs))) - int64(len(msgs))
	for i := range msgs {
		position++
		r := &rows[i]
		r.message = msgs[i]
		r.message.Payload = slices.Clone(msgs[i].Payload)
		r.message.Headers = maps.Clone(msgs[i].Headers)
		r.message.CreatedAt = msgs[i].CreatedAt.UTC()
		r.message.Position = position
		r.position = position
		r.shard = s.shardOf(msgs[i].Key, position)
		tx.rows = append(tx.rows, r)
	}
	return nil
}

// shardOf hashes by FNV-1a, with a final mix because its low bits alone are
// poor for short keys.
func (s *Store) shardOf(key string, position int64) uint8 {
	h := uint64(position)
	if key != "" {
		h = 14695981039346656037
		for i := range len(key) {
			h = (h ^ uint64(key[i])) * 1099511628211
		}
	}
	h ^= h >> 32
	h *= 0x9e3779b97f4a7c15
	return uint8((h >> 40) % uint64(s.shards)) //nolint:gosec // below 64
}

// Settle removes the messages that refs name by position and id together, and
// ignores those that are not there.
func (s *Store) Settle(ctx context.Context, refs []store.Ref, _ bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ref := range refs {
		r := s.pending[ref.Position]
		if r == nil || r.message.ID != ref.ID {
			continue
		}
		delete(s.pending, ref.Position)
		r.removed = true
		r.message = outbox.Message{}
		s.removed++
	}
	s.compact()
	return nil
}

// compact drops removed rows from the log once they are the greater part of it,
// so that each is moved once on the average.
func (s *Store) compact() {
	if s.removed < 4096 || s.removed < len(s.log)/2 {
		return
	}
	kept := make([]*row, 0, len(s.log)-s.removed)
	for _, r := range s.log {
		if !r.removed {
			kept = append(kept, r)
		}
	}
	s.log, s.removed = kept, 0
}

// Fail stores attempts, error and waiting time of messages that are still
// pending, or nothing and [store.ErrLeaseLost] if a lease is not held any more.
func (s *Store) Fail(ctx context.Context, failures []store.Failure) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range failures {
		if !s.holds(failures[i].Lease) {
			return store.ErrLeaseLost
		}
	}
	now := time.Now()
	for i := range failures {
		f := &failures[i]
		r := s.pending[f.Ref.Position]
		if r == nil || r.message.ID != f.Ref.ID {
			continue
		}
		r.message.Attempts = f.Attempts
		r.message.LastError = shorten(f.Error, maxError)
		r.retryAt = now.Add(f.RetryIn)
	}
	return nil
}

// shorten cuts text to at most n bytes, between characters.
func shorten(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
