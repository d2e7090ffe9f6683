package memstore

import (
	"context"
	"time"

	"github.com/outbox-go/outbox/store"
)

// inbox remembers which messages were handled.
type inbox struct {
	rows []inboxRow                 // in the order of commits, the oldest first
	done map[inboxKey]struct{}      // those of rows
	held map[inboxKey]chan struct{} // by a Once that is at work; closed when it ends
}

type inboxKey struct {
	consumer, id string
}

type inboxRow struct {
	inboxKey
	at time.Time
}

// Once runs fn in a transaction of its own together with the row that says that
// consumer has handled the message id, and commits. If that row is there already it
// reports false and does not run fn; for another Once of the same row it waits. See
// worker.Inbox.
func (s *Store) Once(ctx context.Context, consumer, id string, fn func(ctx context.Context, tx *Tx) error) (first bool, err error) {
	if err := store.CheckInboxRow(consumer, id); err != nil {
		return false, err
	}
	key := inboxKey{consumer, id}
	first, err = s.hold(ctx, key)
	if !first || err != nil {
		return false, err
	}
	defer s.letGo(key)
	err = s.InTx(ctx, func(tx *Tx) error {
		tx.inbox = &key
		return fn(ctx, tx)
	})
	return err == nil, err
}

// hold keeps others from handling a message, after the one that does so now, or
// reports false if it was handled.
func (s *Store) hold(ctx context.Context, key inboxKey) (bool, error) {
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		s.mu.Lock()
		_, done := s.inbox.done[key]
		other := s.inbox.held[key]
		if !done && other == nil {
			s.inbox.held[key] = make(chan struct{})
		}
		s.mu.Unlock()
		if done || other == nil {
			return !done, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
		}
	}
}

func (s *Store) letGo(key inboxKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.inbox.held[key])
	delete(s.inbox.held, key)
}

// Transient returns false: nothing here passes.
func (s *Store) Transient(error) bool { return false }

// PurgeInbox deletes up to limit rows that were written longer than age ago, the
// oldest first, and returns how many there were.
func (s *Store) PurgeInbox(ctx context.Context, age time.Duration, limit int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.oldInbox(age, max(limit, 0))
	for _, r := range s.inbox.rows[:n] {
		delete(s.inbox.done, r.inboxKey)
	}
	clear(s.inbox.rows[:n])
	s.inbox.rows = s.inbox.rows[n:]
	return n, nil
}

// CountInbox returns how many rows were written longer than age ago.
func (s *Store) CountInbox(ctx context.Context, age time.Duration) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.oldInbox(age, len(s.inbox.rows)), nil
}

// CheckInbox returns nil: nothing can be missing.
func (s *Store) CheckInbox(ctx context.Context) error { return ctx.Err() }

// oldInbox counts old rows up to limit.
func (s *Store) oldInbox(age time.Duration, limit int) (n int) {
	before := time.Now().Add(-age)
	for n < min(limit, len(s.inbox.rows)) && s.inbox.rows[n].at.Before(before) {
		n++
	}
	return n
}
