package pgxstore_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/internal/postgres"
	"github.com/outbox-go/outbox/store/pgxstore"
)

func nothing(context.Context, pgx.Tx) error { return nil }

func wantFirst(t *testing.T, s *pgxstore.Store, id string, want bool) {
	t.Helper()
	first, err := s.Once(t.Context(), "billing", id, nothing)
	if first != want || err != nil {
		t.Fatalf("once for %s returned %t, %v, want %t", id, first, err, want)
	}
}

// TestOutboxWithoutInboxIsUpgraded: an installation of before there was an inbox takes
// messages as it is, and says what its relays and workers miss.
func TestOutboxWithoutInboxIsUpgraded(t *testing.T) {
	t.Parallel()
	pool := openPool(t, testDatabase(t))
	s, schema := storeIn(t, pool, nil)
	migrateBefore(t, pool, schema, "0002_inbox")
	emit(t, s, "kept")
	emit(t, s, "kept.too", "kept.also")
	var missing *store.MissingError
	if err := s.Check(t.Context()); !errors.As(err, &missing) || len(missing.Missing) < 5 {
		t.Fatalf("check returned %v, want a MissingError of what the newest version has", err)
	}
	if err := s.CheckInbox(t.Context()); !errors.As(err, &missing) || len(missing.Missing) != 1 {
		t.Fatalf("check of the inbox returned %v, want a MissingError of one line", err)
	}
	if _, err := s.Once(t.Context(), "billing", "1", nothing); !errors.As(err, &missing) || s.Transient(err) {
		t.Fatalf("once returned %v, want a MissingError that does not pass", err)
	}
	must(t, s.Migrate(t.Context()))
	must(t, errors.Join(s.Check(t.Context()), s.CheckInbox(t.Context())))
	wantFirst(t, s, "1", true)
	must(t, s.Migrate(t.Context()))
	wantFirst(t, s, "1", false)
	follow(t, s).want("kept", "kept.too", "kept.also")
}

// relayGrants are the rights that a relay needs on a schema.
func relayGrants(schema string) []string {
	on := func(rights string, tables ...string) string {
		return rights + " ON " + schema + "." + strings.Join(tables, ", "+schema+".")
	}
	return []string{
		on("SELECT, INSERT, UPDATE, DELETE", "message", "relay", "scheduled"), on("SELECT, INSERT, UPDATE", "lease", "incarnation"),
		on("SELECT, INSERT, DELETE", "dead", "sent", "pause"), on("SELECT, UPDATE, DELETE", "sent_default"), on("SELECT", "migration"),
		"SELECT, UPDATE ON SEQUENCE " + schema + ".armed", "USAGE ON SEQUENCE " + schema + ".sent_place",
	}
}

// storeOfRole returns a store of a new role that may use the schema and has these
// rights beside.
func storeOfRole(t *testing.T, pool *pgxpool.Pool, schema string, grants ...string) *pgxstore.Store {
	t.Helper()
	name := fmt.Sprint("role_", schemas.Add(1))
	exec(t, pool, "CREATE ROLE "+name+" LOGIN")
	t.Cleanup(func() {
		_, _ = pool.Exec(context.Background(), "DROP OWNED BY "+name)
		_, _ = pool.Exec(context.Background(), "DROP ROLE "+name)
	})
	for _, grant := range append(grants, "USAGE ON SCHEMA "+pgx.Identifier{schema}.Sanitize()) {
		exec(t, pool, "GRANT "+grant+" TO "+name)
	}
	u, err := url.Parse(testenv.Postgres(t).URL())
	must(t, err)
	u.User = url.User(name)
	return newStore(t, openPool(t, u.String()), &pgxstore.Config{Schema: schema})
}

// TestRightsOfRelayAndWorkerAreApart gives each role what it needs and no more.
func TestRightsOfRelayAndWorkerAreApart(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	quoted := pgx.Identifier{schema}.Sanitize()
	role := func(grants ...string) *pgxstore.Store { return storeOfRole(t, pool, schema, grants...) }
	var missing *store.MissingError

	relay := role(relayGrants(quoted)...)
	must(t, relay.Check(t.Context()))
	_, err := relay.Once(t.Context(), "billing", "1", nothing)
	if !errors.As(err, &missing) || !strings.Contains(err.Error(), "no INSERT right on table "+schema+".inbox") || relay.Transient(err) {
		t.Fatalf("once of a relay's role returned %v", err)
	}

	worker := role("SELECT, INSERT, UPDATE, DELETE ON " + quoted + ".inbox")
	must(t, worker.CheckInbox(t.Context()))
	wantFirst(t, worker, "1", true)
	if _, err := worker.PurgeInbox(t.Context(), time.Hour, 10); err != nil {
		t.Fatal(err)
	}
	wantFirst(t, role("INSERT ON "+quoted+".inbox"), "1", false)
	wantFirst(t, s, "1", false)
}

// TestPurgeLooksAtFewPages: a purge is run often and finds nothing most of the
// time, however many rows there are and were.
func TestPurgeLooksAtFewPages(t *testing.T) {
	t.Parallel()
	// In a database of its own, and not analyzed: what other transactions there might
	// still see stays.
	pool := openPool(t, testenv.Postgres(t).NewDatabase(t))
	s, schema := storeIn(t, pool, nil)
	must(t, s.Migrate(t.Context()))
	inbox := pgx.Identifier{schema, "inbox"}.Sanitize()
	exec(t, pool, "ALTER TABLE "+inbox+" SET (autovacuum_enabled = off)")
	names, err := postgres.NewNames(schema, "")
	must(t, err)
	pages := func(limit int) int {
		settings, sql := postgres.PurgeStatement(names)
		return explained(t, pool, string(settings), sql, time.Hour.Microseconds(), limit)
	}
	if got := pages(1000); got > 5 {
		t.Errorf("a purge of an empty table looks into %d pages", got)
	}
	fill := func(consumer string, rows int, from, step string) {
		exec(t, pool, `INSERT INTO `+inbox+` (consumer, message_id, received_at) SELECT $1, n::text, now() + $3::interval + n * $4::interval FROM generate_series(1, $2) n`,
			consumer, rows, from, step)
	}
	fill("new", 200_000, "-30 minutes", "1 millisecond")
	if got := pages(1000); got > 10 {
		t.Errorf("a purge that finds nothing among 200,000 rows looks into %d pages", got)
	}
	// What was deleted is passed over, by the index alone, until it is vacuumed.
	fill("old", 50_000, "-2 hours", "1 millisecond")
	if n, err := s.PurgeInbox(t.Context(), time.Hour, 50_000); n != 50_000 || err != nil {
		t.Fatalf("purged %d rows, %v", n, err)
	}
	// The next one marks them in the index, once no backend of the server, one that
	// just starts included, might see them.
	got := 0
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); {
		if n, err := s.PurgeInbox(t.Context(), time.Hour, 1000); n != 0 || err != nil {
			t.Fatalf("purged %d rows more, %v", n, err)
		}
		if got = pages(1000); got <= 300 {
			break
		}
	}
	if got > 300 {
		t.Errorf("a purge behind 50,000 deleted rows looks into %d pages", got)
	}
	exec(t, pool, "VACUUM "+inbox)
	if got := pages(1000); got > 10 {
		t.Errorf("a purge that finds nothing after a vacuum looks into %d pages", got)
	}
	fill("old", 50_000, "-2 hours", "1 millisecond")
	if got := pages(100); got > 1000 {
		t.Errorf("a purge of 100 rows of 50,000 looks into %d pages", got)
	}
	if n, err := s.CountInbox(t.Context(), time.Hour); n != 50_000-100 || err != nil {
		t.Fatalf("%d rows are old, %v, want those that were not purged", n, err)
	}
}

// TestPurgeDoesNotWaitForRowsOfOthers: several workers purge the same inbox.
func TestPurgeDoesNotWaitForRowsOfOthers(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	inbox := pgx.Identifier{schema, "inbox"}.Sanitize()
	exec(t, pool, `INSERT INTO `+inbox+` SELECT 'a', n::text, now() - interval '2 hours' + n * interval '1 second' FROM generate_series(1, 10) n`)
	other := begin(t, pool)
	_, err := other.Exec(t.Context(), `DELETE FROM `+inbox+` WHERE message_id IN ('1', '2', '3')`)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, want := range []int{4, 3, 0} {
		if n, err := s.PurgeInbox(ctx, time.Hour, 4); n != want || err != nil {
			t.Fatalf("purged %d rows, %v, want %d", n, err, want)
		}
	}
	must(t, other.Rollback(t.Context()))
	if n, err := s.PurgeInbox(ctx, time.Hour, 4); n != 3 || err != nil {
		t.Fatalf("purged %d rows, %v, want the other's", n, err)
	}
}

// TestEmitWithinOnceDoesNotNotifyBeforeTheCommit: notifying in each transaction
// makes commits wait for one another.
func TestEmitWithinOnceDoesNotNotifyBeforeTheCommit(t *testing.T) {
	t.Parallel()
	s, _, _ := openStore(t, nil)
	ob := outbox.New(s)
	_, err := s.Once(t.Context(), "billing", "1", func(ctx context.Context, tx pgx.Tx) error {
		var wake *string
		setting := func() string {
			t.Helper()
			must(t, tx.QueryRow(ctx, `SELECT current_setting('outbox.wake', true)`).Scan(&wake))
			if wake == nil {
				return ""
			}
			return *wake
		}
		if got := setting(); got != "" {
			t.Errorf("outbox.wake is %q before anything was emitted", got)
		}
		if err := ob.Emit(ctx, tx, outbox.Event{Topic: "a"}); err != nil {
			return err
		}
		if got := setting(); got != "off" {
			t.Errorf("outbox.wake is %q after an emit, want off", got)
		}
		return nil
	})
	must(t, err)
}

// TestEmitInAnotherTransactionIsNotForgotten: what a handler commits apart is told
// of whatever becomes of its own transaction.
func TestEmitInAnotherTransactionIsNotForgotten(t *testing.T) {
	t.Parallel()
	s, pool, _ := openStore(t, nil)
	heard := make(chan struct{}, 1000)
	go func() { _ = s.Listen(t.Context(), func() { heard <- struct{}{} }) }()
	<-heard // it listens
	for len(heard) > 0 {
		<-heard
	}
	failed := errors.New("failed")
	_, err := s.Once(t.Context(), "billing", "1", func(ctx context.Context, _ pgx.Tx) error {
		must(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			return outbox.New(s).Emit(ctx, tx, outbox.Event{Topic: "apart"})
		}))
		return failed
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	select {
	case <-heard:
	case <-time.After(8 * time.Second): // before the listener looks by itself
		t.Fatal("the listener was not told")
	}
}

func TestOnceWaitsForAConnectionAsLongAsItMay(t *testing.T) {
	t.Parallel()
	_, _, schema := openStore(t, nil)
	config, err := pgxpool.ParseConfig(testenv.Postgres(t).URL())
	must(t, err)
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	must(t, err)
	t.Cleanup(pool.Close)
	s := newStore(t, pool, &pgxstore.Config{Schema: schema})
	wantFirst(t, s, "1", true) // with one connection for all
	held := begin(t, pool)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Once(ctx, "billing", "2", nothing); !errors.Is(err, context.DeadlineExceeded) || !s.Transient(err) {
		t.Fatalf("without a free connection once returned %v, want an error that passes", err)
	}
	must(t, held.Rollback(t.Context()))
	wantFirst(t, s, "2", true)
	// A handler that takes too long is not the database's fault.
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = s.Once(ctx, "billing", "3", func(ctx context.Context, _ pgx.Tx) error {
		<-ctx.Done()
		return fmt.Errorf("ask another service: %w", ctx.Err())
	})
	if !errors.Is(err, context.DeadlineExceeded) || s.Transient(err) {
		t.Fatalf("a handler that took too long: %v, want an error that does not pass", err)
	}
	wantFirst(t, s, "3", true)
}

// TestOnceUnderAnotherIsolation: where a database's default is stricter, the second
// of two has to be repeated to know what became of the first.
func TestOnceUnderAnotherIsolation(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"repeatable%20read", "serializable"} {
		_, _, schema := openStore(t, nil)
		pool := openPool(t, testenv.Postgres(t).URL()+"&default_transaction_isolation="+isolation)
		s := newStore(t, pool, &pgxstore.Config{Schema: schema})
		type answer struct {
			first bool
			err   error
		}
		second := make(chan answer, 1)
		first, err := s.Once(t.Context(), "billing", "1", func(context.Context, pgx.Tx) error {
			go func() {
				first, err := s.Once(t.Context(), "billing", "1", nothing)
				second <- answer{first, err}
			}()
			waiting := func() (n int) {
				must(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
					WHERE NOT l.granted AND position($1 IN a.query) > 0`, pgx.Identifier{schema, "inbox"}.Sanitize()).Scan(&n))
				return n
			}
			for deadline := time.Now().Add(20 * time.Second); waiting() == 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Error("the second does not wait")
					break
				}
			}
			return nil
		})
		if !first || err != nil {
			t.Fatalf("%s: the first returned %t, %v", isolation, first, err)
		}
		if a := <-second; a.first || !s.Transient(a.err) {
			t.Fatalf("%s: the second returned %t, %v, want an error that passes", isolation, a.first, a.err)
		}
		wantFirst(t, s, "1", false)
	}
}

// TestTransientKnowsTheErrorsOfPgx: also of connections that a handler makes
// itself.
func TestTransientKnowsTheErrorsOfPgx(t *testing.T) {
	t.Parallel()
	s, _, _ := openStore(t, nil)
	unreachable := func(ctx context.Context, _ pgx.Tx) error {
		_, err := pgx.Connect(ctx, "postgres://postgres@127.0.0.1:1/postgres")
		return err
	}
	closed := func(ctx context.Context, _ pgx.Tx) error {
		conn, err := pgx.Connect(ctx, testenv.Postgres(t).URL())
		must(t, err)
		must(t, conn.Close(ctx))
		return conn.Ping(ctx)
	}
	for name, fail := range map[string]func(context.Context, pgx.Tx) error{"unreachable": unreachable, "closed": closed} {
		if _, err := s.Once(t.Context(), "billing", name, fail); err == nil || !s.Transient(err) {
			t.Errorf("%s: %v, want an error that passes", name, err)
		}
	}
	unknown := func(ctx context.Context, _ pgx.Tx) error {
		_, err := pgx.Connect(ctx, strings.Replace(testenv.Postgres(t).URL(), "postgres@", "nobody@", 1))
		return err
	}
	if _, err := s.Once(t.Context(), "billing", "unknown", unknown); err == nil || s.Transient(err) {
		t.Errorf("a role that is not there: %v, want an error that does not pass", err)
	}
}

// TestOnceOutlivesTheServer kills the server while a message is handled.
func TestOnceOutlivesTheServer(t *testing.T) {
	t.Parallel()
	server := testenv.StartPostgres(t, nil)
	pool := openPool(t, server.URL())
	s := newStore(t, pool, nil)
	must(t, s.Migrate(t.Context()))
	exec(t, pool, "CREATE TABLE business (id text PRIMARY KEY)")
	insert := func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO business VALUES ('a')")
		return err
	}
	handle := func(fn func(ctx context.Context, tx pgx.Tx) error) (bool, error) {
		return s.Once(t.Context(), "billing", "1", fn)
	}
	killed := func(ctx context.Context, tx pgx.Tx) error {
		err := insert(ctx, tx)
		server.Kill()
		return err
	}
	if first, err := handle(killed); first || !s.Transient(err) {
		t.Fatalf("a commit to a server that is gone: %t, %v, want an error that passes", first, err)
	}
	if first, err := handle(insert); first || !s.Transient(err) {
		t.Fatalf("without a server: %t, %v, want an error that passes", first, err)
	}
	if _, err := s.PurgeInbox(t.Context(), 0, 1); err == nil {
		t.Fatal("a purge without a server succeeded")
	}
	server.Start()
	killedWithin := func(ctx context.Context, tx pgx.Tx) error {
		if err := insert(ctx, tx); err != nil {
			return err
		}
		server.Kill()
		_, err := tx.Exec(ctx, "SELECT 1")
		return fmt.Errorf("handle: %w", err)
	}
	if first, err := handle(killedWithin); first || !s.Transient(err) {
		t.Fatalf("a server that is gone meanwhile: %t, %v, want an error that passes", first, err)
	}
	server.Start()
	// What is left of the pool may be broken once more.
	for {
		first, err := handle(insert)
		if err == nil {
			if !first {
				t.Fatal("the message counts as handled")
			}
			break
		}
		if !s.Transient(err) {
			t.Fatal(err)
		}
	}
}
