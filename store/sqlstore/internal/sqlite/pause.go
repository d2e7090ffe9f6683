package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/outbox-go/outbox/store"
)

const (
	pauseSQL  = `INSERT INTO {pause} (topic, tenant, key) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`
	resumeSQL = `DELETE FROM {pause} WHERE topic = ? AND tenant = ? AND key = ?`
	pausesSQL = `SELECT topic, tenant, key FROM {pause}`
)

// Pause reports whether the pause was not there.
func (s *Store) Pause(ctx context.Context, p store.Pause) (bool, error) {
	was, err := s.setPause(ctx, pauseSQL, p)
	if err != nil {
		return false, fmt.Errorf("pause: %w", err)
	}
	return was, nil
}

// Resume reports whether the pause was there.
func (s *Store) Resume(ctx context.Context, p store.Pause) (bool, error) {
	was, err := s.setPause(ctx, resumeSQL, p)
	if err != nil {
		return false, fmt.Errorf("resume: %w", err)
	}
	return was, nil
}

func (s *Store) setPause(ctx context.Context, text string, p store.Pause) (was bool, err error) {
	err = s.write(ctx, func(c runner) error {
		n, err := changed(c.ExecContext(ctx, s.names.sql(text), p.Topic, p.Tenant, p.Key))
		was = n > 0
		return err
	})
	return was, err
}

// Pauses returns all.
func (s *Store) Pauses(ctx context.Context) (pauses []store.Pause, err error) {
	err = s.snapshot(ctx, func(c runner) error {
		pauses, err = s.pauses(ctx, c)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read pauses: %w", err)
	}
	return pauses, nil
}

func (s *Store) pauses(ctx context.Context, c runner) ([]store.Pause, error) {
	return collect(ctx, c, func(rows *sql.Rows, p *store.Pause) error {
		return rows.Scan(&p.Topic, &p.Tenant, &p.Key)
	}, s.names.sql(pausesSQL))
}
