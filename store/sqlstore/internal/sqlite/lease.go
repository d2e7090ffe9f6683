package sqlite

import (
	"context"
	"fmt"

	"github.com/outbox-go/outbox/store"
)

const (
	newLeaseSQL = `INSERT INTO {lease} (route, shard) VALUES (?, 0) ON CONFLICT DO NOTHING`

	doubtSQL = `UPDATE {lease} SET doubt = max(doubt, ?) WHERE route = ? AND shard = 0 AND owner = ?`

	releaseSQL = `UPDATE {lease} SET owner = NULL, expires_at = 0 WHERE route = ? AND shard = 0 AND owner = ?`

	aliveSQL = `INSERT INTO {relay} (id, name, expires_at, route, rate) VALUES (?, ?, {now} + ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, expires_at = excluded.expires_at, route = excluded.route, rate = excluded.rate`

	forgetSQL = `DELETE FROM {relay} WHERE expires_at <= {now} AND id <> ?`

	// acquireSQL renews the owner's lease, or takes it if it is free or expired and
	// nobody wants it. Who let it expire may have sent all that there is.
	acquireSQL = `UPDATE {lease} SET
	doubt = iif(owner <> ?1, max(doubt, (SELECT coalesce(max(position), 0) FROM {message})), doubt),
	token = token + (owner IS NOT ?1), owner = ?1, expires_at = {now} + ?2
WHERE route = ?3 AND shard = 0 AND (owner = ?1 OR wanted_until <= {now} AND (owner IS NULL OR expires_at <= {now}))`

	heldSQL = `SELECT token, wanted_until > {now} FROM {lease} WHERE route = ? AND shard = 0 AND owner = ?`

	relaysSQL = `SELECT count(*) FROM {relay} WHERE route = ? AND expires_at > {now}`

	// waitsSQL tells whether the share of a relay that has nothing is the shard all the
	// same: the first one's is, when the lease is a guest's, or kept for somebody.
	waitsSQL = `SELECT ?1 = (SELECT id FROM {relay} WHERE route = ?2 AND expires_at > {now} ORDER BY started_at, id LIMIT 1)
	AND NOT EXISTS (SELECT 1 FROM {lease} l JOIN {relay} r ON r.id = l.owner AND r.route = l.route WHERE l.route = ?2)`

	leaveSQL = `DELETE FROM {relay} WHERE id = ?`
)

// step is a statement with its parameters.
type step struct {
	text string
	args []any
}

func run(ctx context.Context, c runner, steps ...step) error {
	for _, s := range steps {
		if _, err := c.ExecContext(ctx, s.text, s.args...); err != nil {
			return err
		}
	}
	return nil
}

// Claim renews or takes the only lease of the route. Whoever has it has an even
// share: the others' is nothing, and it stays where it is.
func (s *Store) Claim(ctx context.Context, r store.ClaimRequest) (claim store.Claim, err error) {
	err = s.write(ctx, func(c runner) error {
		claim, err = s.claim(ctx, c, r)
		return err
	})
	if err != nil {
		return store.Claim{}, fmt.Errorf("claim shards: %w", err)
	}
	return claim, nil
}

func (s *Store) claim(ctx context.Context, c runner, r store.ClaimRequest) (claim store.Claim, err error) {
	ttl := r.TTL.Microseconds()
	steps := s.doubted(r.Owner, r.Doubt)
	if r.Release.Has(onlyShard) {
		steps = append(steps, step{s.text.release, []any{s.route, r.Owner}})
	}
	steps = append(steps, step{s.text.newLease, []any{s.route}})
	if !r.Guest {
		steps = append(steps,
			step{s.text.alive, []any{r.Owner, r.Name, ttl, s.route, r.Rate}},
			step{s.text.forget, []any{r.Owner}})
	}
	steps = append(steps, step{s.text.acquire, []any{r.Owner, ttl, s.route}})
	if err := run(ctx, c, steps...); err != nil {
		return store.Claim{}, err
	}
	if err := c.QueryRowContext(ctx, s.text.relays, s.route).Scan(&claim.Relays); err != nil {
		return store.Claim{}, err
	}
	if err := s.held(ctx, c, r.Owner, &claim); err != nil || r.Guest || claim.Target > 0 {
		return claim, err
	}
	err = c.QueryRowContext(ctx, s.text.waits, r.Owner, s.route).Scan(&claim.Target)
	return claim, err
}

// doubted is for a lease that the owner still holds.
func (s *Store) doubted(owner string, doubt map[uint8]int64) []step {
	if doubt[onlyShard] <= 0 {
		return nil
	}
	return []step{{s.text.doubt, []any{doubt[onlyShard], s.route, owner}}}
}

func (s *Store) held(ctx context.Context, c runner, owner string, claim *store.Claim) error {
	rows, err := c.QueryContext(ctx, s.text.held, s.route, owner)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		lease := store.Lease{Shard: onlyShard}
		var wanted bool
		if err := rows.Scan(&lease.Token, &wanted); err != nil {
			return err
		}
		claim.Leases = append(claim.Leases, lease)
		if wanted {
			claim.Wanted = claim.Wanted.With(onlyShard)
		}
	}
	claim.Target = len(claim.Leases)
	return rows.Err()
}

// Leave gives back the lease, if it is the owner's, and forgets the owner.
func (s *Store) Leave(ctx context.Context, owner string, doubt map[uint8]int64) error {
	err := s.write(ctx, func(c runner) error { return s.leave(ctx, c, owner, doubt) })
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}

func (s *Store) leave(ctx context.Context, c runner, owner string, doubt map[uint8]int64) error {
	return run(ctx, c, append(s.doubted(owner, doubt),
		step{s.text.release, []any{s.route, owner}}, step{s.text.leave, []any{owner}})...)
}
