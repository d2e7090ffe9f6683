package sqlite

import (
	"context"
	"database/sql"
	"sync/atomic"
)

// emits notes, in the context of a function that Once runs, whether it has emitted
// in tx.
type emits struct {
	tx   *sql.Tx
	some atomic.Bool
}

// emitsKey is where the emits of a store and its views are in a context.
type emitsKey struct{ writer chan struct{} }

// note tells a Once whose transaction tx is that it has emitted.
func (s *Store) note(ctx context.Context, tx *sql.Tx) {
	if e, ok := ctx.Value(emitsKey{s.writer}).(*emits); ok && e.tx == tx {
		e.some.Store(true)
	}
}
