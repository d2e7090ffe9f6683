package sqlite

import (
	"context"
	"database/sql"
	"strings"
	"sync/atomic"
	"time"
)

// prepared is a statement that is used so often that each connection keeps it
// prepared: for one row, to prepare an INSERT costs more than to run it.
type prepared struct {
	text string
	stmt atomic.Pointer[sql.Stmt] // nil until it could be prepared; lives as long as the *sql.DB
	last atomic.Pointer[bound]    // where it was run last
}

// bound is a statement in a transaction, which closes it at its end. A transaction
// keeps all that were ever asked of it: there must not be one for each message.
type bound struct {
	tx   *sql.Tx
	stmt *sql.Stmt
}

// in returns the statement in tx.
func (p *prepared) in(ctx context.Context, tx *sql.Tx, stmt *sql.Stmt) *sql.Stmt {
	if b := p.last.Load(); b != nil && b.tx == tx {
		return b.stmt
	}
	b := &bound{tx, tx.StmtContext(ctx, stmt)}
	p.last.Store(b)
	return b.stmt
}

// preparePatience is how long a statement waits for a connection to be prepared on.
const preparePatience = 20 * time.Millisecond

// insertion is an INSERT of up to chunkRows rows: one statement for each number.
type insertion struct{ rows [chunkRows]prepared }

// newInsertion returns an insertion of rows that are each like row.
func newInsertion(names *Names, head, row string) *insertion {
	in := new(insertion)
	for i := range in.rows {
		in.rows[i].text = names.sql(head) + row + strings.Repeat(", "+row, i)
	}
	return in
}

// of returns the statement for n rows.
func (in *insertion) of(n int) *prepared { return &in.rows[n-1] }

// exec runs p in tx, prepared if it can be.
func (s *Store) exec(ctx context.Context, tx *sql.Tx, p *prepared, args ...any) error {
	if stmt := s.prepare(ctx, p); stmt != nil {
		_, err := p.in(ctx, tx, stmt).ExecContext(ctx, args...) //nolint:sqlclosecheck // the transaction closes it
		if err == nil {
			return nil
		}
		p.last.Store(nil) // it may be the fault of how it was bound
		if !neverRan(err) {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, p.text, args...)
	return err
}

// prepare returns p's statement, nil if it is not prepared. The caller may be in a
// transaction, so that it must not wait for long for a second connection: the pool
// may have no more, and may have only one.
func (s *Store) prepare(ctx context.Context, p *prepared) *sql.Stmt {
	if stmt := p.stmt.Load(); stmt != nil {
		return stmt
	}
	if pool := s.db.Stats(); pool.MaxOpenConnections > 0 && pool.InUse >= pool.MaxOpenConnections {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, preparePatience)
	defer cancel()
	stmt, err := s.db.PrepareContext(ctx, p.text)
	if err != nil {
		return nil // what is wrong with it shows when it is run
	}
	if !p.stmt.CompareAndSwap(nil, stmt) {
		defer func() { _ = stmt.Close() }() // another was faster
	}
	return p.stmt.Load()
}

// prepareEmit prepares what an emit of one message needs, from outside of a
// transaction: in one there may be no connection for it.
func (s *Store) prepareEmit(ctx context.Context) {
	s.prepare(ctx, &s.text.lockWriter)
	s.prepare(ctx, s.text.insert.of(1))
}

// neverRan recognizes database/sql's words, for which it has no values, for a statement
// that was prepared by another *sql.DB than the transaction is of, which may be one on
// the same file, and for one whose transaction has ended, which the transaction itself
// calls sql.ErrTxDone.
func neverRan(err error) bool {
	text := err.Error()
	return strings.HasSuffix(text, "statement from different database used") || strings.HasSuffix(text, "statement is closed")
}
