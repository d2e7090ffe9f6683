package postgres

import (
	"context"
	"strconv"

	"github.com/outbox-go/outbox/store"
)

// renewSQL is a claim of which nothing more comes than that all goes on: one statement
// instead of a transaction of nine. It returns rows of three kinds: what was found, a
// relay that is alive, a lease that was renewed.
const renewSQL = `WITH me AS (
	UPDATE {relay} SET name = $2, expires_at = clock_timestamp() + $3::bigint * interval '1 microsecond', most = $4::integer, rate = $5::float8
	WHERE id = $1 RETURNING 1
), held AS (
	SELECT shard FROM {lease} WHERE route = {route} AND owner = $1 ORDER BY shard FOR NO KEY UPDATE SKIP LOCKED
), renewed AS (
	UPDATE {lease} l SET expires_at = clock_timestamp() + $3::bigint * interval '1 microsecond'
	FROM held WHERE l.route = {route} AND l.shard = held.shard AND l.owner = $1
	RETURNING l.shard, l.token, coalesce(l.wanted_until >= clock_timestamp(), false) AS wanted
), alive AS (
	SELECT CASE WHEN id = $1 THEN $4::integer ELSE most END AS most, id = $1 AS own FROM {relay} WHERE route = {route} AND (expires_at >= clock_timestamp() OR id = $1) ORDER BY started_at, id
)
SELECT 0, (SELECT count(*) FROM {lease} WHERE route = {route} AND (owner IS NULL OR owner <> $1 AND expires_at < clock_timestamp())), 0,
	(SELECT count(*) FROM me) = 1
	AND NOT EXISTS (SELECT FROM {relay} WHERE expires_at < clock_timestamp() AND id <> $1)
	AND EXISTS (SELECT FROM {incarnation} WHERE system = (SELECT system_identifier FROM pg_control_system()))
	AND (SELECT count(*) FROM {lease} WHERE route = {route} AND owner = $1) = (SELECT count(*) FROM renewed)
UNION ALL SELECT 1, most, 0, own FROM alive
UNION ALL SELECT 2, shard, token, wanted FROM renewed`

// renew claims by one statement and reports whether that was all there is to do: the
// relay is known, none has died, none of its leases is locked, and there is nothing to
// give back or to take.
func (c *Core) renew(ctx context.Context, r store.ClaimRequest) (claim store.Claim, done bool, err error) {
	known := c.names.Route == "" || c.leased.Load()
	if !known || c.within || c.wakes == Polling || r.Guest || r.Release != 0 || len(r.Doubt) > 0 {
		return claim, false, nil
	}
	var free int64
	var relays relayShares
	args := []any{c.id(r.Owner), r.Name, r.TTL.Microseconds(), int64(max(r.Most, 0)), strconv.FormatFloat(r.Rate, 'g', -1, 32)}
	err = scan(ctx, c.db, c.claim.whole, args, func(rows Rows) error {
		for rows.Next() {
			var kind int
			var first, second int64
			var flag bool
			if err := rows.Scan(&kind, &first, &second, &flag); err != nil {
				return err
			}
			switch kind {
			case 0:
				free, done = first, flag
			case 1:
				relays.add(int(first), flag)
			default:
				addLease(&claim, store.Lease{Shard: uint8(first), Token: second}, flag) //nolint:gosec // 0 to 63
			}
		}
		return rows.Err()
	})
	if sqlState(err) == serializationFailure {
		return store.Claim{}, false, nil // the user's default isolation; the transaction has its own
	}
	if err != nil {
		return store.Claim{}, false, err
	}
	relays.tell(r, &claim)
	sortLeases(&claim)
	return claim, done && (free == 0 || claim.Target <= len(claim.Leases)), nil
}

// relayShares are the relays that are alive, in the order in which they began.
type relayShares struct {
	most []int // shards that each takes
	own  int   // the place of the one that asks
}

func (s *relayShares) add(most int, own bool) {
	if own {
		s.own = len(s.most)
	}
	s.most = append(s.most, most)
}

// tell notes in a claim how many relays there are, and how many shards are the
// owner's.
func (s *relayShares) tell(r store.ClaimRequest, claim *store.Claim) {
	claim.Relays = len(s.most)
	switch {
	case !r.Guest && len(s.most) > 0:
		claim.Target = store.Shares(Shards, s.most)[s.own]
	case r.Most > 0:
		claim.Target = min(r.Most, Shards)
	default:
		claim.Target = Shards
	}
}
