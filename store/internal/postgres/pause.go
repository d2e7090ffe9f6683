package postgres

import (
	"context"
	"fmt"

	"github.com/outbox-go/outbox/store"
)

const (
	pauseSQL = `WITH p AS (INSERT INTO {pause} (topic, tenant, key) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING 1)
SELECT EXISTS (SELECT FROM p)`

	resumeSQL = `WITH p AS (DELETE FROM {pause} WHERE topic = $1 AND tenant = $2 AND key = $3 RETURNING 1)
SELECT EXISTS (SELECT FROM p)`

	pausesSQL = `SELECT topic, tenant, key FROM {pause} ORDER BY topic, tenant, key`
)

// Pause holds messages back and reports whether that was new.
func (c *Core) Pause(ctx context.Context, p store.Pause) (isNew bool, err error) {
	if _, err := queryRow(ctx, c.db, c.names.SQL(pauseSQL), []any{p.Topic, p.Tenant, p.Key}, &isNew); err != nil {
		return false, fmt.Errorf("pause: %w", err)
	}
	return isNew, nil
}

// Resume ends a pause and reports whether there was one.
func (c *Core) Resume(ctx context.Context, p store.Pause) (was bool, err error) {
	if _, err := queryRow(ctx, c.db, c.names.SQL(resumeSQL), []any{p.Topic, p.Tenant, p.Key}, &was); err != nil {
		return false, fmt.Errorf("resume: %w", err)
	}
	return was, nil
}

// Pauses returns what is held back.
func (c *Core) Pauses(ctx context.Context) ([]store.Pause, error) {
	pauses, err := c.pausesIn(ctx, c.db)
	if err != nil {
		return nil, fmt.Errorf("read pauses: %w", err)
	}
	return pauses, nil
}

func (c *Core) pausesIn(ctx context.Context, q Querier) (pauses []store.Pause, err error) {
	err = scan(ctx, q, c.names.SQL(pausesSQL), nil, func(rows Rows) error {
		for rows.Next() {
			var p store.Pause
			if err := rows.Scan(&p.Topic, &p.Tenant, &p.Key); err != nil {
				return err
			}
			pauses = append(pauses, p)
		}
		return nil
	})
	return pauses, err
}
