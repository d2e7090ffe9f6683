package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outbox-go/outbox/store"
)

// InboxInsert notes that consumer handles a message. It affects no row when that
// is noted already, and waits for a transaction that is about to note it. Without a
// conflict target it needs the right to INSERT alone.
const InboxInsert = `INSERT INTO {inbox} (consumer, message_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`

const (
	// purgeInboxSQL takes the oldest rows that no other purge is deleting. They are
	// locked, so that their places stay good until they are deleted.
	purgeInboxSQL = `WITH gone AS (
	DELETE FROM {inbox} WHERE ctid = ANY (ARRAY(
		SELECT ctid FROM {inbox} WHERE received_at < now() - $1 * interval '1 microsecond'
		ORDER BY received_at LIMIT $2 FOR UPDATE SKIP LOCKED))
	RETURNING 1)
SELECT count(*) FROM gone`

	countInboxSQL = `SELECT count(*) FROM {inbox} WHERE received_at < now() - $1 * interval '1 microsecond'`
)

// PurgeInbox deletes up to limit rows that were written longer than age ago, the
// oldest first, and returns how many there were. Several purges at once delete
// different rows.
func (c *Core) PurgeInbox(ctx context.Context, age time.Duration, limit int) (int, error) {
	n, err := c.inboxNumber(ctx, InIndexOrder, c.purgeInbox, age.Microseconds(), max(limit, 0))
	if err != nil {
		return 0, fmt.Errorf("purge the inbox: %w", err)
	}
	return n, nil
}

// CountInbox returns how many rows were written longer than age ago.
func (c *Core) CountInbox(ctx context.Context, age time.Duration) (int, error) {
	n, err := c.inboxNumber(ctx, ByIndex, c.countInbox, age.Microseconds())
	if err != nil {
		return 0, fmt.Errorf("count the inbox: %w", err)
	}
	return n, nil
}

func (c *Core) inboxNumber(ctx context.Context, settings Settings, sql string, args ...any) (n int, err error) {
	err = c.db.Scan(ctx, settings, sql, args, func(rows Rows) error {
		if !rows.Next() {
			return rows.Err()
		}
		return rows.Scan(&n)
	})
	return n, c.InboxError(ctx, err)
}

// PurgeStatement returns what PurgeInbox runs, to have it explained.
func PurgeStatement(n *Names) (settings Settings, sql string) {
	return InIndexOrder, n.SQL(purgeInboxSQL)
}

// CheckInbox reports what an inbox lacks as a [*store.MissingError].
func (c *Core) CheckInbox(ctx context.Context) error {
	missing, err := missingParts(ctx, c.db, c.names, inboxPart)
	if err == nil && missing != nil {
		err = &store.MissingError{Missing: missing}
	}
	return err
}

// InboxError turns the error of a statement on the inbox into one that lists all
// that is missing, if that is the reason.
func (c *Core) InboxError(ctx context.Context, err error) error {
	switch sqlState(err) {
	case undefinedTable, undefinedColumn, invalidSchema, insufficientPrivilege:
	default:
		return err
	}
	var missing *store.MissingError
	if checkErr := c.CheckInbox(ctx); errors.As(checkErr, &missing) {
		return missing
	}
	return err
}
