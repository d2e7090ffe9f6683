package sqlstore_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/sqlstore"
)

func listed(t testing.TB, s *sqlstore.Store, state store.State) []store.Stored {
	t.Helper()
	list, err := s.List(t.Context(), store.Query{State: state, Limit: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func numberedID(i int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012d", i) }

// TestSQLiteInsertOfBothKindsIsAllOrNothing: what is for later is in another table,
// and a fault there undoes what is for now.
func TestSQLiteInsertOfBothKindsIsAllOrNothing(t *testing.T) {
	t.Parallel()
	s := migrated(t, openFile(t, newFile(t)), nil)
	msgs := []outbox.Message{
		{ID: numberedID(1), Topic: "now"},
		{ID: "no UUID", Topic: "later", DeliverAt: time.Now().Add(time.Hour)},
	}
	err := s.InTx(t.Context(), func(tx *sql.Tx) error {
		if err := s.Insert(t.Context(), tx, msgs); err == nil {
			return errors.New("the message with a wrong id was taken")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(readAll(t, s)) + len(listed(t, s, store.Scheduled)); n != 0 {
		t.Fatalf("%d messages, want none of the call that failed", n)
	}
}

func TestSQLitePlainInsertOfScheduled(t *testing.T) {
	t.Parallel()
	db := openFile(t, newFile(t))
	s := migrated(t, db, nil)
	execute(t, db, `INSERT INTO outbox_scheduled (topic, payload, deliver_at) VALUES ('a', '{}', 1000000)`)
	for _, text := range []string{
		`INSERT INTO outbox_scheduled (topic, payload) VALUES ('a', '{}')`,
		`INSERT INTO outbox_scheduled (topic, payload, deliver_at) VALUES ('a', '{}', '2040-01-01 00:00:00')`,
		`INSERT INTO outbox_scheduled (topic, payload, deliver_at, expires_at) VALUES ('a', '{}', 1, '2040-01-01')`,
		`INSERT INTO outbox_message (topic, payload, expires_at) VALUES ('a', '{}', '2040-01-01')`,
	} {
		if _, err := db.ExecContext(t.Context(), text); err == nil {
			t.Errorf("taken: %s", text)
		}
	}
	if p, err := s.Promote(t.Context(), 10); err != nil || p.Moved != 1 {
		t.Fatalf("promoted %+v, %v, want 1", p, err)
	}
	m := readAll(t, s)[0]
	if len(m.ID) != 36 || m.ContentType != "application/json" || !m.DeliverAt.Equal(time.Unix(1, 0)) || time.Since(m.CreatedAt) > time.Hour {
		t.Fatalf("the message is %+v, want defaults", m)
	}
}

// TestSQLiteRedriveWherePositionsAreTaken: after a restore the positions of dead
// letters are given again, and then nothing is lost or overwritten.
func TestSQLiteRedriveWherePositionsAreTaken(t *testing.T) {
	t.Parallel()
	db := openFile(t, newFile(t))
	s := migrated(t, db, nil)
	const dead = `INSERT INTO outbox_dead (position, id, topic, key, tenant, type, version, content_type, headers, payload, created_at,
		route, attempts, last_error, reason, parked) VALUES (?, ?, ?, 'k', '', '', '', '', '{}', '', 1, '', 9, 'no', 'exhausted', 1)`
	for i, position := range []int{2, 3, 3, 1} {
		execute(t, db, dead, position, numberedID(i), fmt.Sprint("dead.", i))
	}
	for i := range 2 {
		execute(t, db, `INSERT INTO outbox_message (topic, id, payload) VALUES (?, ?, '')`, fmt.Sprint("new.", i), numberedID(10+i))
	}
	if n, err := s.Redrive(t.Context(), []int64{listed(t, s, store.Dead)[0].Place}); err != nil || n != 4 {
		t.Fatalf("redrove %d, %v, want all 4 of the key", n, err)
	}
	var got []string
	for _, row := range readAll(t, s) {
		got = append(got, fmt.Sprint(row.Position, row.Topic, row.Attempts))
	}
	want := "1new.00 2new.10 3dead.10 4dead.30 5dead.00 6dead.20"
	if text := strings.Join(got, " "); text != want {
		t.Fatalf("the messages are %s, want %s", text, want)
	}
	if list := listed(t, s, store.Dead); len(list) != 0 {
		t.Fatalf("%d dead letters are left", len(list))
	}
}

// TestSQLiteLooksNeedNoLock: where there is nothing to do, nobody who writes is
// disturbed.
func TestSQLiteLooksNeedNoLock(t *testing.T) {
	t.Parallel()
	file := newFile(t)
	s := migrated(t, openFile(t, file), nil)
	later := outbox.Message{ID: numberedID(1), Topic: "later", DeliverAt: time.Now().Add(time.Hour)}
	if err := s.InTx(t.Context(), func(tx *sql.Tx) error { return s.Insert(t.Context(), tx, []outbox.Message{later}) }); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", sqlstore.SQLiteDSN(file)+"&_pragma=query_only(1)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	reader := sqlstore.New(db, sqlstore.SQLite, nil)
	_, promoteErr := reader.Promote(t.Context(), 10)
	_, purgeErr := reader.PurgeSent(t.Context(), 0, 10)
	w, withdrawErr := reader.Withdraw(t.Context(), numberedID(2), "me")
	if err := errors.Join(promoteErr, purgeErr, withdrawErr); err != nil || w != store.Absent {
		t.Fatalf("%v, withdrawal %s, want no writes", err, w)
	}
}

// TestSQLitePurgeOfManyIsInParts: others can write in between, since no part is more
// than 1,000 rows.
func TestSQLitePurgeOfManyIsInParts(t *testing.T) {
	t.Parallel()
	db := openFile(t, newFile(t))
	s := migrated(t, db, nil)
	execute(t, db, `CREATE TABLE part (n INTEGER)`)
	execute(t, db, `INSERT INTO part VALUES (0)`)
	execute(t, db, `CREATE TRIGGER small BEFORE DELETE ON outbox_sent BEGIN
		UPDATE part SET n = n + 1;
		SELECT raise(ABORT, 'more than 1000 in one transaction') WHERE (SELECT n FROM part) > 1000;
	END`)
	execute(t, db, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
		INSERT INTO outbox_sent (position, id, topic, tenant, type, version, content_type, headers, payload, created_at, route, attempts, last_error, sent_at)
		SELECT i, '', 'a', '', '', '', '', '{}', '', 1, '', 0, '', i FROM n`)
	if n, err := s.PurgeSent(t.Context(), 0, 1200); n != 1000 || err == nil || !strings.Contains(err.Error(), "more than 1000") {
		t.Fatalf("purged %d, %v, want one part, and the second to run into the trigger", n, err)
	}
	execute(t, db, `DROP TRIGGER small`)
	if n, err := s.PurgeSent(t.Context(), 0, 200); n != 200 || err != nil {
		t.Fatalf("purged %d, %v, want 200", n, err)
	}
	if list := listed(t, s, store.Sent); len(list) != 300 || list[0].Position != 1201 {
		t.Fatalf("%d are left, want the 300 youngest", len(list))
	}
}

// TestSQLiteWithinTakesTheWriteLock: also in a transaction that began without it and
// only reads, so that it cannot fail later for having read first.
func TestSQLiteWithinTakesTheWriteLock(t *testing.T) {
	t.Parallel()
	file := newFile(t)
	s := migrated(t, openFile(t, file), nil)
	db, err := sql.Open("sqlite", "file:"+strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(file)+"?_pragma=busy_timeout(1)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	deferred := sqlstore.New(db, sqlstore.SQLite, nil)
	one := store.ReadRequest{Shards: 1, Limit: 1, MaxBytes: 1}
	for name, begin := range map[string]func(v *sqlstore.TxStore) error{
		"read":   func(v *sqlstore.TxStore) error { _, err := v.Read(t.Context(), one); return err },
		"parked": func(v *sqlstore.TxStore) error { _, err := v.Parked(t.Context(), 1); return err },
		"settle": func(v *sqlstore.TxStore) error { return v.Settle(t.Context(), nil, false) },
	} {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := begin(deferred.Within(tx)); err != nil {
			t.Fatal(err)
		}
		if _, err := db.ExecContext(t.Context(), `INSERT INTO outbox_message (topic, payload) VALUES ('a', '')`); !s.Transient(err) {
			t.Errorf("another wrote after %s: %v, want that it is locked out", name, err)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSQLiteOldestIsAsLateAsItIs: a message that was scheduled long ago is not late
// for that.
func TestSQLiteOldestIsAsLateAsItIs(t *testing.T) {
	t.Parallel()
	db := openFile(t, newFile(t))
	s := migrated(t, db, nil)
	const insert = `INSERT INTO outbox_message (topic, payload, created_at, deliver_at, route) VALUES ('a', '', ?, ?, ?)`
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).UnixMicro() }
	execute(t, db, insert, ago(time.Hour), ago(time.Minute), "")
	execute(t, db, insert, ago(time.Second), nil, "")
	execute(t, db, insert, ago(2*time.Minute), nil, "x")
	stats, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	about := func(d, want time.Duration) bool { return d >= want-time.Second && d < want+30*time.Second }
	if len(stats.Routes) != 2 || !about(stats.Oldest, 2*time.Minute) || !about(stats.Routes[0].Oldest, time.Minute) ||
		!about(stats.Routes[1].Oldest, 2*time.Minute) {
		t.Fatalf("the oldest are %v, by routes %+v, want 2m, 1m and 2m", stats.Oldest, stats.Routes)
	}
}

// TestSQLiteRowsOfBothWidthsKeepTheirOrder: a call of messages with and without
// routes and ends keeps their order.
func TestSQLiteRowsOfBothWidthsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	s := migrated(t, openFile(t, newFile(t)), nil)
	msgs := make([]outbox.Message, 250)
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	for i := range msgs {
		msgs[i] = outbox.Message{ID: numberedID(i), Topic: "a", CreatedAt: end.Add(-time.Hour)}
	}
	msgs[120].Route, msgs[130].ExpiresAt = "x", end
	if err := s.InTx(t.Context(), func(tx *sql.Tx) error { return s.Insert(t.Context(), tx, msgs) }); err != nil {
		t.Fatal(err)
	}
	for i, m := range listed(t, s, store.Pending) {
		want := msgs[i]
		if m.ID != want.ID || m.Route != want.Route || !m.ExpiresAt.Equal(want.ExpiresAt) {
			t.Fatalf("message %d is %s of the route %q until %v, want %s, %q, %v", i, m.ID, m.Route, m.ExpiresAt, want.ID, want.Route, want.ExpiresAt)
		}
	}
}
