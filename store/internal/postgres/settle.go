package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox/store"
)

const (
	// settleDenseSQL walks the primary key from the first position to the last one, and
	// looks up which id a row must have by how far it is from the first.
	settleDenseSQL = `DELETE FROM {message} WHERE position BETWEEN $1::bigint AND $2::bigint
  AND uuid_send(id) = substring($3::bytea, (position - $1::bigint)::integer * 16 + 1, 16)`

	// settleSparseSQL finds each row by itself. The positions are in their order.
	settleSparseSQL = `DELETE FROM {message} WHERE position = ANY ($1::bigint[])
  AND uuid_send(id) = substring($2::bytea, width_bucket(position, $1::bigint[]) * 16 - 15, 16)`

	// maxGaps is how many positions a walk may pass for each that it is for: finding a
	// row by itself costs about as much as passing so many.
	maxGaps = 3
)

// keepSQL moves what a statement deletes to the history.
func keepSQL(settle string) string {
	return `WITH gone AS (` + settle + ` RETURNING *)
INSERT INTO {sent} (position, ` + carried + `, attempts, last_error)
SELECT position, ` + carried + `, attempts, last_error FROM gone ORDER BY position`
}

type settleSQL struct {
	dense, sparse, keepDense, keepSparse string
}

func newSettleSQL(n *Names) settleSQL {
	return settleSQL{
		dense: n.SQL(settleDenseSQL), keepDense: n.SQL(keepSQL(settleDenseSQL)),
		sparse: n.SQL(settleSparseSQL), keepSparse: n.SQL(keepSQL(settleSparseSQL)),
	}
}

// of returns the statement for refs, each of another position and in their order, and
// its arguments. The ids are bytes one behind the other: an array of a thousand costs
// the server more than deleting the rows.
func (s *settleSQL) of(refs []store.Ref, keep bool) (sql string, args []any, err error) {
	first, last := refs[0].Position, refs[len(refs)-1].Position
	if span := uint64(last) - uint64(first); span < uint64(len(refs))*(1+maxGaps) { //nolint:gosec // of two's complements it is the distance
		ids, err := settleIDs(refs, int(span)+1, func(i int) int { return int(refs[i].Position - first) })
		return pick(keep, s.keepDense, s.dense), []any{first, last, ids}, err
	}
	ids, err := settleIDs(refs, len(refs), func(i int) int { return i })
	positions := make([]byte, 0, 20*len(refs))
	for i := range refs {
		positions = strconv.AppendInt(append(positions, ','), refs[i].Position, 10)
	}
	positions[0] = '{'
	return pick(keep, s.keepSparse, s.sparse), []any{string(append(positions, '}')), ids}, err
}

func pick(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

// noID is in the gaps, where rows may be that are not to be deleted.
var noID = uuid.New()

// settleIDs returns n ids, each of refs at its place.
func settleIDs(refs []store.Ref, n int, place func(int) int) ([]byte, error) {
	ids := make([]byte, 0, n*len(noID))
	for i := range refs {
		id, err := uuid.Parse(refs[i].ID)
		if err != nil {
			return nil, fmt.Errorf("id %q at position %d: %w", refs[i].ID, refs[i].Position, err)
		}
		for len(ids) < place(i)*len(id) {
			ids = append(ids, noID[:]...)
		}
		ids = append(ids, id[:]...)
	}
	return ids, nil
}

// Settle deletes the rows that refs name, or moves them to the history. All relays
// do so in the order of positions: two that settle the same rows, after a take-over,
// would lock them crosswise.
func (c *Core) Settle(ctx context.Context, refs []store.Ref, keep bool) error {
	rest := slices.SortedFunc(slices.Values(refs), func(a, b store.Ref) int {
		return cmp.Or(cmp.Compare(a.Position, b.Position), cmp.Compare(a.ID, b.ID))
	})
	rest = slices.Compact(rest)
	for len(rest) > 0 {
		var batch []store.Ref
		batch, rest = distinct(rest)
		if err := c.settleBatch(ctx, batch, keep); err != nil {
			return fmt.Errorf("settle %d messages: %w", len(refs), err)
		}
	}
	return nil
}

// distinct takes one ref of each position: there are several when a sequence went back.
func distinct(refs []store.Ref) (batch, rest []store.Ref) {
	batch = refs[:1]
	for _, ref := range refs[1:] {
		if ref.Position == batch[len(batch)-1].Position {
			rest = append(rest, ref)
		} else {
			batch = append(batch, ref) // in place, never ahead of what is read
		}
	}
	return batch, rest
}

func (c *Core) settleBatch(ctx context.Context, refs []store.Ref, keep bool) error {
	sql, args, err := c.settle.of(refs, keep)
	if err != nil {
		return err
	}
	return c.db.Scan(ctx, InIndexOrder, sql, args, func(rows Rows) error {
		rows.Next()
		return rows.Err()
	})
}

// SettleStatement returns what Settle runs for refs, each of another position and in
// their order, to have it explained.
func SettleStatement(n *Names, refs []store.Ref, keep bool) (settings Settings, sql string, args []any, err error) {
	s := newSettleSQL(n)
	sql, args, err = s.of(refs, keep)
	return InIndexOrder, sql, args, err
}
