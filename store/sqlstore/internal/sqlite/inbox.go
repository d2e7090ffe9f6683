package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/outbox-go/outbox/store"
)

const (
	inboxInsertSQL = `INSERT INTO {inbox} (consumer, message_id) VALUES (?, ?) ON CONFLICT DO NOTHING`

	oldInboxSQL = `SELECT EXISTS (SELECT 1 FROM {inbox} WHERE received_at < {now} - ?)`

	purgeInboxSQL = `DELETE FROM {inbox} WHERE rowid IN (
	SELECT rowid FROM {inbox} WHERE received_at < {now} - ? ORDER BY received_at LIMIT ?)`

	countInboxSQL = `SELECT count(*) FROM {inbox} WHERE received_at < {now} - ?`
)

// Once runs fn in a transaction that has the write lock from its start, unless the
// inbox knows the message.
func (s *Store) Once(ctx context.Context, consumer, id string, fn func(ctx context.Context, tx *sql.Tx) error) (first bool, err error) {
	leave, err := s.queueFor(ctx)
	if err != nil {
		return false, err
	}
	defer leave()
	tx, first, err := s.beginOnce(ctx, consumer, id)
	if err != nil {
		return false, fmt.Errorf("inbox: %w", ownError(s.inboxError(err)))
	}
	defer func() { _ = tx.Rollback() }() // does nothing after the commit
	if !first {
		return false, nil
	}
	e := &emits{tx: tx}
	if err := fn(context.WithValue(ctx, emitsKey{s.writer}, e), tx); err != nil {
		return false, err
	}
	if err := tx.Commit(); err != nil {
		return false, fmt.Errorf("inbox: commit: %w", ownError(err))
	}
	if e.some.Load() {
		s.Wake()
	}
	return true, nil
}

// beginOnce begins by the inbox's row, which takes the write lock.
func (s *Store) beginOnce(ctx context.Context, consumer, id string) (tx *sql.Tx, first bool, err error) {
	err = whileBusy(ctx, func() error {
		if tx, err = s.db.BeginTx(ctx, nil); err != nil {
			return err
		}
		result, err := tx.ExecContext(ctx, s.text.inboxInsert, consumer, id)
		if err != nil {
			_ = tx.Rollback()
			return err
		}
		n, err := result.RowsAffected()
		first = n > 0
		return err
	})
	return tx, first, err
}

// PurgeInbox deletes up to limit old rows. It takes the write lock only if there are
// some.
func (s *Store) PurgeInbox(ctx context.Context, age time.Duration, limit int) (deleted int, err error) {
	micros := age.Microseconds()
	var some bool
	err = s.snapshot(ctx, func(c runner) error {
		return c.QueryRowContext(ctx, s.text.oldInbox, micros).Scan(&some)
	})
	if err == nil && some {
		err = s.write(ctx, func(c runner) error {
			result, err := c.ExecContext(ctx, s.text.purgeInbox, micros, max(limit, 0))
			if err != nil {
				return err
			}
			n, err := result.RowsAffected()
			deleted = int(n)
			return err
		})
	}
	if err != nil {
		return 0, fmt.Errorf("purge the inbox: %w", s.inboxError(err))
	}
	return deleted, nil
}

// CountInbox returns how many rows were written longer than age ago.
func (s *Store) CountInbox(ctx context.Context, age time.Duration) (n int, err error) {
	err = s.snapshot(ctx, func(c runner) error {
		return c.QueryRowContext(ctx, s.text.countInbox, age.Microseconds()).Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("count the inbox: %w", s.inboxError(err))
	}
	return n, nil
}

// inboxError turns the error of a statement on the inbox into one that says what to
// do, if the table is missing.
func (s *Store) inboxError(err error) error {
	if strings.Contains(err.Error(), "no such table: "+s.names.table("inbox")) {
		return &store.MissingError{Missing: []string{noTable(s.names.table("inbox"))}}
	}
	return err
}
