package sqlite

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox/store"
)

// newDB returns an empty database.
func newDB(t testing.TB) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "a.db")+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func newNames(t testing.TB, prefix string) *Names {
	t.Helper()
	names, err := NewNames(prefix)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func execute(t testing.TB, db *sql.DB, text string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), text, args...); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// newStore returns a store on a database that is migrated.
func newStore(t testing.TB) *Store {
	t.Helper()
	s := New(newDB(t), newNames(t, ""))
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// migrateTo brings a database to an old version.
func migrateTo(t *testing.T, s *Store, version int) {
	t.Helper()
	list, err := migrations(s.names)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list[:version] {
		if err := s.write(t.Context(), func(c runner) error { return s.apply(t.Context(), c, m) }); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUpgradeKeepsWhatIsThere: rows, the lease of a relay that runs, and that
// relay, which goes on with the statements of its own version.
func TestUpgradeKeepsWhatIsThere(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"", `a "b'c `} {
		s := New(newDB(t), newNames(t, prefix))
		migrateTo(t, s, 2)
		old := func(text string) { execute(t, s.db, s.names.sql(text)) }
		old(`INSERT INTO {message} (topic, key, payload, attempts, last_error, retry_at) VALUES ('a', 'k', 'x', 3, 'no', {now} + 60000000)`)
		old(`INSERT INTO {message} (topic, payload) VALUES ('b', 'y')`)
		old(`UPDATE {lease} SET owner = 'old', token = 7, expires_at = {now} + 60000000`)
		old(`INSERT INTO {relay} (id, name, expires_at) VALUES ('old', 'name', {now} + 60000000)`)
		if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "expires_at of table") {
			t.Fatalf("check of version 2 returned %v, want what is missing", err)
		}
		if err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		old(`UPDATE {lease} SET token = token + (owner IS NOT 'old'), owner = 'old', expires_at = {now} + 60000000 WHERE shard = 0`)
		old(`INSERT INTO {relay} (id, name, expires_at) VALUES ('old', 'name', {now} + 1)
			ON CONFLICT (id) DO UPDATE SET name = excluded.name, expires_at = excluded.expires_at`)
		wantUpgraded(t, s)
	}
}

func wantUpgraded(t *testing.T, s *Store) {
	t.Helper()
	pages, err := s.Read(t.Context(), store.ReadRequest{Shards: 1, Limit: 10, MaxBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	rows := pages[0].Rows
	if len(rows) != 2 || rows[0].Topic != "a" || rows[0].Attempts != 3 || rows[0].LastError != "no" || rows[0].RetryIn < 50*time.Second ||
		rows[1].Topic != "b" || rows[1].Route != "" || !rows[1].ExpiresAt.IsZero() {
		t.Fatalf("the rows are %+v, want those from before", rows)
	}
	claim, err := s.Claim(t.Context(), store.ClaimRequest{Owner: "old", TTL: time.Minute})
	if err != nil || len(claim.Leases) != 1 || claim.Leases[0].Token != 7 {
		t.Fatalf("the old relay has %+v, %v, want the lease with the token 7", claim, err)
	}
}
