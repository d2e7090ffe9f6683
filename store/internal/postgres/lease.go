package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/outbox-go/outbox/store"
)

// claimSQL are the steps of a claim, all in one transaction. Who only renews a lease
// locks it FOR NO KEY UPDATE, who changes its token FOR UPDATE: the first goes
// together with the lock of [Core.Fail], the second does not.
type claimSQL struct {
	made, make, join, forget, incarnation, own, await string
	doubt, release, renew, alive, acquire             string
	leave, whole                                      string
}

func newClaimSQL(n *Names) claimSQL {
	return claimSQL{
		made: n.SQL(`SELECT count(*) FROM {lease} WHERE route = $1`),
		make: n.SQL(`INSERT INTO {lease} (route, shard) SELECT $1::text, generate_series(0, 63) ON CONFLICT DO NOTHING`),

		join: n.SQL(`INSERT INTO {relay} AS r (id, route, name, most, busy, expires_at, rate)
VALUES ($1, {route}, $2, $4, $5, clock_timestamp() + $3::bigint * interval '1 microsecond', $6::float8)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, expires_at = excluded.expires_at, most = excluded.most, rate = excluded.rate`),

		forget: n.SQL(`DELETE FROM {relay} WHERE id IN (
	SELECT id FROM {relay} WHERE expires_at < clock_timestamp() AND id <> $1 FOR UPDATE SKIP LOCKED)`),

		incarnation: n.SQL(newIncarnationSQL),

		own: n.SQL(`WITH l AS (
	SELECT shard FROM {lease} WHERE route = {route} AND owner = $1 ORDER BY shard FOR NO KEY UPDATE SKIP LOCKED)
SELECT (SELECT coalesce(array_agg(shard), '{}')::text FROM l),
	(SELECT coalesce(bit_or(1::bigint << shard), 0) FROM {lease}
	WHERE route = {route} AND owner = $1 AND expires_at >= clock_timestamp() AND shard NOT IN (SELECT shard FROM l))`),

		await: n.SQL(`WITH l AS (
	SELECT shard FROM {lease} WHERE route = {route} AND owner = $1 AND expires_at >= clock_timestamp() ORDER BY shard FOR NO KEY UPDATE)
SELECT coalesce(array_agg(shard), '{}')::text FROM l`),

		doubt: n.SQL(`UPDATE {lease} l SET doubt = greatest(l.doubt, u.position)
FROM unnest($2::smallint[], $3::bigint[]) AS u (shard, position)
WHERE l.route = {route} AND l.owner = $1 AND l.shard = u.shard AND l.shard = ANY ($4::smallint[])`),

		release: n.SQL(`UPDATE {lease} SET owner = NULL, expires_at = '-infinity'
WHERE route = {route} AND owner = $1 AND shard = ANY ($2::smallint[]) AND shard = ANY ($3::smallint[])`),

		renew: n.SQL(`UPDATE {lease} SET expires_at = clock_timestamp() + $2::bigint * interval '1 microsecond'
WHERE route = {route} AND owner = $1 AND shard = ANY ($3::smallint[])
RETURNING shard, token, coalesce(wanted_until >= clock_timestamp(), false)`),

		alive: n.SQL(`SELECT id, most FROM {relay} WHERE route = {route} AND (expires_at >= clock_timestamp() OR id = $1) ORDER BY started_at, id`),

		// Materialized, or the limit might be for each row anew. What the owner of an
		// expired lease may have sent, nobody knows.
		acquire: n.SQL(`WITH free AS MATERIALIZED (
	SELECT shard, owner IS NOT NULL AS left_behind FROM {lease}
	WHERE route = {route} AND (owner IS NULL OR expires_at < clock_timestamp())
	  AND (wanted_until IS NULL OR wanted_until < clock_timestamp())
	ORDER BY shard LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE {lease} l
SET owner = $1, token = l.token + 1, expires_at = clock_timestamp() + $2::bigint * interval '1 microsecond',
	doubt = CASE WHEN free.left_behind THEN greatest(l.doubt, (SELECT coalesce(max(position), 0) FROM {message})) ELSE l.doubt END
FROM free
WHERE l.route = {route} AND l.shard = free.shard
RETURNING l.shard, l.token, false`),

		leave: n.SQL(`DELETE FROM {relay} WHERE id = $1`),
		whole: n.SQL(renewSQL),
	}
}

// newIncarnationSQL sets the mark that a crash of the server removes, anew when the
// database is on another server.
const newIncarnationSQL = `INSERT INTO {incarnation} AS i (system) SELECT system_identifier FROM pg_control_system()
ON CONFLICT (one) DO UPDATE SET system = excluded.system, id = excluded.id WHERE i.system <> excluded.system`

// Claim renews, releases and takes leases; see relay.Store.
func (c *Core) Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error) {
	var busy store.ShardSet
	leased := c.names.Route == "" || c.leased.Load()
	claim, done, err := c.renew(ctx, r)
	if done {
		return claim, nil
	}
	if err != nil {
		return store.Claim{}, fmt.Errorf("renew leases: %w", err)
	}
	err = c.db.InTx(ctx, ReadWrite, func(q Querier) (err error) {
		claim = store.Claim{}
		if !leased {
			if leased, err = c.makeLeases(ctx, q, c.names.Route); err != nil {
				return err
			}
		}
		busy, err = c.claimIn(ctx, q, r, &claim)
		return err
	})
	if err == nil {
		c.leased.Store(leased)
		err = busyError(busy)
	}
	if err != nil {
		return store.Claim{}, fmt.Errorf("claim shards: %w", err)
	}
	return claim, nil
}

// busyError tells that leases were locked by others for so long that what was to be
// noted of them was not. All else is done by then, so that no other lease runs out.
func busyError(busy store.ShardSet) error {
	if busy == 0 {
		return nil
	}
	return fmt.Errorf("leases of shards %v are locked: their doubt and release are not written, ask again", busy.Slice())
}

// makeLeases makes those of a route that is new, and reports whether they are there.
// One in a transaction of a user's would have all others wait for its end: who does
// not get the lock comes again.
func (c *Core) makeLeases(ctx context.Context, q Querier, route string) (there bool, err error) {
	var n int
	if _, err := queryRow(ctx, q, c.claim.made, []any{route}, &n); err != nil || n == Shards {
		return n == Shards, err
	}
	alone, err := c.alone(ctx, q, "route "+route)
	if err != nil || !alone {
		return false, err
	}
	return true, q.Exec(ctx, c.claim.make, route)
}

func (c *Core) claimIn(ctx context.Context, q Querier, r store.ClaimRequest, claim *store.Claim) (busy store.ShardSet, err error) {
	owner, ttl := c.id(r.Owner), r.TTL.Microseconds()
	if !r.Guest {
		if err := c.join(ctx, q, r); err != nil {
			return 0, err
		}
	}
	if err := c.incarnate(ctx, q); err != nil {
		return 0, err
	}
	own, busy, err := c.giveBack(ctx, q, owner, r.Release, r.Doubt)
	if err != nil {
		return 0, err
	}
	if err := c.leases(ctx, q, claim, c.claim.renew, owner, ttl, own); err != nil {
		return 0, err
	}
	if err := c.share(ctx, q, r, claim); err != nil {
		return 0, err
	}
	if more := claim.Target - len(claim.Leases); more > 0 {
		if err := c.leases(ctx, q, claim, c.claim.acquire, owner, ttl, int64(more)); err != nil {
			return 0, err
		}
	}
	if r.Guest {
		claim.Target = len(claim.Leases)
	}
	sortLeases(claim)
	return busy, nil
}

// incarnate sets the mark that a crash of the server removes. In a transaction of the
// caller's, whose cursors end with it, nobody needs it, and others would wait for it.
func (c *Core) incarnate(ctx context.Context, q Querier) error {
	if c.within {
		return nil
	}
	return q.Exec(ctx, c.claim.incarnation)
}

// join notes that the relay is alive.
func (c *Core) join(ctx context.Context, q Querier, r store.ClaimRequest) error {
	id := c.id(r.Owner)
	if err := q.Exec(ctx, c.claim.join, id, r.Name, r.TTL.Microseconds(), int64(max(r.Most, 0)), c.wakes == Polling,
		strconv.FormatFloat(r.Rate, 'g', -1, 32)); err != nil {
		return err
	}
	if err := q.Exec(ctx, c.claim.forget, id); err != nil {
		return err
	}
	if c.wakes != Polling {
		return nil
	}
	var state int64
	_, err := queryRow(ctx, q, c.names.SQL(armSetSQL), []any{false}, &state)
	return err
}

// own locks the leases that the owner has and returns their shards as an array. It
// waits a moment for those that somebody else has locked. What is locked for longer
// is about to get another token or owner, and is left out, so that the others are
// renewed in time.
func (c *Core) own(ctx context.Context, q Querier, owner string) (shards string, left store.ShardSet, err error) {
	var locked int64
	if _, err := queryRow(ctx, q, c.claim.own, []any{owner}, &shards, &locked); err != nil || locked == 0 {
		return shards, 0, err
	}
	if err := q.Exec(ctx, `SAVEPOINT own`); err != nil {
		return "", 0, err
	}
	var old string
	if _, err := queryRow(ctx, q, `SELECT current_setting('lock_timeout')`, nil, &old); err != nil {
		return "", 0, err
	}
	if err := q.Exec(ctx, shortLocks); err != nil {
		return "", 0, err
	}
	_, err = queryRow(ctx, q, c.claim.await, []any{owner}, &shards)
	switch {
	case sqlState(err) == lockNotAvailable:
		left = store.ShardSet(locked) //nolint:gosec // a bit mask
		err = q.Exec(ctx, `ROLLBACK TO SAVEPOINT own`)
	case err == nil:
		var set string
		_, err = queryRow(ctx, q, `SELECT set_config('lock_timeout', $1, true)`, []any{old}, &set)
	}
	return shards, left, err
}

// giveBack locks the leases that the owner has, notes what is in doubt of them, and
// releases some. It returns those that it has locked, as an array, and those of which
// it could not write what was asked for.
func (c *Core) giveBack(ctx context.Context, q Querier, owner string, release store.ShardSet, doubt map[uint8]int64) (
	own string, busy store.ShardSet, err error,
) {
	own, left, err := c.own(ctx, q, owner)
	if err != nil {
		return "", 0, err
	}
	asked := release
	if len(doubt) > 0 {
		var shards, positions []int64
		for shard, position := range doubt {
			shards, positions, asked = append(shards, int64(shard)), append(positions, position), asked.With(shard)
		}
		if err := q.Exec(ctx, c.claim.doubt, owner, bigintArray(shards), bigintArray(positions), own); err != nil {
			return "", 0, err
		}
	}
	if release != 0 {
		err = q.Exec(ctx, c.claim.release, owner, own, shardArray(release))
	}
	return own, left & asked, err
}

// share finds out how many relays are alive, and how many shards are the owner's.
func (c *Core) share(ctx context.Context, q Querier, r store.ClaimRequest, claim *store.Claim) error {
	rows, err := q.Query(ctx, c.claim.alive, c.id(r.Owner))
	if err != nil {
		return err
	}
	defer rows.Close()
	var relays relayShares
	for rows.Next() {
		var id string
		var limit int
		if err := rows.Scan(&id, &limit); err != nil {
			return err
		}
		relays.add(limit, id == c.id(r.Owner))
	}
	rows.Close()
	relays.tell(r, claim)
	return rows.Err()
}

// leases runs a statement that returns shards, tokens and whether the shard is
// wanted, and adds them to the claim.
func (c *Core) leases(ctx context.Context, q Querier, claim *store.Claim, sql string, args ...any) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var shard int16
		var lease store.Lease
		var wanted bool
		if err := rows.Scan(&shard, &lease.Token, &wanted); err != nil {
			return err
		}
		lease.Shard = uint8(shard) //nolint:gosec // the column's values are 0 to 63
		addLease(claim, lease, wanted)
	}
	rows.Close()
	return rows.Err()
}

func addLease(claim *store.Claim, lease store.Lease, wanted bool) {
	claim.Leases = append(claim.Leases, lease)
	if wanted {
		claim.Wanted = claim.Wanted.With(lease.Shard)
	}
}

func sortLeases(claim *store.Claim) {
	slices.SortFunc(claim.Leases, func(a, b store.Lease) int { return cmp.Compare(a.Shard, b.Shard) })
}

// Leave gives back the owner's leases and forgets it.
func (c *Core) Leave(ctx context.Context, owner string, doubt map[uint8]int64) error {
	id := c.id(owner)
	var busy store.ShardSet
	err := c.db.InTx(ctx, ReadWrite, func(q Querier) (err error) {
		if _, busy, err = c.giveBack(ctx, q, id, store.FirstShards(Shards), doubt); err != nil {
			return err
		}
		return q.Exec(ctx, c.claim.leave, id)
	})
	if err == nil {
		err = busyError(busy)
	}
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}
