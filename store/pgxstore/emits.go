package pgxstore

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox/store/internal/postgres"
)

// emits notes, in the context of a function that Once runs, whether it has emitted
// in the transaction on conn.
type emits struct {
	conn *pgx.Conn
	some atomic.Bool
}

// emitsKey is where the emits of a store, and of its views, are in a context.
type emitsKey struct{ notifier *postgres.Notifier }

// noted reports whether tx is the transaction of a Once, which wakes the relay
// after the commit, and notes the emit there.
func (s *Store) noted(ctx context.Context, tx pgx.Tx) bool {
	e, ok := ctx.Value(emitsKey{s.notifier}).(*emits)
	if !ok || e.conn != tx.Conn() {
		return false
	}
	e.some.Store(true)
	return true
}

// silently runs an insert in a transaction that does not notify: that would make
// commits wait for one another. It takes one round trip.
func silently(ctx context.Context, tx pgx.Tx, sql string, args []any) error {
	batch := &pgx.Batch{}
	batch.Queue(`SET LOCAL outbox.wake = 'off'`)
	batch.Queue(sql, args...)
	return tx.SendBatch(ctx, batch).Close()
}
