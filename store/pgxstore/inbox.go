package pgxstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/internal/postgres"
)

// Once runs fn in a transaction of its own together with the row that says that
// consumer has handled the message id, and commits. If that row is there already it
// reports false and does not run fn; for a transaction that is about to write it,
// it waits. What fn emits on its transaction, with the context that it gets, wakes
// the relay after the commit. See worker.Inbox.
func (s *Store) Once(ctx context.Context, consumer, id string, fn func(ctx context.Context, tx pgx.Tx) error) (first bool, err error) {
	if err := store.CheckInboxRow(consumer, id); err != nil {
		return false, err
	}
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return false, fmt.Errorf("inbox: begin: %w", postgres.Lost(err))
	}
	defer func() { _ = tx.Rollback(ctx) }() // does nothing after the end; for a panic
	tag, err := tx.Exec(ctx, s.inboxInsert, consumer, id)
	if err != nil {
		_ = tx.Rollback(ctx) // before the pool is asked for another connection
		return false, fmt.Errorf("inbox: insert: %w", postgres.Lost(s.InboxError(ctx, err)))
	}
	if tag.RowsAffected() == 0 {
		return false, nil
	}
	e := &emits{conn: tx.Conn()}
	if err := fn(context.WithValue(ctx, emitsKey{s.notifier}, e), tx); err != nil {
		return false, failed(ctx, tx, err)
	}
	if err := tx.Commit(ctx); err != nil {
		return false, fmt.Errorf("inbox: commit: %w", postgres.Lost(err))
	}
	if e.some.Load() {
		s.Wake()
	}
	return true, nil
}

// failed rolls back and returns err, which is fn's. That it has to do with the
// transaction's connection shows by the connection.
func failed(ctx context.Context, tx pgx.Tx, err error) error {
	isLost := tx.Conn().IsClosed()
	rollbackErr := tx.Rollback(ctx)
	if rollbackErr != nil && !errors.Is(rollbackErr, pgx.ErrTxClosed) && ctx.Err() == nil {
		isLost = true
	}
	if isLost {
		return postgres.Lost(err)
	}
	return err
}

// Transient reports whether err, which Once returned, is one of the database that
// passes: a serialization failure, a deadlock, a lock, a statement or a connection
// that was not had in time, a server that restarts. An error of a network counts
// only if it was met on the transaction's own connection, or while another to a
// database was made.
func (s *Store) Transient(err error) bool {
	var unconnected *pgconn.ConnectError
	if errors.As(err, &unconnected) {
		err = postgres.Lost(err)
	}
	return postgres.Transient(err)
}
