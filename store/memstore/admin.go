package memstore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/outbox-go/outbox/store"
)

// touched collects the shards of routes that were changed.
type touched map[string]store.ShardSet

func (t touched) add(r *row) { t[r.message.Route] = t[r.message.Route].With(r.shard) }

// bumpAll gives all that was touched new tokens.
func (d *data) bumpAll(t touched) {
	for route, shards := range t {
		d.bump(route, shards)
	}
	if len(t) > 0 {
		d.listeners.wake()
	}
}

// Redrive makes dead letters pending again, where they were in the order. With one of
// a parked key go all of that key and route.
func (s *Store) Redrive(ctx context.Context, places []int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now, shards := time.Now(), touched{}
	var rows []*row
	for _, m := range s.withParked(places) {
		s.exhume(m)
		r := *m.row
		r.removed = false
		r.message.Attempts, r.message.LastError = 0, ""
		if expires := r.message.ExpiresAt; !expires.IsZero() && !expires.After(now) {
			r.message.ExpiresAt = time.Time{}
		}
		shards.add(&r)
		rows = append(rows, &r)
	}
	s.putBack(rows)
	s.bumpAll(shards)
	return len(rows), nil
}

// withParked returns the dead letters at these places, and with one of a parked key
// all of its key.
func (d *data) withParked(places []int64) []*stored {
	type routeKey struct {
		route string
		key   store.Key
	}
	keys := map[routeKey]bool{}
	var chosen []*stored
	for _, m := range d.at(places) {
		k := routeKey{m.row.message.Route, m.row.key()}
		if d.lane(k.route).parked[k.key] > 0 {
			keys[k] = true
			continue
		}
		chosen = append(chosen, m)
	}
	if len(keys) == 0 {
		return chosen
	}
	for m := range d.dead.behind(0) {
		if keys[routeKey{m.row.message.Route, m.row.key()}] {
			chosen = append(chosen, m)
		}
	}
	return chosen
}

// at returns the dead letters at these places, each once.
func (d *data) at(places []int64) []*stored {
	var found []*stored
	for place := range setOf(places) {
		if m := d.dead.find(place); m != nil {
			found = append(found, m)
		}
	}
	return found
}

// Discard deletes dead letters.
func (s *Store) Discard(ctx context.Context, places []int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	shards := touched{}
	found := s.at(places)
	for _, m := range found {
		if s.exhume(m) {
			shards.add(m.row)
		}
	}
	s.bumpAll(shards)
	return len(found), nil
}

// Retry makes pending messages due that wait or are blocked.
func (s *Store) Retry(ctx context.Context, refs []store.Ref) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now, shards, n := time.Now(), touched{}, 0
	for ref := range setOf(refs) {
		r := s.find(ref)
		if r == nil || r.retryIn(now) <= 0 {
			continue
		}
		r.blocked, r.retryAt = false, time.Time{}
		r.message.Attempts, r.message.LastError = 0, ""
		shards.add(r)
		n++
	}
	s.bumpAll(shards)
	return n, nil
}

// Pause holds messages back until Resume.
func (s *Store) Pause(ctx context.Context, p store.Pause) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, there := s.pauses[p]
	s.pauses[p] = struct{}{}
	return !there, nil
}

// Resume ends a pause.
func (s *Store) Resume(ctx context.Context, p store.Pause) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, there := s.pauses[p]
	delete(s.pauses, p)
	return there, nil
}

// Pauses returns what is held back.
func (s *Store) Pauses(ctx context.Context) ([]store.Pause, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.allPauses(), nil
}

func (d *data) allPauses() []store.Pause {
	pauses := make([]store.Pause, 0, len(d.pauses))
	for p := range d.pauses {
		pauses = append(pauses, p)
	}
	slices.SortFunc(pauses, func(a, b store.Pause) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Key, b.Key))
	})
	return pauses
}

// PurgeSent deletes up to limit messages from the history that were sent longer
// than age ago, the oldest first.
func (s *Store) PurgeSent(ctx context.Context, age time.Duration, limit int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.oldSent(age, limit)
	for _, m := range old {
		s.sent.remove(m)
	}
	return len(old), nil
}

// CountSent returns how many messages were sent longer than age ago.
func (s *Store) CountSent(ctx context.Context, age time.Duration) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.oldSent(age, s.sent.len())), nil
}

// oldSent returns up to limit old messages, the oldest first.
func (d *data) oldSent(age time.Duration, limit int) (old []*stored) {
	before := time.Now().Add(-age)
	for m := range d.sent.behind(0) {
		if len(old) >= limit || !m.at.Before(before) {
			break
		}
		old = append(old, m)
	}
	return old
}
