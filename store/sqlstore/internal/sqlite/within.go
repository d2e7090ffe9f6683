package sqlite

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/outbox-go/outbox/store"
)

// TxStore does the work of a relay's step inside a transaction of the caller's.
type TxStore struct {
	store *Store
	tx    *sql.Tx
}

// Within returns a view of the outbox in tx.
func (s *Store) Within(tx *sql.Tx) *TxStore { return &TxStore{store: s, tx: tx} }

// Shards returns 1.
func (t *TxStore) Shards() int { return t.store.Shards() }

// do takes the write lock first: a transaction that reads before it writes may fail
// when another has written meanwhile. With the lock nobody else can claim anything
// before tx ends.
func (t *TxStore) do(ctx context.Context, doing string, fn func() error) error {
	err := t.store.exec(ctx, t.tx, &t.store.text.lockWriter)
	if err == nil {
		err = fn()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// Claim takes the lease if it is free. A transaction is no relay that the others
// make room for.
func (t *TxStore) Claim(ctx context.Context, r store.ClaimRequest) (claim store.Claim, err error) {
	r.Guest = true
	err = t.do(ctx, "claim shards", func() error {
		claim, err = t.store.claim(ctx, t.tx, r)
		return err
	})
	if err != nil {
		return store.Claim{}, err
	}
	return claim, nil
}

// Leave gives back the lease.
func (t *TxStore) Leave(ctx context.Context, owner string, doubt map[uint8]int64) error {
	return t.do(ctx, "leave", func() error { return t.store.leave(ctx, t.tx, owner, doubt) })
}

// Read returns a page for each request.
func (t *TxStore) Read(ctx context.Context, requests ...store.ReadRequest) (pages []store.Page, err error) {
	err = t.do(ctx, "read messages", func() error {
		pages, err = t.store.read(ctx, t.tx, requests)
		return err
	})
	return pages, err
}

// Settle removes what was sent.
func (t *TxStore) Settle(ctx context.Context, refs []store.Ref, keep bool) error {
	return t.do(ctx, fmt.Sprintf("settle %d messages", len(refs)), func() error {
		return t.store.settle(ctx, t.tx, refs, keep)
	})
}

// Fail writes what was not.
func (t *TxStore) Fail(ctx context.Context, failures []store.Failure) error {
	return t.do(ctx, fmt.Sprintf("record %d failures", len(failures)), func() error {
		return t.store.fail(ctx, t.tx, failures)
	})
}

// Parked returns the keys that are held back.
func (t *TxStore) Parked(ctx context.Context, shards store.ShardSet) (keys []store.Key, err error) {
	err = t.do(ctx, "read parked keys", func() error {
		keys, err = t.store.parked(ctx, t.tx, shards)
		return err
	})
	return keys, err
}
