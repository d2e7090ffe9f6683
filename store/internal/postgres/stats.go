package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/outbox-go/outbox/store"
)

const (
	// countPendingSQL has a message that was scheduled be as old as it is due.
	countPendingSQL = `SELECT route, n, waiting, blocked, coalesce((greatest(extract(epoch FROM now() - oldest), 0) * 1000000)::bigint, 0)
FROM (
	SELECT route, count(*) AS n, count(*) FILTER (WHERE retry_at > now() AND retry_at < 'infinity') AS waiting,
		count(*) FILTER (WHERE retry_at = 'infinity') AS blocked, min(born) FILTER (WHERE isfinite(born)) AS oldest
	FROM (SELECT route, retry_at, greatest(created_at, deliver_at) AS born FROM {message}) AS m GROUP BY route
) AS r ORDER BY route`

	// countOthersSQL goes through the parked keys by their index, however many dead
	// letters each has.
	countOthersSQL = `WITH RECURSIVE k AS (
	(SELECT route, tenant, key FROM {dead} WHERE parked ORDER BY route, tenant, key LIMIT 1)
	UNION ALL
	SELECT n.route, n.tenant, n.key FROM k CROSS JOIN LATERAL (
		SELECT d.route, d.tenant, d.key FROM {dead} d
		WHERE d.parked AND (d.route, d.tenant, d.key) > (k.route, k.tenant, k.key)
		ORDER BY d.route, d.tenant, d.key LIMIT 1) AS n
)
SELECT (SELECT count(*) FROM {scheduled}), d.n, (SELECT count(*) FROM k),
	coalesce((greatest(extract(epoch FROM now() - d.oldest), 0) * 1000000)::bigint, 0)
FROM (SELECT count(*) AS n, min(died_at) AS oldest FROM {dead}) AS d`

	// estimateSentSQL takes what the planner knows of the rows on a page.
	estimateSentSQL = `SELECT coalesce(sum(size), 0)::bigint,
	coalesce(sum(CASE WHEN c.relpages > 0 AND c.reltuples > 0 THEN c.reltuples / c.relpages * size / current_setting('block_size')::bigint ELSE 0 END), 0)::bigint
FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid CROSS JOIN LATERAL pg_catalog.pg_relation_size(c.oid) AS size
WHERE i.inhparent = {sent_literal}`

	countAllSentSQL = `SELECT count(*) FROM {sent}`

	// countable is how large the history may be for its rows to be counted.
	countable = 8 << 20

	relaysSQL = `SELECT r.id, r.name, r.route, r.rate::float8, r.started_at, (SELECT count(*) FROM {lease} l WHERE l.route = r.route AND l.owner = r.id),
	(extract(epoch FROM r.expires_at - clock_timestamp()) * 1000000)::bigint
FROM {relay} r WHERE r.expires_at >= clock_timestamp() ORDER BY r.name, r.id`
)

// Stats counts.
func (c *Core) Stats(ctx context.Context) (s store.Stats, err error) {
	err = c.db.InTx(ctx, OneSnapshot, func(q Querier) error {
		s = store.Stats{}
		if err := c.countPending(ctx, q, &s); err != nil {
			return err
		}
		var oldestDead int64
		if _, err := queryRow(ctx, q, c.names.SQL(countOthersSQL), nil, &s.Scheduled, &s.Dead, &s.ParkedKeys, &oldestDead); err != nil {
			return err
		}
		s.OldestDead = time.Duration(oldestDead) * time.Microsecond
		if err := c.countKept(ctx, q, &s); err != nil {
			return err
		}
		if err := c.relays(ctx, q, &s); err != nil {
			return err
		}
		s.Pauses, err = c.pausesIn(ctx, q)
		return err
	})
	if err != nil {
		return store.Stats{}, fmt.Errorf("count messages: %w", err)
	}
	return s, nil
}

func (c *Core) countPending(ctx context.Context, q Querier, s *store.Stats) error {
	return scan(ctx, q, c.names.SQL(countPendingSQL), nil, func(rows Rows) error {
		for rows.Next() {
			var r store.RouteStats
			var waiting, blocked, oldest int64
			if err := rows.Scan(&r.Route, &r.Pending, &waiting, &blocked, &oldest); err != nil {
				return err
			}
			r.Oldest = time.Duration(oldest) * time.Microsecond
			s.Pending, s.Waiting, s.Blocked = s.Pending+r.Pending, s.Waiting+waiting, s.Blocked+blocked
			s.Oldest = max(s.Oldest, r.Oldest)
			s.Routes = append(s.Routes, r)
		}
		return nil
	})
}

// countKept counts a small history, and estimates a large one.
func (c *Core) countKept(ctx context.Context, q Querier, s *store.Stats) error {
	var size int64
	if _, err := queryRow(ctx, q, c.names.SQL(estimateSentSQL), nil, &size, &s.Kept); err != nil || size > countable {
		return err
	}
	_, err := queryRow(ctx, q, c.names.SQL(countAllSentSQL), nil, &s.Kept)
	return err
}

func (c *Core) relays(ctx context.Context, q Querier, s *store.Stats) error {
	return scan(ctx, q, c.names.SQL(relaysSQL), nil, func(rows Rows) error {
		for rows.Next() {
			var r store.RelayInfo
			var left int64
			if err := rows.Scan(&r.ID, &r.Name, &r.Route, &r.Rate, &r.Since, &r.Shards, &left); err != nil {
				return err
			}
			if r.Route != "" {
				r.ID = strings.TrimSuffix(r.ID, "@"+r.Route)
			}
			r.Since, r.Left = r.Since.UTC(), time.Duration(left)*time.Microsecond
			s.Relays = append(s.Relays, r)
		}
		return nil
	})
}
