package bench

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
)

// Modes of [emitSQLite]: whether a commit is on the disk when it returns, as
// sqlstore.SQLiteDSN has it, or may be lost when the machine fails.
const (
	synchronousFull   = "FULL"
	synchronousNormal = "NORMAL"
)

const (
	emitSQLiteTables = `
CREATE TABLE bench_account (id INTEGER NOT NULL PRIMARY KEY, n INTEGER NOT NULL DEFAULT 0);
INSERT INTO bench_account (id) VALUES (0);
CREATE TABLE bench_order (
	id           INTEGER NOT NULL PRIMARY KEY,
	account      INTEGER NOT NULL,
	amount_cents INTEGER NOT NULL,
	placed_at    TEXT    NOT NULL DEFAULT CURRENT_TIMESTAMP
)`
	emitSQLiteUpdate = `UPDATE bench_account SET n = n + 1 WHERE id = ?`
	emitSQLiteInsert = `INSERT INTO bench_order (id, account, amount_cents) VALUES (?, ?, ?)`
	emitSQLiteCount  = `SELECT (SELECT count(*) FROM bench_order), (SELECT count(*) FROM outbox_message),
	(SELECT count(*) FROM bench_order WHERE CAST(id AS TEXT) NOT IN (SELECT key FROM outbox_message)) +
	(SELECT count(*) FROM outbox_message WHERE CAST(key AS INTEGER) NOT IN (SELECT id FROM bench_order))`
	emitSQLiteClear = `DELETE FROM bench_order; DELETE FROM outbox_message`
)

// emitSQLite emits in an SQLite file, on one connection.
type emitSQLite struct {
	database *scratch.Database
	payload  []byte

	// What is not the outbox's is prepared, as its own is.
	update, insert *sql.Stmt
}

func (e *emitSQLite) close() {
	for _, stmt := range []*sql.Stmt{e.update, e.insert} {
		if stmt != nil {
			_ = stmt.Close()
		}
	}
}

func (e *emitSQLite) setUp(ctx context.Context, rows int) error {
	if rows != 1 {
		return fmt.Errorf("SQLite has one writer at a time, and %d were asked for", rows)
	}
	if err := e.database.Store.Migrate(ctx); err != nil {
		return err
	}
	e.database.SQLite.DB.SetMaxOpenConns(1) // what prepare sets is the connection's
	_, err := e.database.SQLite.DB.ExecContext(ctx, emitSQLiteTables)
	if err == nil {
		e.update, err = e.database.SQLite.DB.PrepareContext(ctx, emitSQLiteUpdate)
	}
	if err == nil {
		e.insert, err = e.database.SQLite.DB.PrepareContext(ctx, emitSQLiteInsert)
	}
	return err
}

// prepare also puts what was written in the slice before into the file, so that all
// begin alike.
func (e *emitSQLite) prepare(ctx context.Context, mode string) error {
	_, err := e.database.SQLite.DB.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA synchronous = "+mode)
	return err
}

func (e *emitSQLite) count(ctx context.Context) (c emitCount, err error) {
	err = e.database.SQLite.DB.QueryRowContext(ctx, emitSQLiteCount).Scan(&c.orders, &c.messages, &c.alone)
	return c, err
}

func (e *emitSQLite) clear(ctx context.Context) error {
	_, err := e.database.SQLite.DB.ExecContext(ctx, emitSQLiteClear)
	return err
}

func (e *emitSQLite) variants() []emitVariant {
	return []emitVariant{
		{"none", "BEGIN, UPDATE, INSERT and COMMIT, synchronous = FULL", "none", synchronousFull, e.single(false)},
		{"emit", "none, Emit and Wake", "none", synchronousFull, e.single(true)},
		{"none-normal", "none, synchronous = NORMAL", "none-normal", synchronousNormal, e.single(false)},
		{"emit-normal", "none-normal, Emit and Wake", "none-normal", synchronousNormal, e.single(true)},
	}
}

func (e *emitSQLite) single(emits bool) func(context.Context, emitTx) error {
	return func(ctx context.Context, t emitTx) error {
		tx, err := e.database.SQLite.DB.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // does nothing after the commit
		if err := e.statements(ctx, tx, t, emits); err != nil {
			return err
		}
		if t.rollBack {
			return errEmitRollBack
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		if emits {
			e.database.SQLite.Outbox.Wake()
		}
		return nil
	}
}

func (e *emitSQLite) statements(ctx context.Context, tx *sql.Tx, t emitTx, emits bool) error {
	if _, err := tx.StmtContext(ctx, e.update).ExecContext(ctx, t.row); err != nil { //nolint:sqlclosecheck // the transaction closes it
		return err
	}
	if _, err := tx.StmtContext(ctx, e.insert).ExecContext(ctx, t.id, t.row, 100); err != nil { //nolint:sqlclosecheck // likewise
		return err
	}
	if !emits {
		return nil
	}
	return e.database.SQLite.Outbox.Emit(ctx, tx, t.event(e.payload))
}
