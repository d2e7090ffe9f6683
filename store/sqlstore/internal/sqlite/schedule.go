package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/outbox-go/outbox/store"
)

const (
	nextDueSQL = `SELECT min(deliver_at), {now} FROM {scheduled}`

	// What one statement takes for due must be so for the other too: the clock is a
	// parameter.
	promoteSQL = `INSERT INTO {message} (route, {content})
SELECT route, {content} FROM {scheduled} WHERE deliver_at <= ? ORDER BY deliver_at, place LIMIT ?`

	promotedSQL = `DELETE FROM {scheduled} WHERE place IN (
	SELECT place FROM {scheduled} WHERE deliver_at <= ? ORDER BY deliver_at, place LIMIT ?)`
)

// Promote moves what is due. It takes the write lock only if there is something.
func (s *Store) Promote(ctx context.Context, limit int) (p store.Promotion, err error) {
	err = s.snapshot(ctx, func(c runner) error {
		p, _, err = s.nextDue(ctx, c)
		return err
	})
	if err == nil && p.Next <= 0 && limit > 0 {
		err = s.write(ctx, func(c runner) error {
			p, err = s.promote(ctx, c, limit)
			return err
		})
	}
	if err != nil {
		return store.Promotion{}, fmt.Errorf("promote scheduled messages: %w", err)
	}
	if p.Moved > 0 {
		s.Wake()
	}
	return p, nil
}

func (s *Store) promote(ctx context.Context, c runner, limit int) (p store.Promotion, err error) {
	_, now, err := s.nextDue(ctx, c)
	if err != nil {
		return p, err
	}
	if _, err := c.ExecContext(ctx, s.text.promote, now, limit); err != nil {
		return p, err
	}
	moved, err := changed(c.ExecContext(ctx, s.text.promoted, now, limit))
	if err != nil {
		return p, err
	}
	p, _, err = s.nextDue(ctx, c)
	p.Moved = moved
	return p, err
}

// nextDue returns how long it is until the next message is due, and the database's
// clock.
func (s *Store) nextDue(ctx context.Context, c runner) (p store.Promotion, now int64, err error) {
	var next sql.NullInt64
	if err := c.QueryRowContext(ctx, s.text.nextDue).Scan(&next, &now); err != nil {
		return p, 0, err
	}
	p.Next = store.Never
	if next.Valid {
		p.Next = ticks(duration(next.Int64 - now))
	}
	return p, now, nil
}

// ticks cuts d to the milliseconds in which the database's clock goes, one at least
// if it has not come.
func ticks(d time.Duration) time.Duration {
	if d <= 0 {
		return d
	}
	return max(d.Truncate(time.Millisecond), time.Millisecond)
}

// changed returns the number of rows that a statement changed.
func changed(result sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}
