package pgxstore_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// migrateBefore makes what the schema had before a migration.
func migrateBefore(t *testing.T, pool *pgxpool.Pool, schema, migration string) {
	t.Helper()
	sql, err := pgxstore.MigrationSQL(&pgxstore.Config{Schema: schema})
	must(t, err)
	before, _, found := strings.Cut(sql, "\n-- "+migration)
	if !found {
		t.Fatalf("there is no migration %s", migration)
	}
	_, err = pool.Exec(t.Context(), before+"COMMIT", pgx.QueryExecModeSimpleProtocol)
	must(t, err)
}

// oldRelay does what a relay of version 2 did to its rows.
func oldRelay(t *testing.T, pool *pgxpool.Pool, table func(string) string) {
	t.Helper()
	exec(t, pool, `INSERT INTO `+table("relay")+` AS r (id, name, most, busy, expires_at) VALUES ('old', 'old', 0, false, clock_timestamp() + interval '1 hour')
		ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at, most = excluded.most`)
	exec(t, pool, `UPDATE `+table("lease")+` SET owner = 'old', token = token + 1, expires_at = clock_timestamp() + interval '1 hour' WHERE shard < 10`)
	exec(t, pool, `INSERT INTO `+table("message")+` (topic, key, payload) VALUES ('old', 'k', '1')`)
	exec(t, pool, `UPDATE `+table("message")+` SET attempts = 3, last_error = 'e', retry_at = clock_timestamp() + interval '1 hour' WHERE topic = 'old'`)
}

func TestUpgradeFromVersion2(t *testing.T) {
	t.Parallel()
	pool := openPool(t, testDatabase(t))
	s, schema := storeIn(t, pool, nil)
	table := func(name string) string { return pgx.Identifier{schema, name}.Sanitize() }
	migrateBefore(t, pool, schema, "0003_policies")
	oldRelay(t, pool, table)
	must(t, s.Migrate(t.Context()))
	must(t, s.Check(t.Context()))
	oldRelay(t, pool, table) // which goes on until it is restarted
	c, err := s.Claim(t.Context(), store.ClaimRequest{Owner: "new", TTL: time.Hour})
	must(t, err)
	if len(c.Leases) != 32 || c.Relays != 2 || c.Leases[0].Shard != 10 {
		t.Fatalf("%d leases from shard %d on beside %d relays, want 32 from 10 on beside both", len(c.Leases), c.Leases[0].Shard, c.Relays)
	}
	pages, err := s.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: 10})
	must(t, err)
	if rows := pages[0].Rows; len(rows) != 2 || rows[0].Attempts != 3 || rows[0].RetryIn <= 0 || rows[0].Route != "" || !rows[0].ExpiresAt.IsZero() {
		t.Fatalf("read %+v, want the two messages of before", rows)
	}
	var id string
	must(t, pool.QueryRow(t.Context(), `SELECT `+table("emit")+`('emitted', '{}')`).Scan(&id))
	if list, err := s.List(t.Context(), store.Query{State: store.Pending, Limit: 9, IDs: []string{id}}); err != nil || len(list) != 1 {
		t.Fatalf("%d messages emitted, %v, want 1", len(list), err)
	}
}

// TestUpgradeWaitsForEmitters: a transaction that has emitted holds up the migration,
// and those who emit behind it for two seconds at most.
func TestUpgradeWaitsForEmitters(t *testing.T) {
	t.Parallel()
	pool := openPool(t, testDatabase(t))
	s, schema := storeIn(t, pool, nil)
	migrateBefore(t, pool, schema, "0003_policies")
	insert := `INSERT INTO ` + pgx.Identifier{schema, "message"}.Sanitize() + ` (topic, payload) VALUES ('t', '1')`
	long := begin(t, pool)
	_, err := long.Exec(t.Context(), insert)
	must(t, err)
	migrated := make(chan error, 1)
	go func() { migrated <- s.Migrate(context.Background()) }()
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = '`+strings.ReplaceAll(pgx.Identifier{schema, "message"}.Sanitize(), "'", "''")+`'::regclass
		AND mode = 'AccessExclusiveLock' AND NOT granted)`)
	exec(t, pool, insert)
	select {
	case err := <-migrated:
		t.Fatalf("the migration has ended: %v", err)
	default:
	}
	must(t, long.Commit(t.Context()))
	must(t, <-migrated)
	if pages, err := s.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: 10}); err != nil || len(pages[0].Rows) != 2 {
		t.Fatalf("read %d messages, %v, want 2", len(pages[0].Rows), err)
	}
}

// waitFor asks until the answer is true.
func waitFor(t *testing.T, pool *pgxpool.Pool, question string, args ...any) {
	t.Helper()
	for yes := false; !yes; {
		must(t, t.Context().Err())
		must(t, pool.QueryRow(t.Context(), question, args...).Scan(&yes))
	}
}

func TestEmitFunctionTakesTimesAndRoute(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	emit := pgx.Identifier{schema, "emit"}.Sanitize()
	exec(t, pool, `SELECT `+emit+`('now', '1', expires_at => now() + interval '1 hour', route => 'r')`)
	exec(t, pool, `SELECT `+emit+`('later', '1', 'k', deliver_at => now() + interval '1 hour', tenant => 'c')`)
	for state, want := range map[store.State]string{store.Pending: "now  r true false", store.Scheduled: "later k  false true"} {
		list, err := s.List(t.Context(), store.Query{State: state, Limit: 9})
		must(t, err)
		if len(list) != 1 {
			t.Fatalf("%d messages are %s, want 1", len(list), state)
		}
		m := list[0]
		if got := fmt.Sprint(m.Topic, " ", m.Key, " ", m.Route, " ", !m.ExpiresAt.IsZero(), " ", !m.DeliverAt.IsZero()); got != want {
			t.Errorf("%s: %q, want %q", state, got, want)
		}
	}
}
