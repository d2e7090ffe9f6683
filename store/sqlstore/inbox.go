package sqlstore

import (
	"context"
	"database/sql"
	"time"

	"github.com/outbox-go/outbox/store"
)

// Once runs fn in a transaction of its own together with the row that says that
// consumer has handled the message id, and commits. If that row is there already it
// reports false and does not run fn; for a transaction that is about to write it,
// it waits. On SQLite the transaction has the write lock from its start, as that of
// [Store.InTx]. What fn emits on its transaction wakes the relay after the commit.
// See worker.Inbox.
func (s *Store) Once(ctx context.Context, consumer, id string, fn func(ctx context.Context, tx *sql.Tx) error) (first bool, err error) {
	if err := store.CheckInboxRow(consumer, id); err != nil {
		return false, err
	}
	return s.backend.Once(ctx, consumer, id, fn)
}

// Transient reports whether err, which Once returned, is one of the database that
// passes. On PostgreSQL: a serialization failure, a deadlock, a lock, a statement or
// a connection that was not had in time, a server that restarts; an error of a
// network counts only if it was met on the transaction's own connection. On SQLite:
// a lock that was not had in time, memory or disk used up, and errors of input and
// output.
func (s *Store) Transient(err error) bool { return s.backend.Transient(err) }

// PurgeInbox deletes up to limit rows of the inbox that were written longer than age
// ago, by the database's clock, and returns how many there were. Several processes
// may do so at once.
func (s *Store) PurgeInbox(ctx context.Context, age time.Duration, limit int) (int, error) {
	return s.backend.PurgeInbox(ctx, age, limit)
}

// CountInbox returns how many rows of the inbox were written longer than age ago.
func (s *Store) CountInbox(ctx context.Context, age time.Duration) (int, error) {
	return s.backend.CountInbox(ctx, age)
}

// CheckInbox returns a [*store.MissingError] that lists all that the database lacks
// for an inbox, which a relay does without.
func (s *Store) CheckInbox(ctx context.Context) error { return s.backend.CheckInbox(ctx) }
