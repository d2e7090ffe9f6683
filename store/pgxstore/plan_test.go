package pgxstore_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/internal/postgres"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// fill puts 20,000 messages into each table, which are some hundred pages.
func fill(t *testing.T, pool *pgxpool.Pool, table func(string) string) {
	t.Helper()
	const rows = `FROM generate_series(1, 20000) AS i`
	exec(t, pool, `INSERT INTO `+table("message")+` (topic, key, payload) SELECT 't', i, decode(repeat('00', 200), 'hex') `+rows)
	exec(t, pool, `INSERT INTO `+table("scheduled")+` (topic, payload, deliver_at)
		SELECT 't', decode(repeat('00', 200), 'hex'), now() + (i - 10000) * interval '1 second' `+rows)
	exec(t, pool, `INSERT INTO `+table("dead")+` (position, id, topic, key, tenant, type, version, content_type, headers, payload,
		created_at, route, attempts, last_error, reason, parked)
		SELECT -i, gen_random_uuid(), 't', 'k' || i % 3, '', '', '', '', '{}', decode(repeat('00', 200), 'hex'), now(), '', 0, '', 'exhausted', true `+rows)
	exec(t, pool, `INSERT INTO `+table("sent")+` (position, id, topic, tenant, type, version, content_type, headers, payload,
		created_at, route, attempts, last_error, sent_at)
		SELECT i, gen_random_uuid(), 't', '', '', '', '', '{}', decode(repeat('00', 200), 'hex'), now(), '', 0, '', now() - i * interval '1 second' `+rows)
}

// first returns positions and ids of the first n messages, as arrays.
func first(t *testing.T, s *pgxpool.Pool, table string, n int) (positions, ids string) {
	t.Helper()
	must(t, s.QueryRow(t.Context(), `SELECT array_agg(position)::text, array_agg(id)::text FROM (
		SELECT position, id FROM `+table+` ORDER BY position LIMIT $1) AS m`, n).Scan(&positions, &ids))
	return positions, ids
}

// firstRefs names n messages from the first one on, of which each step-th counts.
func firstRefs(t *testing.T, s *pgxstore.Store, n, step int) []store.Ref {
	t.Helper()
	pages, err := s.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: n * step})
	must(t, err)
	var refs []store.Ref
	for i := 0; i < len(pages[0].Rows); i += step {
		refs = append(refs, store.Ref{Position: pages[0].Rows[i].Position, ID: pages[0].Rows[i].ID})
	}
	return refs
}

// repeated is an array of n equal elements.
func repeated(element string, n int) string {
	return "{" + strings.TrimSuffix(strings.Repeat(element+",", n), ",") + "}"
}

// TestStatementsGoByIndexes counts the buffers of statements that have to do with ten
// messages, in tables of 20,000 with some hundred pages each.
func TestStatementsGoByIndexes(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	table := func(name string) string { return pgx.Identifier{schema, name}.Sanitize() }
	names, err := postgres.NewNames(schema, "")
	must(t, err)
	fill(t, pool, table)
	for _, known := range []bool{false, true} { // by the planner
		if known {
			exec(t, pool, "ANALYZE")
		}
		count := func(purpose string, most int, args ...any) {
			t.Helper()
			settings, sql := postgres.Statement(names, purpose)
			got := explained(t, pool, string(settings), sql, args...)
			t.Logf("%-10s %4d buffers", purpose, got)
			if got > most {
				t.Errorf("%s looks into %d buffers, want at most %d", purpose, got, most)
			}
		}
		p, ids := first(t, pool, table("message"), 10)
		count("fail", 400, p, ids, repeated("1", 10), repeated("e", 10), repeated("1000", 10))
		count("bury", 400, p, ids, repeated("1", 10), repeated("e", 10), repeated("expired", 10), repeated("f", 10))
		for _, keep := range []bool{false, true} {
			for what, refs := range map[string][]store.Ref{
				"neighbours": firstRefs(t, s, 10, 1), "strangers": firstRefs(t, s, 10, 100),
			} {
				settings, sql, args, err := postgres.SettleStatement(names, refs, keep)
				must(t, err)
				got, most := explained(t, pool, string(settings), sql, args...), 200
				if keep {
					most = 600
				}
				t.Logf("settle %s %v %4d buffers", what, keep, got)
				if got > most {
					t.Errorf("settling %s, kept %v, looks into %d buffers, want at most %d", what, keep, got, most)
				}
			}
		}
		p, ids = first(t, pool, table("message"), 10)
		count("dispatch", 400, p, ids, repeated("r", 10))
		count("parked", 60, int64(-1))
		count("next due", 20)
		count("promote", 400, int64(10))
		count("discard", 400, "{11,12,13,14,15,16,17,18,19,20}")
	}
	if keys, err := s.Parked(t.Context(), store.FirstShards(64)); err != nil || len(keys) != 3 {
		t.Fatalf("%d keys are parked, %v; want 3", len(keys), err)
	}
}

// TestListGoesByIndexes does so for pages of a list.
func TestListGoesByIndexes(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	table := func(name string) string { return pgx.Identifier{schema, name}.Sanitize() }
	names, err := postgres.NewNames(schema, "")
	must(t, err)
	fill(t, pool, table)
	exec(t, pool, "ANALYZE")
	for _, state := range []store.State{store.Pending, store.Scheduled, store.Dead, store.Sent} {
		q := store.Query{State: state, Limit: 10}
		list, err := s.List(t.Context(), q)
		must(t, err)
		byID := store.Query{State: state, Limit: 10, IDs: []string{list[5].ID}}
		behind := store.Query{State: state, Limit: 10, After: list[9].Place}
		for what, q := range map[string]store.Query{"first page": q, "next page": behind, "by id": byID} {
			if state == store.Pending && what == "by id" {
				continue // emitting does not pay for an index that only people use
			}
			settings, sql, args, err := postgres.ListStatement(names, q)
			must(t, err)
			if got := explained(t, pool, string(settings), sql, args...); got > 60 {
				t.Errorf("%s, %s: looks into %d buffers, want a handful", state, what, got)
			}
		}
		if got, err := s.List(t.Context(), byID); err != nil || len(got) != 1 || got[0].ID != list[5].ID {
			t.Errorf("%s by id: %d messages, %v, want the one", state, len(got), err)
		}
	}
}

// TestRedriveOfOneDoesNotReadAll counts the buffers of redriving a dead letter that
// nothing is parked behind.
func TestRedriveOfOneDoesNotReadAll(t *testing.T) {
	t.Parallel()
	_, pool, schema := openStore(t, nil)
	table := func(name string) string { return pgx.Identifier{schema, name}.Sanitize() }
	names, err := postgres.NewNames(schema, "")
	must(t, err)
	fill(t, pool, table)
	var place int64
	must(t, pool.QueryRow(t.Context(), `UPDATE `+table("dead")+` SET key = 'alone' WHERE position = -500 RETURNING place`).Scan(&place))
	settings, sql := postgres.Statement(names, "redrive")
	if got := explained(t, pool, string(settings), sql, fmt.Sprintf("{%d}", place)); got > 200 {
		t.Fatalf("looks into %d buffers, want a handful", got)
	}
}
