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

	// Scan runs one query under settings for its transaction, in as few round
	// trips as the driver allows. It closes the rows.
	Scan(ctx context.Context, settings Settings, sql string, args []any, fn func(Rows) error) error
}

// TxMode is what kind of transaction is wanted.
type TxMode int

const (
	// ReadWrite is a transaction that writes, with the isolation level READ
	// COMMITTED.
	ReadWrite TxMode = iota
	// OneSnapshot only reads, and all its statements see the same.
	OneSnapshot
)

// Settings is a statement that keeps the planner to a plan: on a table whose size
// changes by the second its guess is often wrong, and a cached plan stays wrong. A
// plan that has to have what is switched off seems so dear that the server would
// compile it, so that is off too.
type Settings string

const (
	// AsPlanned leaves it to the planner.
	AsPlanned Settings = `SELECT 1`

	// ByIndex rules out sequential scans.
	ByIndex Settings = `SELECT set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true),
	set_config('enable_bitmapscan', 'on', true), set_config('enable_sort', 'on', true)`

	// InIndexOrder has an index walked in its order, up to the limit, where the
	// planner would rather collect the whole backlog and sort it.
	InIndexOrder Settings = `SELECT set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true),
	set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true)`
)

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

// ScanFunc is the form of DB.Scan.
type ScanFunc func(ctx context.Context, settings Settings, sql string, args []any, fn func(Rows) error) error

// ScanIn runs queries in a transaction that is open.
func ScanIn(q Querier) ScanFunc {
	return func(ctx context.Context, settings Settings, sql string, args []any, fn func(Rows) error) error {
		if err := q.Exec(ctx, string(settings)); err != nil {
			return err
		}
		return scan(ctx, q, sql, args, fn)
	}
}

func scan(ctx context.Context, q Querier, sql string, args []any, fn func(Rows) error) error {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := fn(rows); err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}
