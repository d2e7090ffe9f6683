// Package pgtest has what the tests of the stores for PostgreSQL share.
package pgtest

import "context"

// Exec runs SQL, one statement or several.
type Exec func(ctx context.Context, sql string) error

// FaultParams are parameters for the URL of a store that runs [Fault.In].
const FaultParams = "&default_transaction_isolation=repeatable%20read"

// Fault makes a transaction fail in a way that passes.
type Fault struct {
	// Other, if not empty, is run on another connection that stays open, while the
	// transaction is.
	Other string

	// In is what is run in the transaction, step by step. The error of the last
	// step counts.
	In []string
}

// Faults returns faults by name. The table with one row, of one column n, is to
// be made before the transaction begins; its name needs no quotes.
func Faults(table string) map[string]Fault {
	return map[string]Fault{
		"serialization failure": {
			Other: `UPDATE ` + table + ` SET n = n + 1`,
			In:    []string{`UPDATE ` + table + ` SET n = n + 1`},
		},
		"lock time-out": {
			Other: `BEGIN; LOCK TABLE ` + table,
			In:    []string{`SET LOCAL lock_timeout = '20ms'`, `LOCK TABLE ` + table},
		},
		"statement time-out": {
			In: []string{`SET LOCAL statement_timeout = '20ms'`, `SELECT pg_sleep(10)`},
		},
		"backend killed": {
			In: []string{`SELECT pg_terminate_backend(pg_backend_pid())`},
		},
		"statement after the backend was killed": {
			In: []string{`SELECT pg_terminate_backend(pg_backend_pid())`, `SELECT 1`},
		},
	}
}

// MakeTable is the SQL that makes the table of [Faults].
func MakeTable(table string) string {
	return `CREATE TABLE ` + table + ` (n integer); INSERT INTO ` + table + ` VALUES (1)`
}

// Fail runs a fault.
func (f Fault) Fail(ctx context.Context, in, other Exec) (err error) {
	if f.Other != "" {
		if err := other(ctx, f.Other); err != nil {
			panic("pgtest: " + err.Error())
		}
	}
	for _, step := range f.In {
		err = in(ctx, step)
	}
	return err
}
