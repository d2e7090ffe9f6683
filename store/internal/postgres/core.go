package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/outbox-go/outbox/store"
)

// Shards is the number of shards; the column shard of the table counts on it.
const Shards = 64

// Core does a relay's work on a database. It is safe for concurrent use.
type Core struct {
	db    DB
	names *Names
	wakes Wakes

	readTail, readPage, freeze        string
	settle, failLock, fail            string
	claim                             claimSQL
	armLock, armMark, armSet, armNext string
	purgeInbox, countInbox            string
}

// Wakes says how a store's relays learn of commits.
type Wakes int

const (
	// Notified relays listen; while one of them is idle, commits notify.
	Notified Wakes = iota
	// Polling relays never need a commit to notify.
	Polling
)

// NewCore returns a Core; it connects to nothing.
func NewCore(db DB, names *Names, wakes Wakes) *Core {
	c := &Core{db: db, names: names, wakes: wakes}
	c.readTail = names.SQL(readTailSQL)
	c.readPage = names.SQL(readPageSQL)
	c.freeze = names.SQL(freezeSQL)
	c.settle = names.SQL(settleSQL)
	c.failLock = names.SQL(failLockSQL)
	c.fail = names.SQL(failSQL)
	c.claim = newClaimSQL(names)
	c.armLock = names.SQL(armLockSQL)
	c.armMark = names.SQL(armMarkSQL)
	c.armSet = names.SQL(armSetSQL)
	c.purgeInbox = names.SQL(purgeInboxSQL)
	c.countInbox = names.SQL(countInboxSQL)
	c.armNext = `SELECT pg_snapshot_xmax(pg_current_snapshot())::text`
	return c
}

// settleSQL finds the rows by the primary key and checks the id beside it.
const settleSQL = `DELETE FROM {message}
WHERE position = ANY ($1::bigint[])
  AND (position, id) IN (SELECT p, i FROM unnest($1::bigint[], $2::uuid[]) AS u (p, i))`

// Settle deletes the rows that refs name.
func (c *Core) Settle(ctx context.Context, refs []store.Ref, _ bool) error {
	if len(refs) == 0 {
		return nil
	}
	// One order for all relays, so that two that settle the same rows, after a
	// take-over, do not lock them crosswise.
	refs = slices.Clone(refs)
	slices.SortFunc(refs, func(a, b store.Ref) int { return cmp.Compare(a.Position, b.Position) })
	var positions, ids strings.Builder
	positions.Grow(len(refs) * 10)
	ids.Grow(len(refs) * 38)
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
	err := c.db.Scan(ctx, ByIndex, c.settle, []any{positions.String(), ids.String()}, func(rows Rows) error {
		rows.Next()
		return rows.Err()
	})
	if err != nil {
		return fmt.Errorf("settle %d messages: %w", len(refs), err)
	}
	return nil
}

const (
	// failLockSQL holds the leases until the failures are written.
	failLockSQL = `SELECT count(*) FROM (
	SELECT FROM {lease} WHERE owner IS NOT NULL AND (shard, token) IN (SELECT s, t FROM unnest($1::smallint[], $2::bigint[]) AS u (s, t))
	ORDER BY shard FOR SHARE) AS held`

	failSQL = `UPDATE {message} m
SET attempts = u.attempts, last_error = u.error, retry_at = clock_timestamp() + u.micros * interval '1 microsecond'
FROM unnest($1::bigint[], $2::uuid[], $3::integer[], $4::text[], $5::bigint[]) AS u (position, id, attempts, error, micros)
WHERE m.position = u.position AND m.id = u.id`
)

// Fail writes failures under their leases.
func (c *Core) Fail(ctx context.Context, failures []store.Failure) error {
	if len(failures) == 0 {
		return nil
	}
	leases := map[store.Lease]bool{}
	var shards, tokens, positions, ids, attempts, messages, micros []string
	for _, f := range failures {
		if !leases[f.Lease] {
			leases[f.Lease] = true
			shards = append(shards, strconv.Itoa(int(f.Lease.Shard)))
			tokens = append(tokens, strconv.FormatInt(f.Lease.Token, 10))
		}
		positions = append(positions, strconv.FormatInt(f.Ref.Position, 10))
		ids = append(ids, f.Ref.ID)
		attempts = append(attempts, strconv.Itoa(f.Attempts))
		messages = append(messages, quoteElement(errorText(f.Error)))
		micros = append(micros, strconv.FormatInt(f.RetryIn.Microseconds(), 10))
	}
	err := c.db.InTx(ctx, ReadWrite, func(q Querier) error {
		var held int
		if _, err := queryRow(ctx, q, c.failLock, []any{array(shards), array(tokens)}, &held); err != nil {
			return err
		}
		if held != len(leases) {
			return store.ErrLeaseLost
		}
		return q.Exec(ctx, c.fail, array(positions), array(ids), array(attempts), array(messages), array(micros))
	})
	if err != nil {
		return fmt.Errorf("record %d failures: %w", len(failures), err)
	}
	return nil
}

// Check reports what the database lacks for a relay.
func (c *Core) Check(ctx context.Context) error { return Check(ctx, c.db, c.names) }

const (
	armLockSQL = `SELECT count(*) FROM (SELECT FROM {relay} ORDER BY id FOR UPDATE) AS locked`
	armMarkSQL = `UPDATE {relay} SET busy = $2 WHERE id = $1`
	armSetSQL  = `SELECT setval({armed_literal}, CASE WHEN $1 OR EXISTS (
	SELECT FROM {relay} WHERE NOT busy AND expires_at > clock_timestamp()) THEN 1 ELSE 2 END)`
)

// Arm notes whether owner wants to be notified. Notifications stop when no relay
// that is alive wants them.
func (c *Core) Arm(ctx context.Context, owner string, armed bool) (uint64, error) {
	err := c.db.InTx(ctx, ReadWrite, func(q Querier) error {
		var n int64
		if _, err := queryRow(ctx, q, c.armLock, nil, &n); err != nil {
			return err
		}
		if err := q.Exec(ctx, c.armMark, owner, !armed); err != nil {
			return err
		}
		_, err := queryRow(ctx, q, c.armSet, []any{armed}, &n)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("arm notifications: %w", err)
	}
	var next string
	if _, err := queryRow(ctx, c.db, c.armNext, nil, &next); err != nil {
		return 0, fmt.Errorf("arm notifications: %w", err)
	}
	return strconv.ParseUint(next, 10, 64)
}

func array(elements []string) string { return "{" + strings.Join(elements, ",") + "}" }

// quoteElement writes s as an element of a text array's literal.
func quoteElement(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

const maxError = 2000

// errorText makes s fit for a text column: valid, without NUL, not too long.
func errorText(s string) string {
	if len(s) > maxError {
		end := maxError
		for end > 0 && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
}
