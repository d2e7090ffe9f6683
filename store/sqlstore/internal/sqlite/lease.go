package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/outbox-go/outbox/store"
)

const (
	releaseSQL = `UPDATE {lease} SET owner = NULL, expires_at = 0 WHERE shard = 0 AND owner = ?`

	aliveSQL = `INSERT INTO {relay} (id, name, expires_at) VALUES (?, ?, {now} + ?)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, expires_at = excluded.expires_at`

	forgetSQL = `DELETE FROM {relay} WHERE expires_at <= {now} AND id <> ?`

	// acquireSQL renews the owner's lease, or takes it if it is free or expired.
	acquireSQL = `UPDATE {lease} SET token = token + (owner IS NOT ?1), owner = ?1, expires_at = {now} + ?2
WHERE shard = 0 AND (owner IS NULL OR owner = ?1 OR expires_at <= {now})`

	heldSQL = `SELECT token FROM {lease} WHERE shard = 0 AND owner = ?`

	relaysSQL = `SELECT count(*) FROM {relay}`

	leaveLeaseSQL = releaseSQL
	leaveRelaySQL = `DELETE FROM {relay} WHERE id = ?`
)

// Claim renews or takes the only lease. Whoever has it has an even share: the
// others' is nothing, and it stays where it is.
func (s *Store) Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error) {
	var claim store.Claim
	err := s.write(ctx, func(c *sql.Conn) error {
		claim = store.Claim{}
		return s.claim(ctx, c, r, &claim)
	})
	if err != nil {
		return store.Claim{}, fmt.Errorf("claim shards: %w", err)
	}
	return claim, nil
}

func (s *Store) claim(ctx context.Context, c *sql.Conn, r store.ClaimRequest, claim *store.Claim) error {
	ttl := r.TTL.Microseconds()
	if r.Release.Has(onlyShard) {
		if _, err := c.ExecContext(ctx, s.text.release, r.Owner); err != nil {
			return err
		}
	}
	for _, step := range []struct {
		text string
		args []any
	}{
		{s.text.alive, []any{r.Owner, r.Name, ttl}},
		{s.text.forget, []any{r.Owner}},
		{s.text.acquire, []any{r.Owner, ttl}},
	} {
		if _, err := c.ExecContext(ctx, step.text, step.args...); err != nil {
			return err
		}
	}
	if err := c.QueryRowContext(ctx, s.text.relays).Scan(&claim.Relays); err != nil {
		return err
	}
	return s.held(ctx, c, r.Owner, claim)
}

func (s *Store) held(ctx context.Context, c *sql.Conn, owner string, claim *store.Claim) error {
	rows, err := c.QueryContext(ctx, s.text.held, owner)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		lease := store.Lease{Shard: onlyShard}
		if err := rows.Scan(&lease.Token); err != nil {
			return err
		}
		claim.Leases = append(claim.Leases, lease)
	}
	claim.Target = len(claim.Leases)
	return rows.Err()
}

// Leave gives back the lease, if it is the owner's, and forgets the owner.
func (s *Store) Leave(ctx context.Context, owner string, _ map[uint8]int64) error {
	err := s.write(ctx, func(c *sql.Conn) error {
		if _, err := c.ExecContext(ctx, s.text.leaveLease, owner); err != nil {
			return err
		}
		_, err := c.ExecContext(ctx, s.text.leaveRelay, owner)
		return err
	})
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}
