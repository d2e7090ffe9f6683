package postgres

import "context"

// Querier runs statements, on a connection or in a transaction. Arguments are
// strings, integers, bools, []byte and time.Time only; arrays come as text.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) error
	Query(ctx context.Context, sql string, args ...any) (Rows, error)
}

// Rows is what pgx.Rows and, but for Close, *sql.Rows have in common.
type Rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	Close()
}

// DB is a database by some driver.
type DB interface {
	Querier

	// InTx runs fn in a transaction.
	InTx(ctx context.Context, mode TxMode, fn func(q Querier) error) error

	// Scan runs one query with sequential scans off, in as few round trips as the
	// driver allows: on a table whose size changes by the second the planner's
	// guess is often wrong, and a cached plan stays wrong. It closes the rows.
	Scan(ctx context.Context, sql string, args []any, fn func(Rows) error) error
}

// TxMode is what kind of transaction is wanted.
type TxMode int

const (
	// ReadWrite is the usual transaction.
	ReadWrite TxMode = iota
	// OneSnapshot only reads, and all its statements see the same.
	OneSnapshot
)

// SettingsSQL is run before a Scan, in its transaction. A plan that has to have a
// sequential scan after all seems so dear that the server would compile it.
const SettingsSQL = `SELECT set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)`

// queryRow scans the only row of a query into dest. It reports whether there was
// one.
func queryRow(ctx context.Context, q Querier, sql string, args []any, dest ...any) (bool, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	if !rows.Next() {
		return false, rows.Err()
	}
	if err := rows.Scan(dest...); err != nil {
		return false, err
	}
	rows.Close()
	return true, rows.Err()
}
