package postgres

import (
	"context"

	"github.com/outbox-go/outbox/store"
)

// Within does the part of a relay's work that fits into a transaction of the
// caller's, which has to be READ COMMITTED. The locks of that transaction keep
// relays from what it has claimed.
type Within struct {
	core *Core
}

// Within returns a view of the core's route in a transaction, on which q runs.
func (c *Core) Within(q Querier) *Within {
	core := NewCore(txDB{q}, c.names, c.wakes)
	core.within, core.reads = true, newReadSQL(c.names, true)
	return &Within{core}
}

// Shards returns 64.
func (w *Within) Shards() int { return Shards }

// Claim takes shards that nobody holds, as a guest: a transaction is no relay that
// others make room for.
func (w *Within) Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error) {
	r.Guest = true
	return w.core.Claim(ctx, r)
}

// Leave gives back what was claimed. Others get it when the transaction has ended.
func (w *Within) Leave(ctx context.Context, owner string, doubt map[uint8]int64) error {
	return w.core.Leave(ctx, owner, doubt)
}

// Read returns a page for each request, of messages that are committed. Several
// requests are not of one snapshot, but nobody else sends what was claimed.
func (w *Within) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	return w.core.Read(ctx, requests...)
}

// Settle removes messages that the broker has confirmed.
func (w *Within) Settle(ctx context.Context, refs []store.Ref, keep bool) error {
	return w.core.Settle(ctx, refs, keep)
}

// Fail records what became of messages that were not sent.
func (w *Within) Fail(ctx context.Context, failures []store.Failure) error {
	return w.core.Fail(ctx, failures)
}

// Parked returns the keys of these shards that are parked.
func (w *Within) Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error) {
	return w.core.Parked(ctx, shards)
}

// txDB is a DB in a transaction that is the caller's, who finds the settings as they
// were.
type txDB struct {
	Querier
}

const (
	readSettings = `SELECT current_setting('enable_seqscan'), current_setting('jit'), current_setting('enable_bitmapscan'), current_setting('enable_sort')`

	restoreSettings = `SELECT set_config('enable_seqscan', $1, true), set_config('jit', $2, true),
	set_config('enable_bitmapscan', $3, true), set_config('enable_sort', $4, true)`
)

func (d txDB) InTx(ctx context.Context, _ TxMode, fn func(q Querier) error) error {
	var seqscan, jit, bitmapscan, sort string
	if _, err := queryRow(ctx, d, readSettings, nil, &seqscan, &jit, &bitmapscan, &sort); err != nil {
		return err
	}
	// After an error of the database there is nothing to restore: the transaction
	// has failed. ErrLeaseLost comes before any setting is changed.
	if err := fn(d.Querier); err != nil {
		return err
	}
	return d.Exec(ctx, restoreSettings, seqscan, jit, bitmapscan, sort)
}

func (d txDB) Scan(ctx context.Context, settings Settings, sql string, args []any, fn func(Rows) error) error {
	return d.InTx(ctx, ReadWrite, func(q Querier) error { return ScanIn(q)(ctx, settings, sql, args, fn) })
}
