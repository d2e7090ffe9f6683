package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/outbox-go/outbox"
)

func newMessages(n int) []outbox.Message {
	msgs := make([]outbox.Message, n)
	for i := range msgs {
		msgs[i] = outbox.Message{ID: "0190b5c6-0000-7000-8000-000000000001", Topic: "a", Payload: []byte("{}")}
	}
	return msgs
}

// insertIn inserts n messages in a transaction of db.
func insertIn(t *testing.T, s *Store, db *sql.DB, n int) {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if err := s.Insert(t.Context(), tx, newMessages(n)); err != nil {
		t.Fatalf("%d messages: %v", n, err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

// wantRows also tells whether the statements for these numbers of rows, and no
// others, are prepared.
func wantRows(t *testing.T, s *Store, rows int, prepared ...int) {
	t.Helper()
	var got int
	if err := s.db.QueryRowContext(t.Context(), s.names.sql(`SELECT count(*) FROM {message}`)).Scan(&got); err != nil {
		t.Fatal(err)
	}
	if got != rows {
		t.Errorf("%d rows, want %d", got, rows)
	}
	want := map[int]bool{}
	for _, n := range prepared {
		want[n] = true
	}
	for n := 1; n <= chunkRows; n++ {
		if is := s.text.insert.of(n).stmt.Load() != nil; is != want[n] {
			t.Errorf("the statement for %d rows is prepared: %t, want %t", n, is, want[n])
		}
	}
}

func TestInsertIsPrepared(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	wantRows(t, s, 0, 1) // by Migrate
	for _, n := range []int{1, 4, chunkRows + 5, chunkRows + 5} {
		insertIn(t, s, s.db, n)
	}
	wantRows(t, s, 5+2*chunkRows+10, 1, 4, 5, chunkRows)
}

// TestInsertWithoutASecondConnection: the transaction has the only one.
func TestInsertWithoutASecondConnection(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.db.SetMaxOpenConns(1)
	insertIn(t, s, s.db, 3)
	wantRows(t, s, 3, 1)
}

// TestInsertInTransactionOfAnotherPool: on the same file, but prepared statements
// are a pool's own.
func TestInsertInTransactionOfAnotherPool(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var path string
	if err := s.db.QueryRowContext(t.Context(), `SELECT file FROM pragma_database_list`).Scan(&path); err != nil {
		t.Fatal(err)
	}
	other, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	insertIn(t, s, other, 1)
	insertIn(t, s, s.db, 1)
	wantRows(t, s, 2, 1)
}

// TestInsertAfterACancelledOne: a statement that could not be bound to the
// transaction is not kept.
func TestInsertAfterACancelledOne(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	tx, err := s.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Insert(cancelled, tx, newMessages(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for range 3 {
		if err := s.Insert(t.Context(), tx, newMessages(1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	wantRows(t, s, 3, 1)
}

// TestInsertAfterTheEnd: whether it was the last of a transaction's or not, a caller
// recognizes that it comes too late.
func TestInsertAfterTheEnd(t *testing.T) {
	t.Parallel()
	for _, before := range []int{0, 1} {
		s := newStore(t)
		tx, err := s.db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for range before {
			if err := s.Insert(t.Context(), tx, newMessages(1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := s.Insert(t.Context(), tx, newMessages(1)); !errors.Is(err, sql.ErrTxDone) {
			t.Errorf("after %d in the transaction: %v, want sql.ErrTxDone", before, err)
		}
		wantRows(t, s, before, 1)
	}
}
