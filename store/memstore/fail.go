package memstore

import (
	"context"
	"time"
	"unicode/utf8"

	"github.com/outbox-go/outbox/store"
)

// maxError is the number of bytes that are kept of a broker's error.
const maxError = 2000

// Settle removes the messages that refs name by position and id together, into the
// history if keep is set, and ignores those that are not there.
func (s *Store) Settle(ctx context.Context, refs []store.Ref, keep bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(refs, keep, time.Now())
	return nil
}

func (d *data) settle(refs []store.Ref, keep bool, now time.Time) {
	for _, ref := range refs {
		r := d.find(ref)
		if r == nil {
			continue
		}
		was := d.remove(r)
		if keep {
			d.sent.add(&stored{row: was, at: now})
		}
	}
}

// Fail stores attempts, error and waiting time of messages that are still
// pending, or moves them to the dead letters; or it does nothing and returns
// [store.ErrLeaseLost] if a lease is not held any more.
func (s *Store) Fail(ctx context.Context, failures []store.Failure) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.holdsAll(failures, nil) {
		return store.ErrLeaseLost
	}
	now := time.Now()
	for i := range failures {
		s.fail(s.route, &failures[i], now)
	}
	return nil
}

// fail records what became of a message of a route, if it is pending.
func (d *data) fail(route string, f *store.Failure, now time.Time) {
	r := d.find(f.Ref)
	if r == nil || r.message.Route != route {
		return
	}
	r.refuse(f, now)
	if f.Dead != "" {
		d.bury(d.remove(r), f, now)
	}
}

// refuse notes what the broker said.
func (r *row) refuse(f *store.Failure, now time.Time) {
	r.message.Attempts = f.Attempts
	r.message.LastError = shorten(f.Error, maxError)
	r.blocked = f.RetryIn == store.Never
	r.retryAt = now.Add(f.RetryIn)
}

// bury puts a message that is pending no longer among the dead letters.
func (d *data) bury(r *row, f *store.Failure, now time.Time) {
	r.blocked, r.retryAt = false, time.Time{}
	m := &stored{row: r, reason: f.Dead, parked: f.Park && r.message.Key != "", at: now}
	d.dead.add(m)
	if m.parked {
		d.lane(r.message.Route).parked[r.key()]++
	}
}

// Parked returns the keys of these shards that are parked.
func (s *Store) Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.parked(shards), nil
}

func (s *Store) parked(shards store.ShardSet) []store.Key {
	var keys []store.Key
	for key := range s.peek(s.route).parked {
		if shards.Has(s.shardOf(key.Key, 0)) {
			keys = append(keys, key)
		}
	}
	return keys
}

// exhume takes a message from the dead letters, and reports whether its key is
// parked no longer.
func (d *data) exhume(m *stored) (freed bool) {
	d.dead.remove(m)
	if !m.parked {
		return false
	}
	parked, key := d.lane(m.row.message.Route).parked, m.row.key()
	parked[key]--
	if parked[key] > 0 {
		return false
	}
	delete(parked, key)
	return true
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
