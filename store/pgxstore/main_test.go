package pgxstore_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store/pgxstore"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// openPool connects to a database.
func openPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 20
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

var schemas atomic.Int64

// openStore returns a migrated store in a schema of the test's own; config, which
// may be nil, gives the other settings.
func openStore(t testing.TB, config *pgxstore.Config) (*pgxstore.Store, *pgxpool.Pool, string) {
	t.Helper()
	pool := openPool(t, testenv.Postgres(t).URL())
	s, schema := storeIn(t, pool, config)
	must(t, s.Migrate(t.Context()))
	return s, pool, schema
}

// storeIn returns a store in a new schema, which is not migrated. Its name needs
// quotes, so that each statement shows that it quotes.
func storeIn(t testing.TB, pool *pgxpool.Pool, config *pgxstore.Config) (*pgxstore.Store, string) {
	t.Helper()
	var c pgxstore.Config
	if config != nil {
		c = *config
	}
	c.Schema = fmt.Sprintf(`Out"box '%d\`, schemas.Add(1))
	t.Cleanup(func() {
		_, _ = pool.Exec(context.Background(), "DROP SCHEMA IF EXISTS "+pgx.Identifier{c.Schema}.Sanitize()+" CASCADE")
	})
	return newStore(t, pool, &c), c.Schema
}

func newStore(t testing.TB, pool *pgxpool.Pool, config *pgxstore.Config) *pgxstore.Store {
	t.Helper()
	s := pgxstore.New(pool, config)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func exec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func begin(t testing.TB, pool *pgxpool.Pool) pgx.Tx {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testDatabase returns the URL of the server that the tests share.
func testDatabase(t testing.TB) string {
	t.Helper()
	return testenv.Postgres(t).URL()
}
