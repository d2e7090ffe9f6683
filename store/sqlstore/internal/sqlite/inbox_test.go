package sqlite

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"
)

// TestInboxIsNotScanned: no statement looks through all rows that are not old.
func TestInboxIsNotScanned(t *testing.T) {
	t.Parallel()
	names, err := NewNames("")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "a.db")+"?_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := New(db, names).Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{oldInboxSQL, purgeInboxSQL, countInboxSQL} {
		plan := explain(t, db, names.sql(text), make([]any, strings.Count(text, "?"))...)
		if !strings.Contains(plan, "outbox_inbox_received (received_at<?)") || strings.Contains(plan, "SCAN outbox_inbox") || strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("the plan of %s is\n%s", text, plan)
		}
	}
}

// TestDefaultsAreOfEverySQLite: unixepoch('subsec') is NULL in one before 3.42, and
// whoever writes brings its own.
func TestDefaultsAreOfEverySQLite(t *testing.T) {
	t.Parallel()
	names, err := NewNames("")
	if err != nil {
		t.Fatal(err)
	}
	text, err := MigrationSQL(names)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "unixepoch(") || !strings.Contains(text, "julianday('now')") {
		t.Error("a default needs SQLite 3.42")
	}
}

func explain(t *testing.T, db *sql.DB, text string, args ...any) string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var id, parent, unused int
		var line string
		if err := rows.Scan(&id, &parent, &unused, &line); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(line + "\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan.String()
}
