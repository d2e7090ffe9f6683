package postgres

import (
	"context"
	"fmt"
	"strconv"
)

const (
	armLockSQL = `SELECT count(*) FROM (SELECT FROM {relay} ORDER BY id FOR UPDATE) AS locked`
	armMarkSQL = `UPDATE {relay} SET busy = $2 WHERE id = $1`
	armSetSQL  = `SELECT setval({armed_literal}, CASE WHEN $1 OR EXISTS (
	SELECT FROM {relay} WHERE NOT busy AND expires_at > clock_timestamp()) THEN 1 ELSE 2 END)`

	armNextSQL = `SELECT pg_snapshot_xmax(pg_current_snapshot())::text`
)

// Arm notes whether owner wants to be notified. Notifications stop when no relay
// that is alive, of whatever route, wants them.
func (c *Core) Arm(ctx context.Context, owner string, armed bool) (uint64, error) {
	err := c.db.InTx(ctx, ReadWrite, func(q Querier) error {
		var n int64
		if _, err := queryRow(ctx, q, c.names.SQL(armLockSQL), nil, &n); err != nil {
			return err
		}
		if err := q.Exec(ctx, c.names.SQL(armMarkSQL), c.id(owner), !armed); err != nil {
			return err
		}
		_, err := queryRow(ctx, q, c.names.SQL(armSetSQL), []any{armed}, &n)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("arm notifications: %w", err)
	}
	var next string
	if _, err := queryRow(ctx, c.db, armNextSQL, nil, &next); err != nil {
		return 0, fmt.Errorf("arm notifications: %w", err)
	}
	return strconv.ParseUint(next, 10, 64)
}
