package postgres

import (
	"context"
	"fmt"
	"strconv"

	"github.com/outbox-go/outbox/store"
)

// claimSQL are the steps of a claim, all in one transaction.
type claimSQL struct {
	join, forget, incarnation, release, renew, alive, acquire, held string
	leave, giveUp                                                   string
}

func newClaimSQL(n *Names) claimSQL {
	return claimSQL{
		join: n.SQL(`INSERT INTO {relay} AS r (id, name, most, busy, expires_at)
VALUES ($1, $2, $4, $5, clock_timestamp() + $3::bigint * interval '1 microsecond')
ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at, most = excluded.most`),

		forget: n.SQL(`DELETE FROM {relay} WHERE id IN (
	SELECT id FROM {relay} WHERE expires_at < clock_timestamp() FOR UPDATE SKIP LOCKED)`),

		incarnation: n.SQL(newIncarnationSQL),

		release: n.SQL(`UPDATE {lease} SET owner = NULL, expires_at = '-infinity'
WHERE owner = $1 AND shard = ANY ($2::smallint[])`),

		renew: n.SQL(`UPDATE {lease} SET expires_at = clock_timestamp() + $2::bigint * interval '1 microsecond'
WHERE owner = $1`),

		alive: n.SQL(`SELECT id, most FROM {relay} WHERE expires_at >= clock_timestamp() OR id = $1 ORDER BY started_at, id`),

		acquire: n.SQL(`UPDATE {lease} l
SET owner = $1, token = l.token + 1, expires_at = clock_timestamp() + $2::bigint * interval '1 microsecond'
FROM (
	SELECT shard FROM {lease} WHERE owner IS NULL OR expires_at < clock_timestamp()
	ORDER BY shard FOR UPDATE SKIP LOCKED
	LIMIT greatest(0, $3::bigint - (SELECT count(*) FROM {lease} WHERE owner = $1))
) AS free
WHERE l.shard = free.shard`),

		held: n.SQL(`SELECT shard, token FROM {lease} WHERE owner = $1 ORDER BY shard`),

		leave:  n.SQL(`DELETE FROM {relay} WHERE id = $1`),
		giveUp: n.SQL(`UPDATE {lease} SET owner = NULL, expires_at = '-infinity' WHERE owner = $1`),
	}
}

// newIncarnationSQL sets the mark that a crash of the server removes, anew when the
// database is on another server.
const newIncarnationSQL = `INSERT INTO {incarnation} AS i (system) SELECT system_identifier FROM pg_control_system()
ON CONFLICT (one) DO UPDATE SET system = excluded.system, id = excluded.id WHERE i.system <> excluded.system`

// Claim renews, releases and takes leases; see relay.Store.
func (c *Core) Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error) {
	var claim store.Claim
	err := c.db.InTx(ctx, ReadWrite, func(q Querier) error {
		claim = store.Claim{}
		return c.claimIn(ctx, q, r, &claim)
	})
	if err != nil {
		return store.Claim{}, fmt.Errorf("claim shards: %w", err)
	}
	return claim, nil
}

func (c *Core) claimIn(ctx context.Context, q Querier, r store.ClaimRequest, claim *store.Claim) error {
	ttl := r.TTL.Microseconds()
	if err := q.Exec(ctx, c.claim.join, r.Owner, r.Name, ttl, int64(max(r.Most, 0)), c.wakes == Polling); err != nil {
		return err
	}
	if err := q.Exec(ctx, c.claim.forget); err != nil {
		return err
	}
	if err := q.Exec(ctx, c.claim.incarnation); err != nil {
		return err
	}
	if r.Release != 0 {
		if err := q.Exec(ctx, c.claim.release, r.Owner, shardArray(r.Release)); err != nil {
			return err
		}
	}
	if err := q.Exec(ctx, c.claim.renew, r.Owner, ttl); err != nil {
		return err
	}
	if err := c.share(ctx, q, r.Owner, claim); err != nil {
		return err
	}
	if err := q.Exec(ctx, c.claim.acquire, r.Owner, ttl, int64(claim.Target)); err != nil {
		return err
	}
	if c.wakes == Polling {
		var state int64
		if _, err := queryRow(ctx, q, c.armSet, []any{false}, &state); err != nil {
			return err
		}
	}
	return c.held(ctx, q, r.Owner, claim)
}

// share finds out how many shards are the owner's among the relays that are alive.
func (c *Core) share(ctx context.Context, q Querier, owner string, claim *store.Claim) error {
	rows, err := q.Query(ctx, c.claim.alive, owner)
	if err != nil {
		return err
	}
	defer rows.Close()
	var most []int
	place := 0
	for rows.Next() {
		var id string
		var limit int
		if err := rows.Scan(&id, &limit); err != nil {
			return err
		}
		if id == owner {
			place = len(most)
		}
		most = append(most, limit)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return err
	}
	claim.Relays, claim.Target = len(most), store.Shares(Shards, most)[place]
	return nil
}

func (c *Core) held(ctx context.Context, q Querier, owner string, claim *store.Claim) error {
	rows, err := q.Query(ctx, c.claim.held, owner)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var shard int16
		var lease store.Lease
		if err := rows.Scan(&shard, &lease.Token); err != nil {
			return err
		}
		lease.Shard = uint8(shard) //nolint:gosec // the column's values are 0 to 63
		claim.Leases = append(claim.Leases, lease)
	}
	rows.Close()
	return rows.Err()
}

// Leave gives back the owner's leases and forgets it.
func (c *Core) Leave(ctx context.Context, owner string, _ map[uint8]int64) error {
	err := c.db.InTx(ctx, ReadWrite, func(q Querier) error {
		if err := q.Exec(ctx, c.claim.giveUp, owner); err != nil {
			return err
		}
		return q.Exec(ctx, c.claim.leave, owner)
	})
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}

func shardArray(s store.ShardSet) string {
	list := s.Slice()
	elements := make([]string, len(list))
	for i, shard := range list {
		elements[i] = strconv.Itoa(int(shard))
	}
	return array(elements)
}
