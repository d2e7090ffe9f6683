package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/outbox-go/outbox/store/internal/postgres"
)

func (b *postgresBackend) Once(ctx context.Context, consumer, id string, fn func(ctx context.Context, tx *sql.Tx) error) (first bool, err error) {
	tx, err := b.db.sql.BeginTx(ctx, nil)
	if err != nil {
		return false, fmt.Errorf("inbox: begin: %w", lost(ctx, err))
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the end; for a panic
	result, err := tx.ExecContext(ctx, b.inboxInsert, consumer, id)
	if err != nil {
		_ = tx.Rollback() // before the pool is asked for another connection
		return false, fmt.Errorf("inbox: insert: %w", lost(ctx, b.InboxError(ctx, err)))
	}
	if n, err := result.RowsAffected(); n == 0 {
		return false, err
	}
	if err := fn(ctx, tx); err != nil {
		if rollbackErr := tx.Rollback(); rollbackErr != nil && !errors.Is(rollbackErr, sql.ErrTxDone) {
			return false, lost(ctx, err)
		}
		return false, err
	}
	if err := tx.Commit(); err != nil {
		return false, fmt.Errorf("inbox: commit: %w", lost(ctx, err))
	}
	return true, nil
}

// lost returns an error of the database as what it is: one of the caller's context,
// which drivers tell in words of their own, or of the connection.
func lost(ctx context.Context, err error) error {
	if ended := ctx.Err(); errors.Is(ended, context.Canceled) && !errors.Is(err, ended) {
		return errors.Join(ended, err)
	}
	return postgres.Lost(err)
}

// Transient reports whether err is one of the database that passes.
func (b *postgresBackend) Transient(err error) bool { return postgres.Transient(err) }
