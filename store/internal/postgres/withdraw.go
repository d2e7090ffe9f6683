package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox/store"
)

const (
	// scheduledIDSQL locks: what is locked is not promoted.
	scheduledIDSQL = `SELECT count(*) FROM (SELECT FROM {scheduled} WHERE id = $1::uuid FOR UPDATE) AS s`

	elsewhereIDSQL = `SELECT EXISTS (SELECT FROM {dead} WHERE id = $1::uuid), EXISTS (SELECT FROM {sent} WHERE id = $1::uuid)`

	pendingIDSQL = `SELECT position, route, shard FROM {message} WHERE id = $1::uuid`

	// wantSQL asks for shards. Of a lease that has expired nobody says what was
	// sent: all up to now may have been. What somebody has locked is not free.
	wantSQL = `WITH l AS MATERIALIZED (
	SELECT l.route, l.shard, l.owner IS NOT NULL AND l.expires_at < clock_timestamp() AS left_behind
	FROM {lease} l WHERE (l.route, l.shard) IN (SELECT r, s FROM unnest($1::text[], $2::smallint[]) AS u (r, s))
	ORDER BY l.route, l.shard FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {lease} AS w SET
	owner = CASE WHEN NOT l.left_behind THEN w.owner END,
	expires_at = CASE WHEN l.left_behind THEN '-infinity' ELSE w.expires_at END,
	doubt = CASE WHEN l.left_behind THEN greatest(w.doubt, (SELECT coalesce(max(position), 0) FROM {message})) ELSE w.doubt END,
	wanted_by = CASE WHEN w.wanted_by <> $3 AND w.wanted_until > clock_timestamp() THEN w.wanted_by ELSE $3 END,
	wanted_until = CASE WHEN w.wanted_by <> $3 AND w.wanted_until > clock_timestamp() THEN w.wanted_until
		ELSE clock_timestamp() + interval '30 seconds' END
FROM l WHERE w.route = l.route AND w.shard = l.shard
RETURNING w.route, w.shard, w.owner IS NULL, w.doubt`

	// stillPendingSQL waits for nobody, who may be a user's transaction that is open for
	// as long as it likes: relays wait for the leases that are locked here.
	stillPendingSQL = `SELECT count(*) FROM (
	SELECT FROM {message} WHERE position = ANY ($1::bigint[]) AND id = $2::uuid FOR UPDATE SKIP LOCKED) AS m`

	withdrawPendingSQL   = `DELETE FROM {message} WHERE position = ANY ($1::bigint[]) AND id = $2::uuid`
	withdrawScheduledSQL = `DELETE FROM {scheduled} WHERE id = $1::uuid`

	letGoSQL = `WITH l AS MATERIALIZED (SELECT route, shard FROM {lease} WHERE wanted_by = $1 ORDER BY route, shard FOR NO KEY UPDATE)
UPDATE {lease} SET wanted_by = NULL, wanted_until = NULL FROM l WHERE {lease}.route = l.route AND {lease}.shard = l.shard`
)

// Withdraw takes one step towards deleting the messages of an id; see [store.Admin].
func (c *Core) Withdraw(ctx context.Context, id, who string) (w store.Withdrawal, err error) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return store.Absent, nil //nolint:nilerr // no message has such an id
	}
	err = c.db.InTx(ctx, ReadWrite, func(q Querier) error {
		x := withdrawal{core: c, q: q, id: parsed.String(), who: who}
		w, err = x.step(ctx)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("withdraw: %w", err)
	}
	return w, nil
}

// withdrawal is one step, in a transaction.
type withdrawal struct {
	core    *Core
	q       Querier
	id, who string

	positions []int64
	shards    []routeShard // of positions
}

type routeShard struct {
	route string
	shard int16
}

func (x *withdrawal) step(ctx context.Context) (store.Withdrawal, error) {
	var scheduled int
	var dead, sent bool
	if err := x.one(ctx, scheduledIDSQL, []any{x.id}, &scheduled); err != nil {
		return "", err
	}
	if err := x.pending(ctx); err != nil {
		return "", err
	}
	// After those that are pending: from there messages come here, never back.
	if err := x.one(ctx, elsewhereIDSQL, []any{x.id}, &dead, &sent); err != nil {
		return "", err
	}
	free, doubt := true, false
	if len(x.positions) > 0 {
		var err error
		if free, doubt, err = x.want(ctx); err != nil {
			return "", err
		}
	}
	switch {
	case sent || doubt:
		return store.TooLate, nil
	case dead:
		return store.IsDead, nil
	case !free:
		return store.Asked, nil
	case scheduled+len(x.positions) == 0:
		return store.Absent, nil
	}
	if err := x.q.Exec(ctx, x.core.names.SQL(withdrawScheduledSQL), x.id); err != nil {
		return "", err
	}
	return store.Withdrawn, x.q.Exec(ctx, x.core.names.SQL(withdrawPendingSQL), bigintArray(x.positions), x.id)
}

// pending finds the messages of the id that are pending, and their shards.
func (x *withdrawal) pending(ctx context.Context) error {
	return scan(ctx, x.q, x.core.names.SQL(pendingIDSQL), []any{x.id}, func(rows Rows) error {
		for rows.Next() {
			var position int64
			var s routeShard
			if err := rows.Scan(&position, &s.route, &s.shard); err != nil {
				return err
			}
			x.positions, x.shards = append(x.positions, position), append(x.shards, s)
		}
		return rows.Err()
	})
}

// want asks for the shards, and reports whether all of them and the messages are
// free, and whether one of the messages may have been sent. What went on while it was
// looked for is not free either: the next step finds it.
func (x *withdrawal) want(ctx context.Context) (free, doubt bool, err error) {
	var routes []string
	var shards []int64
	for _, s := range x.shards {
		routes, shards = append(routes, s.route), append(shards, int64(s.shard))
	}
	for _, route := range slices.Compact(slices.Sorted(slices.Values(routes))) {
		if _, err := x.core.makeLeases(ctx, x.q, route); err != nil {
			return false, false, err
		}
	}
	doubts := map[routeShard]int64{} // of those that are free
	err = scan(ctx, x.q, x.core.names.SQL(wantSQL), []any{textArray(routes), bigintArray(shards), x.who}, func(rows Rows) error {
		for rows.Next() {
			var s routeShard
			var isFree bool
			var upTo int64
			if err := rows.Scan(&s.route, &s.shard, &isFree, &upTo); err != nil {
				return err
			}
			if isFree {
				doubts[s] = upTo
			}
		}
		return rows.Err()
	})
	if err != nil {
		return false, false, err
	}
	var still int
	if err := x.one(ctx, stillPendingSQL, []any{bigintArray(x.positions), x.id}, &still); err != nil {
		return false, false, err
	}
	if still < len(x.positions) {
		return false, false, nil
	}
	free = true
	for i, s := range x.shards {
		upTo, isFree := doubts[s]
		free = free && isFree
		doubt = doubt || isFree && x.positions[i] <= upTo
	}
	return free, doubt, nil
}

func (x *withdrawal) one(ctx context.Context, sql string, args []any, dest ...any) error {
	_, err := queryRow(ctx, x.q, x.core.names.SQL(sql), args, dest...)
	return err
}

// LetGo gives up the shards that Withdraw has asked for under that name.
func (c *Core) LetGo(ctx context.Context, who string) error {
	if err := c.db.Exec(ctx, c.names.SQL(letGoSQL), who); err != nil {
		return fmt.Errorf("let go: %w", err)
	}
	return nil
}
