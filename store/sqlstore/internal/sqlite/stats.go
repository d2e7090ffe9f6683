package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/outbox-go/outbox/store"
)

const (
	// Counting reads no column that is stored behind a payload.
	countsSQL = `SELECT
	(SELECT count(*) FROM {message}),
	(SELECT count(*) FROM {message} WHERE retry_at IS NOT NULL AND retry_at > ?1 AND retry_at < {never}),
	(SELECT count(*) FROM {message} WHERE retry_at IS NOT NULL AND retry_at = {never}),
	(SELECT count(*) FROM {scheduled}), (SELECT count(*) FROM {dead}), (SELECT count(*) FROM {sent}),
	(SELECT count(*) FROM (SELECT DISTINCT route, tenant, key FROM {dead} WHERE parked = 1)),
	(SELECT coalesce(?1 - min(died_at), 0) FROM (SELECT died_at FROM {dead} ORDER BY place LIMIT 1000))`

	routesSQL = `SELECT route, count(*) FROM {message} WHERE route <> '' GROUP BY route ORDER BY route`

	// oldestSQL looks at the first rows only. There is one writer, so that the rest
	// is younger. A message that was scheduled is as old as it is due.
	oldestSQL = `SELECT coalesce(?1 - min(born), 0) FROM (
	SELECT max(created_at, coalesce(deliver_at, 0)) born FROM {message} WHERE route = ?2 ORDER BY position LIMIT 1000)`

	oldestOtherSQL = `SELECT coalesce(?1 - min(born), 0) FROM (
	SELECT max(created_at, coalesce(deliver_at, 0)) born FROM {message} WHERE route = ?2 AND route <> '' ORDER BY position LIMIT 1000)`

	aliveRelaysSQL = `SELECT id, name, route, rate, started_at, expires_at - ?1,
	(SELECT count(*) FROM {lease} l WHERE l.owner = r.id AND l.route = r.route)
FROM {relay} r WHERE expires_at > ?1 ORDER BY name, id`
)

// Stats counts, all in one snapshot.
func (s *Store) Stats(ctx context.Context) (stats store.Stats, err error) {
	err = s.snapshot(ctx, func(c runner) error {
		var now int64
		if err := c.QueryRowContext(ctx, s.names.sql(clockSQL)).Scan(&now); err != nil {
			return err
		}
		stats, err = s.stats(ctx, c, now)
		return err
	})
	if err != nil {
		return store.Stats{}, fmt.Errorf("count messages: %w", err)
	}
	return stats, nil
}

func (s *Store) stats(ctx context.Context, c runner, now int64) (st store.Stats, err error) {
	var oldestDead int64
	err = c.QueryRowContext(ctx, s.names.sql(countsSQL), now).Scan(
		&st.Pending, &st.Waiting, &st.Blocked, &st.Scheduled, &st.Dead, &st.Kept, &st.ParkedKeys, &oldestDead)
	if err != nil {
		return st, err
	}
	st.OldestDead = age(oldestDead)
	if st.Routes, err = s.routeStats(ctx, c, now, st.Pending); err != nil {
		return st, err
	}
	for _, r := range st.Routes {
		st.Oldest = max(st.Oldest, r.Oldest)
	}
	if st.Relays, err = s.aliveRelays(ctx, c, now); err != nil {
		return st, err
	}
	st.Pauses, err = s.pauses(ctx, c)
	return st, err
}

// routeStats counts by routes. What is not of a named one is of the first.
func (s *Store) routeStats(ctx context.Context, c runner, now, pending int64) ([]store.RouteStats, error) {
	routes, err := collect(ctx, c, func(rows *sql.Rows, r *store.RouteStats) error {
		return rows.Scan(&r.Route, &r.Pending)
	}, s.names.sql(routesSQL))
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		pending -= r.Pending
	}
	if pending > 0 {
		routes = append([]store.RouteStats{{Pending: pending}}, routes...)
	}
	for i := range routes {
		text, micros := oldestSQL, int64(0)
		if routes[i].Route != "" {
			text = oldestOtherSQL
		}
		if err := c.QueryRowContext(ctx, s.names.sql(text), now, routes[i].Route).Scan(&micros); err != nil {
			return nil, err
		}
		routes[i].Oldest = age(micros)
	}
	return routes, nil
}

func (s *Store) aliveRelays(ctx context.Context, c runner, now int64) ([]store.RelayInfo, error) {
	return collect(ctx, c, func(rows *sql.Rows, r *store.RelayInfo) error {
		var since, left int64
		err := rows.Scan(&r.ID, &r.Name, &r.Route, &r.Rate, &since, &left, &r.Shards)
		r.Since, r.Left = moment(since), duration(left)
		return err
	}, s.names.sql(aliveRelaysSQL), now)
}

// age is never negative: the clocks of emitters may be ahead of the database's.
func age(micros int64) time.Duration { return max(0, duration(micros)) }
