package sqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/sqlstore"
)

func readAll(t testing.TB, s *sqlstore.Store) []store.Row {
	t.Helper()
	pages, err := s.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(1), Limit: 100_000, MaxBytes: 1 << 30})
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return pages[0].Rows
}

func emitOne(ctx context.Context, s *sqlstore.Store, topic string) error {
	ob := outbox.New(s)
	return ob.InTx(ctx, func(tx *sql.Tx) error { return ob.Emit(ctx, tx, outbox.Event{Topic: topic}) })
}

func TestSQLitePlainInsertHasDefaults(t *testing.T) {
	t.Parallel()
	db := openFile(t, newFile(t))
	s := migrated(t, db, nil)
	before := time.Now().Add(-time.Millisecond)
	execute(t, db, `INSERT INTO outbox_message (topic, payload) VALUES ('user.created', '{"id": 123}')`)
	execute(t, db, `INSERT INTO outbox_message (topic, key, payload, headers) VALUES ('a', '', x'00ff', '{"n": 1.50, "s": "ü", "o": {"x": [null]}}')`)
	rows := readAll(t, s)
	if len(rows) != 2 {
		t.Fatalf("%d rows, want 2", len(rows))
	}
	m := rows[0]
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(m.ID) || m.ID == rows[1].ID {
		t.Errorf("the ids are %q and %q, want two UUIDs of version 4", m.ID, rows[1].ID)
	}
	if string(m.Payload) != `{"id": 123}` || m.ContentType != "application/json" || m.Key != "" || m.Tenant != "" || len(m.Headers) != 0 {
		t.Errorf("the message is %+v, want defaults", m)
	}
	if m.CreatedAt.Before(before) || m.CreatedAt.After(time.Now().Add(time.Millisecond)) {
		t.Errorf("created at %v, want now", m.CreatedAt)
	}
	h := rows[1].Headers
	if h["n"] != "1.50" || h["s"] != "ü" || h["o"] != `{"x":[null]}` && h["o"] != `{"x": [null]}` {
		t.Errorf("headers %q, want those that are no strings as JSON", h)
	}
}

func TestSQLiteMalformedInsertIsRefused(t *testing.T) {
	t.Parallel()
	db := openFile(t, newFile(t))
	s := migrated(t, db, nil)
	for _, text := range []string{
		`INSERT INTO outbox_message (topic) VALUES ('a')`,
		`INSERT INTO outbox_message (payload) VALUES ('a')`,
		`INSERT INTO outbox_message (topic, payload) VALUES ('', 'a')`,
		`INSERT INTO outbox_message (topic, payload, id) VALUES ('a', 'a', '1')`,
		`INSERT INTO outbox_message (topic, payload, headers) VALUES ('a', 'a', 'x')`,
		`INSERT INTO outbox_message (topic, payload, headers) VALUES ('a', 'a', '[]')`,
		`INSERT INTO outbox_message (topic, payload, headers) VALUES ('a', 'a', NULL)`,
	} {
		if _, err := db.ExecContext(t.Context(), text); err == nil {
			t.Errorf("taken: %s", text)
		}
	}
	if n := len(readAll(t, s)); n != 0 {
		t.Fatalf("%d rows, want none", n)
	}
}

func TestSQLiteInsertOfManyIsAllOrNothing(t *testing.T) {
	t.Parallel()
	db := openFile(t, newFile(t))
	s := migrated(t, db, nil)
	msgs := make([]outbox.Message, 1000)
	for i := range msgs {
		msgs[i] = outbox.Message{ID: fmt.Sprintf("00000000-0000-0000-0000-%012d", i), Topic: "a"}
	}
	msgs[777].ID = "no UUID"
	err := s.InTx(t.Context(), func(tx *sql.Tx) error {
		if err := s.Insert(t.Context(), tx, msgs); err == nil {
			return errors.New("the message with a wrong id was taken")
		}
		return s.Insert(t.Context(), tx, msgs[:150])
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(readAll(t, s)); n != 150 {
		t.Fatalf("%d rows, want the 150 of the call that succeeded", n)
	}
}

func TestSQLiteMigrationByManyProcesses(t *testing.T) {
	t.Parallel()
	file := newFile(t)
	errs := make([]error, 6)
	var group sync.WaitGroup
	for i := range errs {
		s := sqlstore.New(openFile(t, file), sqlstore.SQLite, nil)
		group.Go(func() { errs[i] = errors.Join(s.Migrate(t.Context()), s.Check(t.Context())) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestSQLiteMigrationSQLIsTheWhole(t *testing.T) {
	t.Parallel()
	config := &sqlstore.Config{TablePrefix: "my "}
	text, err := sqlstore.MigrationSQL(sqlstore.SQLite, config)
	if err != nil {
		t.Fatal(err)
	}
	db := openFile(t, newFile(t))
	execute(t, db, text)
	s := sqlstore.New(db, sqlstore.SQLite, config)
	if err := errors.Join(s.Check(t.Context()), s.Migrate(t.Context()), emitOne(t.Context(), s, "a")); err != nil {
		t.Fatal(err)
	}
}

func TestSQLiteReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	file := newFile(t)
	migrated(t, openFile(t, file), nil)
	db, err := sql.Open("sqlite", sqlstore.SQLiteDSN(file)+"&mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := sqlstore.New(db, sqlstore.SQLite, nil)
	if err := s.Migrate(t.Context()); err != nil {
		t.Errorf("migrate where all is there: %v", err)
	}
	var missing *store.MissingError
	if err := s.Check(t.Context()); !errors.As(err, &missing) || len(missing.Missing) != 1 || !strings.Contains(missing.Missing[0], "read-only") {
		t.Errorf("check returned %v, want that the database is read-only and nothing else", err)
	}
}

func TestSQLiteCheckListsAllFaults(t *testing.T) {
	t.Parallel()
	db, err := sql.Open("sqlite", "file:"+t.TempDir()+"/a.db")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := migrated(t, db, nil)
	execute(t, db, `DROP TABLE outbox_relay`)
	execute(t, db, `DROP INDEX outbox_message_retry`)
	execute(t, db, `ALTER TABLE outbox_message DROP COLUMN retry_at`)
	execute(t, db, `ALTER TABLE outbox_lease DROP COLUMN token`)
	var missing *store.MissingError
	if err := s.Check(t.Context()); !errors.As(err, &missing) {
		t.Fatalf("check returned %v, want a MissingError", err)
	}
	for i, want := range []string{"journal mode wal: it is delete", "column retry_at of table outbox_message", "column token of table outbox_lease", "table outbox_relay"} {
		if i >= len(missing.Missing) || !strings.Contains(missing.Missing[i], want) {
			t.Fatalf("missing are %q, want %q at place %d", missing.Missing, want, i)
		}
	}
}

func TestSQLiteCheckTellsOfOtherVersions(t *testing.T) {
	t.Parallel()
	db := openFile(t, newFile(t))
	s := migrated(t, db, nil)
	execute(t, db, `INSERT INTO outbox_migration (version, name) VALUES (9999, 'future')`)
	var missing *store.MissingError
	if err := s.Check(t.Context()); err == nil || errors.As(err, &missing) || !strings.Contains(err.Error(), "newer than this program") {
		t.Errorf("check of a newer schema returned %v", err)
	}
	execute(t, db, `DELETE FROM outbox_migration WHERE version > 2`)
	if err := s.Check(t.Context()); !errors.As(err, &missing) {
		t.Errorf("check of an older schema returned %v, want a MissingError", err)
	}
}

func TestSQLiteCursorAheadOfTheDatabaseIsVoid(t *testing.T) {
	t.Parallel()
	db := openFile(t, newFile(t))
	s := migrated(t, db, nil)
	if err := emitOne(t.Context(), s, "a"); err != nil {
		t.Fatal(err)
	}
	r := store.ReadRequest{Shards: store.FirstShards(1), Limit: 10, MaxBytes: 1000}
	pages, err := s.Read(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	r.Cursor = pages[0].Cursor
	restored := migrated(t, openFile(t, newFile(t)), nil)
	if _, err := restored.Read(t.Context(), r); !errors.Is(err, store.ErrCursorVoid) {
		t.Fatalf("read returned %v, want ErrCursorVoid", err)
	}
}

// TestSQLiteReadThenWriteNeverFailsForBusy is what _txlock=immediate is for, on a
// DSN that lacks it and even a time-out: InTx must not depend on either.
func TestSQLiteReadThenWriteNeverFailsForBusy(t *testing.T) {
	t.Parallel()
	dsn := "file:" + t.TempDir() + "/a.db?_pragma=journal_mode(WAL)&_pragma=busy_timeout(0)"
	const processes, each = 4, 25
	errs := make([]error, processes)
	var group sync.WaitGroup
	var first *sqlstore.Store
	for i := range processes {
		db, err := sql.Open("sqlite", dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		s := migrated(t, db, nil)
		if i == 0 {
			first = s
			execute(t, db, `CREATE TABLE counter (n INTEGER)`)
			execute(t, db, `INSERT INTO counter VALUES (0)`)
		}
		group.Go(func() {
			for range each {
				errs[i] = errors.Join(errs[i], s.InTx(t.Context(), func(tx *sql.Tx) error { return count(t.Context(), s, tx) }))
			}
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	rows := readAll(t, first)
	if len(rows) != processes*each {
		t.Fatalf("%d rows, want %d", len(rows), processes*each)
	}
	for i, row := range rows {
		if row.Topic != fmt.Sprintf("count.%d", i+1) {
			t.Fatalf("row %d has the topic %s", i, row.Topic)
		}
	}
}

func count(ctx context.Context, s *sqlstore.Store, tx *sql.Tx) error {
	var n int
	if err := tx.QueryRowContext(ctx, `SELECT n FROM counter`).Scan(&n); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE counter SET n = ?`, n+1); err != nil {
		return err
	}
	return outbox.New(s).Emit(ctx, tx, outbox.Event{Topic: fmt.Sprintf("count.%d", n+1)})
}

// TestSQLitePoolOfOne: many set SetMaxOpenConns(1) on SQLite, and a listener must
// not keep the only connection.
func TestSQLitePoolOfOne(t *testing.T) {
	t.Parallel()
	db := openFile(t, newFile(t))
	db.SetMaxOpenConns(1)
	s := migrated(t, db, nil)
	ctx, cancel := context.WithCancel(t.Context())
	woken, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		ended <- s.Listen(ctx, func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		})
	}()
	<-woken // it is looking now
	if err := emitOne(t.Context(), s, "a"); err != nil {
		t.Fatal(err)
	}
	<-woken
	if topic := readAll(t, s)[0].Topic; topic != "a" {
		t.Fatalf("the topic is %q", topic)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// TestSQLitePlainCommitIsHeard: whoever commits without telling anybody, in this
// process or another one, is noticed.
func TestSQLitePlainCommitIsHeard(t *testing.T) {
	t.Parallel()
	file := newFile(t)
	s := migrated(t, openFile(t, file), nil)
	other := openFile(t, file)
	woken := make(chan struct{}, 1)
	go func() { _ = s.Listen(t.Context(), func() { woken <- struct{}{} }) }()
	<-woken
	for range 3 {
		execute(t, other, `INSERT INTO outbox_message (topic, payload) VALUES ('a', '')`)
		<-woken
	}
}

func TestSQLiteOutboxesWithDifferentPrefixesAreApart(t *testing.T) {
	t.Parallel()
	db := openFile(t, newFile(t))
	a := migrated(t, db, &sqlstore.Config{TablePrefix: "a_"})
	b := migrated(t, db, &sqlstore.Config{TablePrefix: "b_"})
	if err := errors.Join(emitOne(t.Context(), a, "for.a"), emitOne(t.Context(), b, "for.b")); err != nil {
		t.Fatal(err)
	}
	got := []string{readAll(t, a)[0].Topic, readAll(t, b)[0].Topic}
	if !slices.Equal(got, []string{"for.a", "for.b"}) {
		t.Fatalf("topics %v", got)
	}
}

func TestConfigFaultsAreReported(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dialect sqlstore.Dialect
		prefix  string
		want    string
	}{
		{sqlstore.SQLite, strings.Repeat("x", 33), "at most 32 bytes"},
		{sqlstore.SQLite, "SQLite_x", "keeps names"},
		{sqlstore.SQLite, "a\x00", "no NUL"},
		{0, "", "unknown"},
	} {
		config := &sqlstore.Config{TablePrefix: c.prefix}
		if _, err := sqlstore.Open(nil, c.dialect, config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v with the prefix %q: %v, want %q", c.dialect, c.prefix, err, c.want)
		}
		if _, err := sqlstore.MigrationSQL(c.dialect, config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("SQL of %v with the prefix %q: %v, want %q", c.dialect, c.prefix, err, c.want)
		}
	}
}
