package sqlstore

import (
	"context"
	"database/sql"

	"github.com/outbox-go/outbox/store"
)

// Route returns a view of the same outbox for the relays of a route: it reads, claims
// and fails what is of that route alone. All else is as with s, which is the view of
// the route without a name.
func (s *Store) Route(name string) *Store { return &Store{backend: s.backend.route(name)} }

// Within returns a view of the outbox to send messages in a transaction of one's own,
// by relay.RunOnce for example. What it takes is hidden from relays until tx has
// ended; nothing of what it did remains if tx is rolled back. On SQLite it takes
// the write lock at once: a transaction that has read before can fail with SQLITE_BUSY,
// unless the DSN is that of [SQLiteDSN]. On PostgreSQL tx must be READ COMMITTED.
func (s *Store) Within(tx *sql.Tx) *TxStore { return &TxStore{s.backend.within(tx)} }

// once is what a dialect does in a transaction of the caller's.
type once interface {
	Shards() int
	Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error)
	Leave(ctx context.Context, owner string, doubt map[uint8]int64) error
	Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error)
	Settle(ctx context.Context, refs []store.Ref, keep bool) error
	Fail(ctx context.Context, failures []store.Failure) error
	Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error)
}

// TxStore is a view of an outbox in a transaction: see [Store.Within]. It is of no
// use after the transaction's end.
type TxStore struct {
	once once
}

// Shards is [Store.Shards].
func (t *TxStore) Shards() int { return t.once.Shards() }

// Claim takes shards that nobody holds, as a guest.
func (t *TxStore) Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error) {
	return t.once.Claim(ctx, r)
}

// Leave gives back what was claimed. Others get it when the transaction has ended.
func (t *TxStore) Leave(ctx context.Context, owner string, doubt map[uint8]int64) error {
	return t.once.Leave(ctx, owner, doubt)
}

// Read is [Store.Read] in the transaction.
func (t *TxStore) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	return t.once.Read(ctx, requests...)
}

// Settle is [Store.Settle] in the transaction.
func (t *TxStore) Settle(ctx context.Context, refs []store.Ref, keep bool) error {
	return t.once.Settle(ctx, refs, keep)
}

// Fail is [Store.Fail] in the transaction.
func (t *TxStore) Fail(ctx context.Context, failures []store.Failure) error {
	return t.once.Fail(ctx, failures)
}

// Parked is [Store.Parked] in the transaction.
func (t *TxStore) Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error) {
	return t.once.Parked(ctx, shards)
}
