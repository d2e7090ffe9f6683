package sqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store/internal/postgres/pgtest"
	"github.com/outbox-go/outbox/store/sqlstore"
	"github.com/outbox-go/outbox/storetest"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestPostgresConformanceByPgx(t *testing.T) { postgresConformance(t, "pgx") }

func TestPostgresConformanceByPq(t *testing.T) { postgresConformance(t, "postgres") }

var schemas atomic.Int64

func postgresConformance(t *testing.T, driver string) {
	storetest.Run(t, func(t *testing.T) storetest.Harness[*sql.Tx] {
		schema := fmt.Sprintf(`Out"box '%d`, schemas.Add(1))
		config := &sqlstore.Config{Schema: schema, TablePrefix: "My-"}
		db := openPostgres(t, driver)
		s := sqlstore.New(db, sqlstore.PostgreSQL, config)
		if err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		return postgresHarness(t, driver, db, s, config)
	})
}

func openPostgres(t testing.TB, driver string) *sql.DB {
	t.Helper()
	return openPostgresURL(t, driver, testenv.Postgres(t).URL())
}

func openPostgresURL(t testing.TB, driver, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, url)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(20)
	db.SetMaxIdleConns(20)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func postgresHarness(t *testing.T, driver string, db *sql.DB, s *sqlstore.Store, config *sqlstore.Config) storetest.Harness[*sql.Tx] {
	business := fmt.Sprintf("business_%d", schemas.Add(1))
	execute(t, db, `CREATE TABLE `+business+` (id text PRIMARY KEY)`)
	return storetest.Harness[*sql.Tx]{
		Features: storetest.Features{
			Shards: 64, Notifies: storetest.NotifiesNone, Snapshots: true, Missing: []string{"message", "lease", "relay"},
		},
		Store: s,
		Open: func(t *testing.T) storetest.Store[*sql.Tx] {
			return sqlstore.New(openPostgres(t, driver), sqlstore.PostgreSQL, config)
		},
		Begin:    func(ctx context.Context) (*sql.Tx, error) { return db.BeginTx(ctx, nil) },
		Commit:   func(_ context.Context, tx *sql.Tx) error { return tx.Commit() },
		Rollback: func(_ context.Context, tx *sql.Tx) error { return tx.Rollback() },
		Insert: func(ctx context.Context, tx *sql.Tx, id string) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO `+business+` (id) VALUES ($1)`, id)
			return err
		},
		Count: func(ctx context.Context) (n int, err error) {
			err = db.QueryRowContext(ctx, `SELECT count(*) FROM `+business).Scan(&n)
			return n, err
		},
		Savepoint: savepoint,
		Route:     routeOf,
		Within:    func(tx *sql.Tx) storetest.Once { return s.Within(tx) },
		AgeSent: func(ctx context.Context, by time.Duration) error {
			table := pgx.Identifier{config.Schema, config.TablePrefix + "sent"}.Sanitize()
			_, err := db.ExecContext(ctx, `UPDATE `+table+` SET sent_at = sent_at - $1 * interval '1 microsecond'`, by.Microseconds())
			return err
		},
		AgeInbox: func(ctx context.Context, by time.Duration) error {
			table := pgx.Identifier{config.Schema, config.TablePrefix + "inbox"}.Sanitize()
			_, err := db.ExecContext(ctx, `UPDATE `+table+` SET received_at = received_at - $1 * interval '1 microsecond'`, by.Microseconds())
			return err
		},
		Passing: passing(driver, config),
		Empty: func(t *testing.T) (storetest.Store[*sql.Tx], func(context.Context) error) {
			empty := sqlstore.New(db, sqlstore.PostgreSQL, &sqlstore.Config{Schema: fmt.Sprint("empty ", schemas.Add(1))})
			return empty, empty.Migrate
		},
	}
}

// passing returns the faults of package pgtest for a store with that config.
func passing(driver string, config *sqlstore.Config) map[string]func(t *testing.T) storetest.PassingFault[*sql.Tx] {
	all := map[string]func(t *testing.T) storetest.PassingFault[*sql.Tx]{}
	for name := range pgtest.Faults("") {
		all[name] = func(t *testing.T) storetest.PassingFault[*sql.Tx] {
			t.Helper()
			table := fmt.Sprint("fault_", schemas.Add(1))
			fault := pgtest.Faults(table)[name]
			conn, err := openPostgres(t, driver).Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			other := func(ctx context.Context, text string) error { _, err := conn.ExecContext(ctx, text); return err }
			if err := other(t.Context(), pgtest.MakeTable(table)); err != nil {
				t.Fatal(err)
			}
			return storetest.PassingFault[*sql.Tx]{
				Store: sqlstore.New(openPostgresURL(t, driver, testenv.Postgres(t).URL()+pgtest.FaultParams), sqlstore.PostgreSQL, config),
				Fail: func(ctx context.Context, tx *sql.Tx) error {
					return fault.Fail(ctx, func(ctx context.Context, text string) error { _, err := tx.ExecContext(ctx, text); return err }, other)
				},
			}
		}
	}
	return all
}
