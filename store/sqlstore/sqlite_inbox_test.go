package sqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/sqlstore"
	"github.com/outbox-go/outbox/worker"
)

var _ worker.Inbox[*sql.Tx] = (*sqlstore.Store)(nil)

func onceNothing(t *testing.T, s *sqlstore.Store, id string) (bool, error) {
	t.Helper()
	return s.Once(t.Context(), "billing", id, func(context.Context, *sql.Tx) error { return nil })
}

// TestSQLiteOutboxWithoutInboxGoesOn: a relay does without, and who needs it hears
// what is missing.
func TestSQLiteOutboxWithoutInboxGoesOn(t *testing.T) {
	t.Parallel()
	db := openFile(t, newFile(t))
	s := migrated(t, db, nil)
	execute(t, db, `DROP TABLE outbox_inbox`)
	if err := errors.Join(emitOne(t.Context(), s, "kept"), s.Check(t.Context())); err != nil {
		t.Fatal(err)
	}
	var missing *store.MissingError
	if err := s.CheckInbox(t.Context()); !errors.As(err, &missing) || len(missing.Missing) != 1 {
		t.Fatalf("check of the inbox returned %v, want a MissingError of one line", err)
	}
	if _, err := onceNothing(t, s, "1"); !errors.As(err, &missing) || s.Transient(err) {
		t.Fatalf("once returned %v, want a MissingError that does not pass", err)
	}
}

// TestSQLitePassingFaults: what SQLite says when it is out of something passes,
// what is wrong with a statement does not.
func TestSQLitePassingFaults(t *testing.T) {
	t.Parallel()
	db := openFile(t, newFile(t))
	s := migrated(t, db, nil)
	full := func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `PRAGMA max_page_count = 1`); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `CREATE TABLE blobs AS SELECT zeroblob(10000000)`)
		return err
	}
	if first, err := s.Once(t.Context(), "billing", "1", full); first || !s.Transient(err) {
		t.Errorf("a database that is full: %t, %v, want an error that passes", first, err)
	}
	wrong := func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `SELECT nonsense`)
		return err
	}
	if first, err := s.Once(t.Context(), "billing", "1", wrong); first || err == nil || s.Transient(err) {
		t.Errorf("a statement that is wrong: %t, %v, want an error that does not pass", first, err)
	}
	gone, err := sql.Open("sqlite", sqlstore.SQLiteDSN(filepath.Join(t.TempDir(), "no", "folder.db")))
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	if _, err := onceNothing(t, sqlstore.New(gone, sqlstore.SQLite, nil), "1"); !s.Transient(err) {
		t.Errorf("a file that cannot be opened: %v, want an error that passes", err)
	}
}

// TestSQLiteTransientGoesByTheDriver: words that a handler has from elsewhere, such as
// a peer that says of its own database that it is locked, do not pass.
func TestSQLiteTransientGoesByTheDriver(t *testing.T) {
	t.Parallel()
	s := migrated(t, openFile(t, newFile(t)), nil)
	for _, words := range []string{"answered 500: database is locked", "open mail.txt: unable to open database file", "exit status 1: out of memory"} {
		foreign := errors.New(words)
		for _, fault := range []error{foreign, fmt.Errorf("handle: %w", foreign), errors.Join(errors.New("other"), foreign)} {
			_, err := s.Once(t.Context(), "billing", "1", func(context.Context, *sql.Tx) error { return fault })
			if !errors.Is(err, foreign) || s.Transient(err) {
				t.Errorf("%v counts as one of the database that passes", err)
			}
		}
	}
}

// TestSQLiteBusyInsideAHandlerPasses: the driver's error counts wherever it was met.
func TestSQLiteBusyInsideAHandlerPasses(t *testing.T) {
	t.Parallel()
	file := newFile(t)
	db := openFile(t, file)
	s := migrated(t, db, nil)
	other, err := sql.Open("sqlite", strings.Replace(sqlstore.SQLiteDSN(file), "busy_timeout(10000)", "busy_timeout(1)", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	_, err = s.Once(t.Context(), "billing", "1", func(ctx context.Context, _ *sql.Tx) error {
		_, err := other.ExecContext(ctx, `DELETE FROM outbox_message`)
		return errors.Join(errors.New("first"), fmt.Errorf("handle: %w", err))
	})
	if !s.Transient(err) {
		t.Errorf("%v does not pass", err)
	}
}

// TestSQLiteReadOnlyInboxIsReported: no handler can do its work there.
func TestSQLiteReadOnlyInboxIsReported(t *testing.T) {
	t.Parallel()
	file := newFile(t)
	migrated(t, openFile(t, file), nil)
	db, err := sql.Open("sqlite", sqlstore.SQLiteDSN(file)+"&_pragma=query_only(1)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := sqlstore.New(db, sqlstore.SQLite, nil)
	var missing *store.MissingError
	if err := s.CheckInbox(t.Context()); !errors.As(err, &missing) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("check returned %v, want a MissingError that tells of the right to write", err)
	}
	if _, err := onceNothing(t, s, "1"); err == nil || s.Transient(err) {
		t.Errorf("once returned %v, want an error that does not pass", err)
	}
	if n, err := s.PurgeInbox(t.Context(), time.Hour, 1); n != 0 || err != nil {
		t.Errorf("a purge that finds nothing returned %d, %v", n, err)
	}
}
