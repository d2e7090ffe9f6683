package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/outbox-go/outbox/store"
)

const (
	// bumpSQL gives leases new tokens, after it has locked them in one order for
	// all. What the owner of a shard was about to record is recorded before, or not
	// at all.
	bumpSQL = `, l AS MATERIALIZED (
	SELECT route, shard FROM {lease} WHERE (route, shard) IN (SELECT touched.route, touched.shard FROM touched)
	ORDER BY route, shard FOR UPDATE
)
UPDATE {lease} SET token = token + 1 FROM l WHERE {lease}.route = l.route AND {lease}.shard = l.shard`

	bumpDeadSQL = `WITH touched AS (SELECT DISTINCT route, shard FROM {dead} WHERE place = ANY ($1::bigint[]))` + bumpSQL

	// redriveSQL puts dead letters where they were. Where another message has the
	// position, because positions were given again after a restore, new ones are
	// given, to all behind it of the key too, so that their order is kept.
	redriveSQL = `WITH picked AS (
	SELECT place, route, tenant, key FROM {dead} WHERE place = ANY ($1::bigint[])
), keys AS (
	SELECT DISTINCT p.route, p.tenant, p.key FROM picked p WHERE EXISTS (
		SELECT FROM {dead} d WHERE d.parked AND d.route = p.route AND d.tenant = p.tenant AND d.key = p.key)
), gone AS (
	DELETE FROM {dead} WHERE place IN (
		SELECT place FROM picked
		UNION ALL
		SELECT d.place FROM keys k CROSS JOIN (VALUES (true), (false)) AS b (parked)
		JOIN {dead} d ON d.parked = b.parked AND d.route = k.route AND d.tenant = k.tenant AND d.key = k.key)
	RETURNING position, id, topic, key, tenant, type, version, content_type, headers, payload, created_at, deliver_at,
		CASE WHEN expires_at > now() THEN expires_at END AS expires_at, route
), taken AS (
	SELECT g.position FROM gone g WHERE EXISTS (SELECT FROM {message} m WHERE m.position = g.position)
	UNION
	SELECT position FROM gone GROUP BY position HAVING count(*) > 1
), moved AS (
	SELECT route, tenant, coalesce(key, '') AS key, min(position) AS since FROM gone WHERE position IN (SELECT position FROM taken) GROUP BY 1, 2, 3
), ready AS (
	SELECT g.*, m.since IS NOT NULL AS again
	FROM gone g LEFT JOIN moved m ON m.route = g.route AND m.tenant = g.tenant AND m.key = coalesce(g.key, '') AND m.since <= g.position
), back AS (
	INSERT INTO {message} (position, ` + carried + `) SELECT position, ` + carried + ` FROM ready WHERE NOT again
), anew AS (
	INSERT INTO {message} (` + carried + `) SELECT ` + carried + ` FROM ready WHERE again ORDER BY position
)
SELECT count(*) FROM gone`

	// lockDeadSQL has one who discards wait for others that discard or redrive, before
	// it looks at what is left of a parked key.
	lockDeadSQL = `SELECT FROM {lease} WHERE (route, shard) IN (SELECT d.route, d.shard FROM {dead} d WHERE d.place = ANY ($1::bigint[]))
ORDER BY route, shard FOR UPDATE`

	// discardSQL gives a lease a new token where a key is parked no longer.
	discardSQL = `WITH gone AS (
	DELETE FROM {dead} WHERE place = ANY ($1::bigint[]) RETURNING place, route, shard, tenant, key, parked
), touched AS (
	SELECT DISTINCT g.route, g.shard FROM gone g WHERE g.parked AND NOT EXISTS (
		SELECT FROM {dead} d WHERE d.parked AND d.route = g.route AND d.tenant = g.tenant AND d.key = g.key
			AND d.place NOT IN (SELECT place FROM gone))
), bumped AS (
	UPDATE {lease} SET token = token + 1 FROM touched WHERE {lease}.route = touched.route AND {lease}.shard = touched.shard
)
SELECT count(*) FROM gone`

	waitingRefs = `position = ANY ($1::bigint[]) AND retry_at > clock_timestamp()
	AND (position, id) IN (SELECT p, i FROM unnest($1::bigint[], $2::uuid[]) AS u (p, i))`

	bumpWaitingSQL = `WITH touched AS (SELECT DISTINCT route, shard FROM {message} WHERE ` + waitingRefs + `)` + bumpSQL

	retrySQL = `WITH due AS (
	UPDATE {message} SET attempts = 0, last_error = '', retry_at = NULL WHERE ` + waitingRefs + ` RETURNING 1)
SELECT count(*) FROM due`

	redriveTries = 3
)

// Redrive makes dead letters pending again; see [store.Admin].
func (c *Core) Redrive(ctx context.Context, places []int64) (n int, err error) {
	if len(places) == 0 {
		return 0, nil
	}
	list := bigintArray(places)
	for try := 1; ; try++ {
		n, err = c.change(ctx, bumpDeadSQL, redriveSQL, list)
		// A message that has just been given the position of a dead letter.
		if err == nil || sqlState(err) != uniqueViolation || try == redriveTries {
			break
		}
	}
	if err != nil {
		return 0, fmt.Errorf("redrive %d dead letters: %w", len(places), err)
	}
	return n, nil
}

// Discard deletes dead letters; see [store.Admin].
func (c *Core) Discard(ctx context.Context, places []int64) (int, error) {
	if len(places) == 0 {
		return 0, nil
	}
	n, err := c.change(ctx, lockDeadSQL, discardSQL, bigintArray(places))
	if err != nil {
		return 0, fmt.Errorf("discard %d dead letters: %w", len(places), err)
	}
	return n, nil
}

// Retry makes pending messages due; see [store.Admin].
func (c *Core) Retry(ctx context.Context, refs []store.Ref) (int, error) {
	if len(refs) == 0 {
		return 0, nil
	}
	positions, ids := refArrays(refs)
	n, err := c.change(ctx, bumpWaitingSQL, retrySQL, positions, ids)
	if err != nil {
		return 0, fmt.Errorf("retry %d messages: %w", len(refs), err)
	}
	return n, nil
}

// refArrays returns positions and ids, of which each pair names a row: a position alone
// may have been given to another message, after a restore.
func refArrays(refs []store.Ref) (positionArray, idArray string) {
	var positions, ids strings.Builder
	positions.Grow(len(refs)*10 + 2)
	ids.Grow(len(refs)*38 + 2)
	for i, ref := range refs {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		positions.WriteByte(sep)
		positions.WriteString(strconv.FormatInt(ref.Position, 10))
		ids.WriteByte(sep)
		ids.WriteString(ref.ID)
	}
	positions.WriteByte('}')
	ids.WriteByte('}')
	return positions.String(), ids.String()
}

// change runs two statements with the same arguments in a transaction, the second of
// which counts. It sees what was committed while the first one waited for leases.
func (c *Core) change(ctx context.Context, first, second string, args ...any) (n int, err error) {
	err = c.db.InTx(ctx, ReadWrite, func(q Querier) error {
		if err := q.Exec(ctx, string(ByIndex)); err != nil {
			return err
		}
		if err := q.Exec(ctx, c.names.SQL(first), args...); err != nil {
			return err
		}
		_, err := queryRow(ctx, q, c.names.SQL(second), args, &n)
		return err
	})
	return n, err
}
