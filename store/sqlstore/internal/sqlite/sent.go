package sqlite

import (
	"context"
	"fmt"
	"time"
)

// purgeChunk is the number of rows that are deleted at once: the writers wait
// meanwhile.
const purgeChunk = 1000

const (
	oldSentSQL = `SELECT EXISTS (SELECT 1 FROM {sent} WHERE sent_at < {now} - ?)`

	purgeSentSQL = `DELETE FROM {sent} WHERE place IN (
	SELECT place FROM {sent} WHERE sent_at < {now} - ? ORDER BY sent_at LIMIT ?)`

	countSentSQL = `SELECT count(*) FROM {sent} WHERE sent_at < {now} - ?`
)

// PurgeSent deletes up to limit old rows of the history, in several transactions if
// they are many. It takes the write lock only if there are some.
func (s *Store) PurgeSent(ctx context.Context, age time.Duration, limit int) (deleted int, err error) {
	for deleted < limit {
		chunk := min(purgeChunk, limit-deleted)
		n, err := s.purgeSent(ctx, age.Microseconds(), chunk)
		deleted += n
		if err != nil {
			return deleted, fmt.Errorf("purge the history: %w", err)
		}
		if n < chunk {
			break
		}
	}
	return deleted, nil
}

func (s *Store) purgeSent(ctx context.Context, age int64, limit int) (n int, err error) {
	var some bool
	err = s.snapshot(ctx, func(c runner) error {
		return c.QueryRowContext(ctx, s.names.sql(oldSentSQL), age).Scan(&some)
	})
	if err != nil || !some {
		return 0, err
	}
	err = s.write(ctx, func(c runner) error {
		n, err = changed(c.ExecContext(ctx, s.names.sql(purgeSentSQL), age, limit))
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// CountSent returns how many rows were sent longer than age ago.
func (s *Store) CountSent(ctx context.Context, age time.Duration) (n int, err error) {
	err = s.snapshot(ctx, func(c runner) error {
		return c.QueryRowContext(ctx, s.names.sql(countSentSQL), age.Microseconds()).Scan(&n)
	})
	if err != nil {
		return 0, fmt.Errorf("count the history: %w", err)
	}
	return n, nil
}
