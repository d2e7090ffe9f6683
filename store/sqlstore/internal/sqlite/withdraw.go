package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/outbox-go/outbox/store"
)

// wantedFor is how long nobody takes a shard that is wanted, unless that is said
// again.
const wantedFor = 30 * time.Second

const (
	// The ids of pending messages have no index, which each emit would pay for.
	copiesSQL = `SELECT 'scheduled', place, route FROM {scheduled} WHERE id = ?1
UNION ALL SELECT 'dead', place, route FROM {dead} WHERE id = ?1
UNION ALL SELECT 'sent', place, route FROM {sent} WHERE id = ?1
UNION ALL SELECT 'pending', position, route FROM {message} WHERE id = ?1`

	// copiesAtSQL finds pending ones only where they were.
	copiesAtSQL = copiesSQL + ` AND position IN (SELECT value FROM json_each(?2))`

	giveUpSQL = `UPDATE {lease} SET owner = NULL, expires_at = 0, doubt = max(doubt, (SELECT coalesce(max(position), 0) FROM {message}))
WHERE route = ? AND shard = 0 AND owner IS NOT NULL AND expires_at <= {now}`

	leaseOfSQL = `SELECT owner IS NULL, doubt FROM {lease} WHERE route = ? AND shard = 0`

	wantSQL = `INSERT INTO {lease} (route, shard, wanted_by, wanted_until) VALUES (?1, 0, ?2, {now} + ?3)
ON CONFLICT (route, shard) DO UPDATE SET wanted_by = excluded.wanted_by, wanted_until = excluded.wanted_until
WHERE wanted_by IS NULL OR wanted_by = ?2 OR wanted_until <= {now}`

	letGoSQL = `UPDATE {lease} SET wanted_by = NULL, wanted_until = 0 WHERE wanted_by = ?`

	dropScheduledSQL = `DELETE FROM {scheduled} WHERE place = ?`
	dropPendingSQL   = `DELETE FROM {message} WHERE position = ?`
)

// standing is one of the rows that a message has.
type standing struct {
	state store.State
	place int64
	route string
}

// Withdraw looks where the message is without the write lock, since that may take a
// while, and then whether it is still there. If not, the caller is to ask again.
func (s *Store) Withdraw(ctx context.Context, id, who string) (w store.Withdrawal, err error) {
	var before []standing
	err = s.snapshot(ctx, func(c runner) error {
		before, err = copies(ctx, c, s.names.sql(copiesSQL), id)
		return err
	})
	if err == nil && len(before) == 0 {
		return store.Absent, nil
	}
	if err == nil {
		err = s.write(ctx, func(c runner) error {
			w, err = s.withdraw(ctx, c, id, who, before)
			return err
		})
	}
	if err != nil {
		return "", fmt.Errorf("withdraw %s: %w", id, err)
	}
	return w, nil
}

func copies(ctx context.Context, c runner, text string, args ...any) ([]standing, error) {
	return collect(ctx, c, func(rows *sql.Rows, s *standing) error {
		return rows.Scan(&s.state, &s.place, &s.route)
	}, text, args...)
}

func (s *Store) withdraw(ctx context.Context, c runner, id, who string, before []standing) (store.Withdrawal, error) {
	var positions []int64
	for _, b := range before {
		if b.state == store.Pending {
			positions = append(positions, b.place)
		}
	}
	all, err := copies(ctx, c, s.names.sql(copiesAtSQL), id, jsonList(positions))
	if err != nil {
		return "", err
	}
	is := func(state store.State) bool {
		return slices.ContainsFunc(all, func(m standing) bool { return m.state == state })
	}
	switch {
	case !slices.Equal(all, before):
		return store.Asked, nil
	case is(store.Sent):
		return store.TooLate, nil
	case is(store.Dead):
		return store.IsDead, nil
	}
	free, doubt, err := s.askFor(ctx, c, all)
	switch {
	case err != nil:
		return "", err
	case doubt:
		return store.TooLate, nil
	case !free:
		return store.Asked, s.want(ctx, c, all, who)
	}
	return store.Withdrawn, s.drop(ctx, c, all)
}

// askFor reports whether nobody has the lease of any of the pending messages, and
// whether one of them may have been sent. A lease that was let expire is nobody's.
func (s *Store) askFor(ctx context.Context, c runner, all []standing) (free, doubt bool, err error) {
	free = true
	for _, m := range all {
		if m.state != store.Pending {
			continue
		}
		if _, err := c.ExecContext(ctx, s.names.sql(giveUpSQL), m.route); err != nil {
			return false, false, err
		}
		var unowned bool
		var until int64
		err := c.QueryRowContext(ctx, s.names.sql(leaseOfSQL), m.route).Scan(&unowned, &until)
		switch {
		case errors.Is(err, sql.ErrNoRows): // no relay ever had it
		case err != nil:
			return false, false, err
		case !unowned:
			free = false
		case m.place <= until:
			doubt = true
		}
	}
	return free, doubt, nil
}

// want keeps all leases for who, so that those that are free stay so until the
// others are.
func (s *Store) want(ctx context.Context, c runner, all []standing, who string) error {
	for _, m := range all {
		if m.state != store.Pending {
			continue
		}
		if _, err := c.ExecContext(ctx, s.names.sql(wantSQL), m.route, who, wantedFor.Microseconds()); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) drop(ctx context.Context, c runner, all []standing) error {
	texts := map[store.State]string{store.Scheduled: dropScheduledSQL, store.Pending: dropPendingSQL}
	for _, m := range all {
		if _, err := c.ExecContext(ctx, s.names.sql(texts[m.state]), m.place); err != nil {
			return err
		}
	}
	return nil
}

// LetGo gives up what Withdraw has asked for.
func (s *Store) LetGo(ctx context.Context, who string) error {
	err := s.write(ctx, func(c runner) error { return run(ctx, c, step{s.names.sql(letGoSQL), []any{who}}) })
	if err != nil {
		return fmt.Errorf("let go of what is wanted: %w", err)
	}
	return nil
}
