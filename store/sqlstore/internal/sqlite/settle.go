package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"unicode/utf8"

	"github.com/outbox-go/outbox/store"
)

// maxError is the number of bytes that are kept of a broker's error.
const maxError = 2000

const (
	// One prepared statement for each row: measured, it costs half of one that
	// takes all as JSON, and a fifth of a list of values.
	settleSQL = `DELETE FROM {message} WHERE position = ? AND id = ?`

	leaseHeldSQL = `SELECT EXISTS (SELECT 1 FROM {lease} WHERE shard = ? AND token = ? AND owner IS NOT NULL)`

	failSQL = `UPDATE {message} SET attempts = ?, last_error = ?, retry_at = {now} + ? WHERE position = ? AND id = ?`
)

// Settle deletes the rows that refs name, in one transaction.
func (s *Store) Settle(ctx context.Context, refs []store.Ref, _ bool) error {
	if len(refs) == 0 {
		return nil
	}
	err := s.write(ctx, func(c *sql.Conn) error {
		stmt, err := c.PrepareContext(ctx, s.text.settle)
		if err != nil {
			return err
		}
		defer func() { _ = stmt.Close() }()
		for _, ref := range refs {
			if _, err := stmt.ExecContext(ctx, ref.Position, ref.ID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("settle %d messages: %w", len(refs), err)
	}
	return nil
}

// Fail writes failures under their leases. It has the write lock while it looks
// at the leases, so none of them can change hands before the commit.
func (s *Store) Fail(ctx context.Context, failures []store.Failure) error {
	if len(failures) == 0 {
		return nil
	}
	err := s.write(ctx, func(c *sql.Conn) error {
		if err := s.checkLeases(ctx, c, failures); err != nil {
			return err
		}
		stmt, err := c.PrepareContext(ctx, s.text.fail)
		if err != nil {
			return err
		}
		defer func() { _ = stmt.Close() }()
		for i := range failures {
			f := &failures[i]
			_, err := stmt.ExecContext(ctx, f.Attempts, shorten(f.Error, maxError), f.RetryIn.Microseconds(), f.Ref.Position, f.Ref.ID)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record %d failures: %w", len(failures), err)
	}
	return nil
}

func (s *Store) checkLeases(ctx context.Context, c *sql.Conn, failures []store.Failure) error {
	seen := map[store.Lease]bool{}
	for i := range failures {
		lease := failures[i].Lease
		if seen[lease] {
			continue
		}
		seen[lease] = true
		var held bool
		if err := c.QueryRowContext(ctx, s.text.leaseHeld, lease.Shard, lease.Token).Scan(&held); err != nil {
			return err
		}
		if !held {
			return store.ErrLeaseLost
		}
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
