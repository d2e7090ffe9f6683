package acceptance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/store/sqlstore"
)

// migrator is a store as set-up sees it.
type migrator interface {
	Migrate(ctx context.Context) error
	Check(ctx context.Context) error
}

// migrateAtOnce runs a store's set-up in several processes, as far as the database
// can tell, at the same moment.
func migrateAtOnce(t *testing.T, stores []migrator) {
	t.Helper()
	errs := make([]error, len(stores))
	start := make(chan struct{})
	var running sync.WaitGroup
	for i, s := range stores {
		running.Go(func() {
			<-start
			errs[i] = errors.Join(s.Migrate(t.Context()), s.Check(t.Context()))
		})
	}
	close(start)
	running.Wait()
	must(t, errors.Join(errs...))
}

func pgStore(t testing.TB, address string, config *pgxstore.Config) *pgxstore.Store {
	t.Helper()
	s, closeStore, err := openPostgres(address, config)
	must(t, err)
	t.Cleanup(closeStore)
	return s
}

func liteStore(t testing.TB, file, prefix string) *sqlstore.Store {
	t.Helper()
	return sqlstore.New(openSQL(t, "sqlite", sqlstore.SQLiteDSN(file)), sqlstore.SQLite, &sqlstore.Config{TablePrefix: prefix})
}

func TestK26_SetUpTwiceAtOnceOrForTwoTables(t *testing.T) {
	t.Parallel()
	const processes = 4 // of each outbox
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		address := testenv.Postgres(t).NewDatabase(t)
		outboxes := []*pgxstore.Config{{}, {Schema: "Second one"}, {Schema: "Second one", TablePrefix: "pre-"}}
		var stores []migrator
		for range processes {
			for _, config := range outboxes {
				stores = append(stores, pgStore(t, address, config))
			}
		}
		migrateAtOnce(t, stores)
		migrateAtOnce(t, stores) // and again
		db := openSQL(t, "pgx", address)
		for i, config := range outboxes {
			s := stores[i].(*pgxstore.Store)
			must(t, s.InTx(t.Context(), func(tx pgx.Tx) error {
				return outbox.New(s).Emit(t.Context(), tx, outbox.Event{Topic: fmt.Sprint("outbox.", i)})
			}))
			must(t, s.Migrate(t.Context())) // which leaves what is there
			wantIndexed(t, db, config)
		}
		for i := range outboxes {
			wantOnly(t, stores[i].(relay.Store), fmt.Sprint("outbox.", i))
		}
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		file := t.TempDir() + "/app.db"
		prefixes := []string{"outbox_", "Second one "}
		var stores []migrator
		for range processes {
			for _, prefix := range prefixes {
				stores = append(stores, liteStore(t, file, prefix))
			}
		}
		migrateAtOnce(t, stores)
		migrateAtOnce(t, stores)
		for i := range prefixes {
			s := stores[i].(*sqlstore.Store)
			must(t, s.InTx(t.Context(), func(tx *sql.Tx) error {
				return outbox.New(s).Emit(t.Context(), tx, outbox.Event{Topic: fmt.Sprint("outbox.", i)})
			}))
			must(t, s.Migrate(t.Context()))
		}
		for i := range prefixes { // the position is the only index, the table itself
			wantOnly(t, stores[i].(relay.Store), fmt.Sprint("outbox.", i))
		}
	})
}

// wantIndexed looks for the indexes that the reader and the settling need.
func wantIndexed(t *testing.T, db *sql.DB, config *pgxstore.Config) {
	t.Helper()
	schema := config.Schema
	if schema == "" {
		schema = "outbox"
	}
	for _, column := range []string{"(\"position\")", "(txid)"} {
		var n int
		must(t, db.QueryRow(`SELECT count(*) FROM pg_indexes WHERE schemaname = $1 AND tablename = $2 AND indexdef LIKE '%' || $3`,
			schema, config.TablePrefix+"message", column).Scan(&n))
		if n != 1 {
			t.Errorf("table %s.%smessage has %d indexes on %s, want 1", schema, config.TablePrefix, n, column)
		}
	}
}

// wantOnly reads the outbox, which must have one message.
func wantOnly(t *testing.T, s relay.Store, topic string) {
	t.Helper()
	pages, err := s.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(s.Shards()), Limit: 10, MaxBytes: 1 << 20})
	must(t, err)
	if rows := pages[0].Rows; len(rows) != 1 || rows[0].Topic != topic {
		t.Errorf("the outbox has %+v, want one message to %s", rows, topic)
	}
}

var roles atomic.Int64

// newRole makes a role without any rights and returns the database's URL for it.
func newRole(t *testing.T, db *postgres) (name, address string) {
	t.Helper()
	u, err := url.Parse(db.databaseURL())
	must(t, err)
	name = fmt.Sprintf("role_%s_%d", strings.TrimPrefix(u.Path, "/"), roles.Add(1))
	execute(t, db, `CREATE ROLE `+name+` LOGIN PASSWORD 'secret'`)
	execute(t, db, `REVOKE CREATE ON SCHEMA public FROM PUBLIC`)
	t.Cleanup(func() {
		_, _ = db.sql().Exec(`DROP OWNED BY ` + name)
		_, _ = db.sql().Exec(`DROP ROLE ` + name)
	})
	u.User = url.UserPassword(name, "secret")
	return name, u.String()
}

// grants are what a relay needs, and nothing more.
const grants = `
GRANT USAGE ON SCHEMA outbox TO %[1]s;
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.message, outbox.relay, outbox.scheduled TO %[1]s;
GRANT SELECT, INSERT, UPDATE ON outbox.lease, outbox.incarnation TO %[1]s;
GRANT SELECT, INSERT, DELETE ON outbox.dead, outbox.sent, outbox.pause TO %[1]s;
GRANT SELECT, UPDATE, DELETE ON outbox.sent_default TO %[1]s;
GRANT SELECT ON outbox.migration TO %[1]s;
GRANT SELECT, UPDATE ON SEQUENCE outbox.armed TO %[1]s;
GRANT USAGE ON SEQUENCE outbox.sent_place TO %[1]s;`

func TestK26_WithoutRightsToCreate(t *testing.T) {
	t.Parallel()
	t.Run("AllIsThere", func(t *testing.T) {
		t.Parallel()
		db := newPostgres(t)
		role, address := newRole(t, db)
		execute(t, db, fmt.Sprintf(grants, role))
		if _, err := openSQL(t, "pgx", address).Exec(`CREATE TABLE outbox.mine ()`); err == nil {
			t.Fatal("the role may create tables")
		}
		st := pgStore(t, address, &pgxstore.Config{Logger: quiet()})
		must(t, errors.Join(st.Migrate(t.Context()), st.Check(t.Context())))
		s := newSystem(db, newRabbit(t, false))
		r := s.startWorker(t)
		p, err := openPublisher(s.address)
		must(t, err)
		run := runRelay(t, st, p, relay.Config{}, func() {})
		s.placeOrders(t, "order", 10, 2)
		s.wantNoRepeats(t, r)
		run.stop()
	})
	t.Run("RightsAreMissing", func(t *testing.T) {
		t.Parallel()
		db := newPostgres(t)
		role, address := newRole(t, db)
		execute(t, db, fmt.Sprintf(grants, role))
		execute(t, db, fmt.Sprintf(`REVOKE UPDATE ON outbox.lease FROM %[1]s; REVOKE DELETE ON outbox.message FROM %[1]s;
			REVOKE UPDATE ON outbox.armed FROM %[1]s; ALTER TABLE outbox.message DROP COLUMN last_error; DROP TABLE outbox.relay`, role))
		wantMissing(t, pgStore(t, address, nil),
			"no UPDATE right on table outbox.lease", "no DELETE right on table outbox.message",
			"no UPDATE right on sequence outbox.armed", "column last_error of table outbox.message is missing",
			"table outbox.relay is missing")
	})
	t.Run("NothingIsThere", func(t *testing.T) {
		t.Parallel()
		db := newPostgres(t)
		_, address := newRole(t, db)
		execute(t, db, `DROP SCHEMA outbox CASCADE`)
		st := pgStore(t, address, nil)
		err := st.Migrate(t.Context())
		if err == nil || !strings.Contains(err.Error(), `create schema "outbox"`) || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("Migrate returned %v, want that the schema may not be created", err)
		}
		var missing *store.MissingError
		if err := st.Check(t.Context()); !errors.As(err, &missing) || !slices.Contains(missing.Missing, "schema outbox is missing") ||
			!slices.Contains(missing.Missing, "table outbox.message is missing") {
			t.Errorf("Check returned %v, want schema and tables by name", err)
		}
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		db := newSQLite(t)
		readOnly := sqlstore.New(openSQL(t, "sqlite", sqlstore.SQLiteDSN(db.file)+"&mode=ro"), sqlstore.SQLite, nil)
		must(t, readOnly.Migrate(t.Context()))
		wantMissing(t, readOnly, "the right to write: the database is read-only")
	})
}

// wantMissing checks that both the check and a relay's start name exactly what is
// missing.
func wantMissing(t *testing.T, st relay.Store, want ...string) {
	t.Helper()
	publisher := outbox.PublishFunc(func(context.Context, *outbox.Message) error {
		t.Error("the relay publishes")
		return nil
	})
	slices.Sort(want)
	for what, err := range map[string]error{
		"Check": st.Check(t.Context()),
		"Run":   relay.New(st, publisher, &relay.Config{Logger: quiet()}).Run(t.Context()),
	} {
		var missing *store.MissingError
		if !errors.As(err, &missing) {
			t.Errorf("%s returned %v, want a MissingError", what, err)
			continue
		}
		if got := slices.Sorted(slices.Values(missing.Missing)); !slices.Equal(got, want) {
			t.Errorf("%s names %q, want %q", what, got, want)
		}
	}
}
