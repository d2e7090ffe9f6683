package postgres

import (
	"context"
	"fmt"
	"strconv"

	"github.com/outbox-go/outbox/store"
)

const (
	// failLockSQL holds the leases until the failures are written: not against
	// their renewal, but against all who lock them FOR UPDATE to change the token.
	// Where somebody is about to, the lease is as good as lost.
	failLockSQL = `SELECT count(*) FROM (
	SELECT FROM {lease} WHERE route = {route} AND owner IS NOT NULL
		AND (shard, token) IN (SELECT s, t FROM unnest($1::smallint[], $2::bigint[]) AS u (s, t))
	ORDER BY shard FOR KEY SHARE SKIP LOCKED) AS held`

	failSQL = `UPDATE {message} m
SET attempts = u.attempts, last_error = u.error,
	retry_at = CASE WHEN u.micros < 0 THEN 'infinity' ELSE clock_timestamp() + u.micros * interval '1 microsecond' END
FROM unnest($1::bigint[], $2::uuid[], $3::integer[], $4::text[], $5::bigint[]) AS u (position, id, attempts, error, micros)
WHERE m.position = ANY ($1::bigint[]) AND m.position = u.position AND m.id = u.id AND m.route = {route}`

	burySQL = `WITH u AS (
	SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::integer[], $4::text[], $5::text[], $6::boolean[])
		WITH ORDINALITY AS u (position, id, attempts, error, reason, park, place)
), gone AS (
	DELETE FROM {message} m WHERE m.position = ANY ($1::bigint[]) AND m.route = {route}
		AND (m.position, m.id) IN (SELECT u.position, u.id FROM u)
	RETURNING m.*
)
INSERT INTO {dead} (position, id, topic, key, tenant, type, version, content_type, headers, payload, created_at, deliver_at, expires_at, route,
	attempts, last_error, reason, parked)
SELECT g.position, g.id, g.topic, nullif(g.key, ''), g.tenant, g.type, g.version, g.content_type, g.headers, g.payload, g.created_at,
	g.deliver_at, g.expires_at, g.route, u.attempts, u.error, u.reason, u.park AND coalesce(g.key, '') <> ''
FROM gone g JOIN u ON u.position = g.position AND u.id = g.id ORDER BY u.place`

	// parkedSQL goes from key to key by the index, however many dead letters each
	// has.
	parkedSQL = `WITH RECURSIVE k AS (
	(SELECT tenant, key, shard FROM {dead} WHERE route = {route} AND parked ORDER BY tenant, key LIMIT 1)
	UNION ALL
	SELECT n.tenant, n.key, n.shard FROM k CROSS JOIN LATERAL (
		SELECT d.tenant, d.key, d.shard FROM {dead} d
		WHERE d.route = {route} AND d.parked AND (d.tenant, d.key) > (k.tenant, k.key)
		ORDER BY d.tenant, d.key LIMIT 1) AS n
)
SELECT tenant, key FROM k WHERE ($1::bigint = -1 OR ($1::bigint >> shard) & 1 = 1)`
)

// failures are the columns of those that share a statement.
type failures struct {
	positions, ids, attempts, errors, micros, reasons, parks []string
}

func (f *failures) add(failure *store.Failure) {
	micros := failure.RetryIn.Microseconds()
	if failure.RetryIn == store.Never {
		micros = -1
	} else if micros < 0 {
		micros = 0
	}
	f.positions = append(f.positions, strconv.FormatInt(failure.Ref.Position, 10))
	f.ids = append(f.ids, failure.Ref.ID)
	f.attempts = append(f.attempts, strconv.Itoa(failure.Attempts))
	f.errors = append(f.errors, quoteElement(errorText(failure.Error)))
	f.micros = append(f.micros, strconv.FormatInt(micros, 10))
	f.reasons = append(f.reasons, quoteElement(string(failure.Dead)))
	f.parks = append(f.parks, strconv.FormatBool(failure.Park))
}

// Fail writes failures under their leases.
func (c *Core) Fail(ctx context.Context, list []store.Failure) error {
	if len(list) == 0 {
		return nil
	}
	var waiting, dead failures
	leases := map[store.Lease]bool{}
	var shards, tokens []string
	for i := range list {
		f := &list[i]
		if !leases[f.Lease] {
			leases[f.Lease] = true
			shards = append(shards, strconv.Itoa(int(f.Lease.Shard)))
			tokens = append(tokens, strconv.FormatInt(f.Lease.Token, 10))
		}
		if f.Dead == "" {
			waiting.add(f)
		} else {
			dead.add(f)
		}
	}
	err := c.db.InTx(ctx, ReadWrite, func(q Querier) error {
		var held int
		if _, err := queryRow(ctx, q, c.failLock, []any{array(shards), array(tokens)}, &held); err != nil {
			return err
		}
		if held != len(leases) {
			return store.ErrLeaseLost
		}
		return c.write(ctx, q, &waiting, &dead)
	})
	if err != nil {
		return fmt.Errorf("record %d failures: %w", len(list), err)
	}
	return nil
}

func (c *Core) write(ctx context.Context, q Querier, waiting, dead *failures) error {
	if err := q.Exec(ctx, string(ByIndex)); err != nil {
		return err
	}
	if len(waiting.ids) > 0 {
		if err := q.Exec(ctx, c.fail, array(waiting.positions), array(waiting.ids), array(waiting.attempts),
			array(waiting.errors), array(waiting.micros)); err != nil {
			return err
		}
	}
	if len(dead.ids) == 0 {
		return nil
	}
	return q.Exec(ctx, c.bury, array(dead.positions), array(dead.ids), array(dead.attempts), array(dead.errors),
		array(dead.reasons), array(dead.parks))
}

// Parked returns the keys of these shards that are parked.
func (c *Core) Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error) {
	var keys []store.Key
	err := c.db.Scan(ctx, InIndexOrder, c.parked, []any{int64(shards)}, func(rows Rows) error { //nolint:gosec // a bit mask
		for rows.Next() {
			var k store.Key
			if err := rows.Scan(&k.Tenant, &k.Key); err != nil {
				return err
			}
			keys = append(keys, k)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read parked keys: %w", err)
	}
	return keys, nil
}
