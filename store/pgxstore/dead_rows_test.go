package pgxstore_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/internal/postgres"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// TestDrainPassesAMillionDeadRows counts the buffers of all that a relay does while
// another session holds a snapshot from before a million rows that are deleted by now,
// so that none can be vacuumed. Only reading from the start meets them, once.
func TestDrainPassesAMillionDeadRows(t *testing.T) {
	s, pool, schema := openStore(t, nil)
	names, err := postgres.NewNames(schema, "")
	must(t, err)
	table := pgx.Identifier{schema, "message"}.Sanitize()
	exec(t, pool, "ALTER TABLE "+table+" SET UNLOGGED") // the log is not what is counted
	old := begin(t, pool)
	_, err = old.Exec(t.Context(), "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1", pgx.QueryExecModeSimpleProtocol)
	must(t, err)
	exec(t, pool, `INSERT INTO `+table+` (topic, payload) SELECT 'dead', '\x00' FROM generate_series(1, 1000000)`)
	exec(t, pool, "DELETE FROM "+table)
	tail := follow(t, s)
	exec(t, pool, `INSERT INTO `+table+` (topic, key, payload) SELECT 'alive', i % 1000, '\x00' FROM generate_series(1, 5000) AS i`)
	exec(t, pool, "ANALYZE "+table)

	explain := func(what string, most int, settings postgres.Settings, sql string, args ...any) int {
		t.Helper()
		got := explained(t, pool, string(settings), sql, args...)
		t.Logf("%-20s %6d buffers", what, got)
		if got > most {
			t.Errorf("%s looks into %d buffers, want at most %d", what, got, most)
		}
		return got
	}
	tail.limit = 1000
	settings, sql, args, err := postgres.ReadStatement(names, tail.request())
	must(t, err)
	explain("tail", 300, settings, sql, args...)

	r := store.ReadRequest{Shards: store.FirstShards(64), Limit: 1000}
	settings, sql, args, err = postgres.ReadStatement(names, r)
	must(t, err)
	if got := explained(t, pool, string(settings), sql, args...); got < 5000 {
		t.Errorf("a read from the start looks into %d buffers: the dead rows are not there", got)
	}
	refs := readRefs(t, s, &r) // passes the dead rows
	costs := make([]int, 0, 4)
	for len(costs) < 4 {
		settings, sql, args, err := postgres.SettleStatement(names, refs[10:], false)
		must(t, err)
		cost := explain("settle 990", 1500, settings, sql, args...)
		settings, sql, args, err = postgres.ReadStatement(names, r)
		must(t, err)
		costs = append(costs, cost+explain("next page", 100, settings, sql, args...))
		failSome(t, pool, names, refs[:10], explain)
		refs = readRefs(t, s, &r)
	}
	if first, last := costs[0], costs[len(costs)-1]; last > first+first/5 {
		t.Errorf("a page and its settling look into %d buffers at first and %d at last", first, last)
	}
	must(t, old.Rollback(t.Context()))
}

// readRefs reads a page and moves the request behind it.
func readRefs(t *testing.T, s *pgxstore.Store, r *store.ReadRequest) []store.Ref {
	t.Helper()
	pages, err := s.Read(t.Context(), *r)
	must(t, err)
	r.Cursor = pages[0].Cursor
	refs := make([]store.Ref, len(pages[0].Rows))
	for i := range refs {
		refs[i] = store.Ref{Position: pages[0].Rows[i].Position, ID: pages[0].Rows[i].ID}
	}
	if len(refs) != r.Limit {
		t.Fatalf("a page has %d messages, want %d", len(refs), r.Limit)
	}
	return refs
}

// failSome has explained what writes failures of ten messages: five wait, five die.
func failSome(t *testing.T, pool *pgxpool.Pool, names *postgres.Names, refs []store.Ref,
	explain func(string, int, postgres.Settings, string, ...any) int,
) {
	t.Helper()
	var positions, ids string
	for _, half := range []struct {
		purpose string
		refs    []store.Ref
		args    []any
	}{
		{"fail", refs[:5], []any{repeated("1", 5), repeated("e", 5), repeated("1000", 5)}},
		{"bury", refs[5:], []any{repeated("1", 5), repeated("e", 5), repeated("expired", 5), repeated("f", 5)}},
	} {
		settings, sql := postgres.Statement(names, half.purpose)
		must(t, pool.QueryRow(t.Context(), `SELECT array_agg(position)::text, array_agg(id)::text FROM `+names.SQL("{message}")+`
			WHERE position BETWEEN $1 AND $2`, half.refs[0].Position, half.refs[4].Position).Scan(&positions, &ids))
		explain(half.purpose, 250, settings, sql, append([]any{positions, ids}, half.args...)...)
	}
}
