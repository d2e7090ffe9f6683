package sqlstore_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/outbox-go/outbox/store/sqlstore"
	"github.com/outbox-go/outbox/storetest"
)

func TestSQLiteConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness[*sql.Tx] { return newHarness(t, nil) })
}

// TestSQLiteConformanceUnderAnotherPrefix is as mean to the quoting as a name can
// be.
func TestSQLiteConformanceUnderAnotherPrefix(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness[*sql.Tx] {
		return newHarness(t, &sqlstore.Config{TablePrefix: `sélect "x'y -- `})
	})
}

// openFile opens a handle of its own on a database file: what another process
// would have.
func openFile(t testing.TB, file string) *sql.DB {
	t.Helper()
	// Whoever does not go by the store's InTx has only SQLite's own waiting, and a
	// machine that is busy can let one starve.
	dsn := strings.Replace(sqlstore.SQLiteDSN(file), "busy_timeout(10000)", "busy_timeout(60000)", 1)
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

// newFile returns a path of a database that is not there yet.
func newFile(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "100%? #a.db")
}

func migrated(t testing.TB, db *sql.DB, config *sqlstore.Config) *sqlstore.Store {
	t.Helper()
	s := sqlstore.New(db, sqlstore.SQLite, config)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatalf("migrate: %v", err)
	}
	return s
}

func execute(t testing.TB, db *sql.DB, text string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), text, args...); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

func newHarness(t *testing.T, config *sqlstore.Config) storetest.Harness[*sql.Tx] {
	t.Helper()
	file := newFile(t)
	db := openFile(t, file)
	prefix := sqlstore.DefaultTablePrefix
	if config != nil {
		prefix = config.TablePrefix
	}
	h := storetest.Harness[*sql.Tx]{
		Features: storetest.Features{
			Shards: 1, SingleWriter: true,
			Missing: []string{"table " + prefix + "message", "table " + prefix + "lease", "table " + prefix + "relay", "table " + prefix + "migration"},
		},
		Store: migrated(t, db, config),
		Open: func(t *testing.T) storetest.Store[*sql.Tx] {
			return sqlstore.New(openFile(t, file), sqlstore.SQLite, config)
		},
		Begin:     func(ctx context.Context) (*sql.Tx, error) { return db.BeginTx(ctx, nil) },
		Commit:    func(_ context.Context, tx *sql.Tx) error { return tx.Commit() },
		Rollback:  func(_ context.Context, tx *sql.Tx) error { return tx.Rollback() },
		Savepoint: savepoint,
		Empty: func(t *testing.T) (storetest.Store[*sql.Tx], func(context.Context) error) {
			empty := sqlstore.New(openFile(t, newFile(t)), sqlstore.SQLite, config)
			return empty, empty.Migrate
		},
	}
	execute(t, db, `CREATE TABLE business (id TEXT PRIMARY KEY)`)
	h.Insert = func(ctx context.Context, tx *sql.Tx, id string) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO business (id) VALUES (?)`, id)
		return err
	}
	h.Count = func(ctx context.Context) (n int, err error) {
		err = db.QueryRowContext(ctx, `SELECT count(*) FROM business`).Scan(&n)
		return n, err
	}
	h.Route = routeOf
	h.Within = func(tx *sql.Tx) storetest.Once { return h.Store.(*sqlstore.Store).Within(tx) }
	h.AgeSent = func(ctx context.Context, by time.Duration) error {
		table := `"` + strings.ReplaceAll(prefix+"sent", `"`, `""`) + `"`
		_, err := db.ExecContext(ctx, `UPDATE `+table+` SET sent_at = sent_at - ?`, by.Microseconds())
		return err
	}
	h.AgeInbox = func(ctx context.Context, by time.Duration) error {
		table := `"` + strings.ReplaceAll(prefix+"inbox", `"`, `""`) + `"`
		_, err := db.ExecContext(ctx, `UPDATE `+table+` SET received_at = received_at - ?`, by.Microseconds())
		return err
	}
	h.Passing = map[string]func(t *testing.T) storetest.PassingFault[*sql.Tx]{
		"busy": func(t *testing.T) storetest.PassingFault[*sql.Tx] {
			t.Helper()
			// Another transaction waits in vain for the one that is at work.
			other, err := sql.Open("sqlite", strings.Replace(sqlstore.SQLiteDSN(file), "busy_timeout(10000)", "busy_timeout(1)", 1))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = other.Close() })
			return storetest.PassingFault[*sql.Tx]{Store: h.Store, Fail: func(ctx context.Context, _ *sql.Tx) error {
				_, err := other.ExecContext(ctx, `INSERT INTO business (id) VALUES ('busy')`)
				return err
			}}
		},
	}
	return h
}

func routeOf(s storetest.Store[*sql.Tx], name string) storetest.Store[*sql.Tx] {
	return s.(*sqlstore.Store).Route(name)
}

func savepoint(ctx context.Context, tx *sql.Tx, fn func(tx *sql.Tx) error) error {
	if _, err := tx.ExecContext(ctx, `SAVEPOINT part`); err != nil {
		return err
	}
	err := fn(tx)
	if err != nil {
		if _, undoErr := tx.ExecContext(ctx, `ROLLBACK TO part`); undoErr != nil {
			return undoErr
		}
	}
	if _, releaseErr := tx.ExecContext(ctx, `RELEASE part`); releaseErr != nil {
		return releaseErr
	}
	return err
}
