package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
)

// fillInbox notes messages: old rows of 40 days ago, and five new ones.
func fillInbox(t *testing.T, path string, old int) {
	t.Helper()
	sqliteExec(t, path, fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO outbox_inbox (consumer, message_id, received_at) SELECT 'billing', i, (unixepoch() - 40 * 86400) * 1000000 FROM n`, old))
	sqliteExec(t, path, `INSERT INTO outbox_inbox (consumer, message_id) VALUES ('billing', 'a'), ('billing', 'b'), ('x', 'a'), ('x', 'b'), ('x', 'c')`)
}

func inboxRows(t *testing.T, path string) (n int) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM outbox_inbox`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPurgeDeletesOldRowsOfTheInboxOnly(t *testing.T) {
	t.Parallel()
	path := sqliteFile(t)
	fillInbox(t, path, 25)
	purge := func(args ...string) answer {
		return call(t, map[string]string{"OUTBOX_DATABASE_URL": "sqlite:" + path}, "", append([]string{"purge"}, args...)...)
	}
	call(t, nil, "", "emit", "--database-url", "sqlite:"+path, "--topic", "a", "--data", "1").want(t, 0)
	sqliteExec(t, path, `UPDATE outbox_message SET created_at = 0`)
	wantRows := func(got answer, stdout string, left int) {
		t.Helper()
		got.want(t, 0)
		if got.stdout != stdout || got.stderr != "" {
			t.Errorf("printed %q and %q, want %q", got.stdout, got.stderr, stdout)
		}
		if n := inboxRows(t, path); n != left {
			t.Errorf("%d rows are left, want %d", n, left)
		}
	}
	wantRows(purge("--older-than", "30d", "--dry-run"), "inbox: 25 rows older than 30d would be deleted\nsent: 0 messages older than 30d would be deleted\n", 30)
	wantRows(purge("--older-than", "30d", "--dry-run", "--json"), `{"inbox":25,"sent":0,"dry_run":true}`+"\n", 30)
	wantRows(purge("--older-than", "50d12h", "--inbox"), "inbox: 0 rows older than 50d12h deleted\n", 30)
	wantRows(purge("--older-than", "30d", "--chunk", "10", "--inbox"), "inbox: 25 rows older than 30d deleted\n", 5)
	wantRows(purge("--older-than", "1h", "--json"), `{"inbox":0,"sent":0,"dry_run":false}`+"\n", 5)
	if n := sqliteCount(t, path); n != 1 {
		t.Errorf("%d messages are left, want the one that is yet to be sent", n)
	}
}

func TestPurgeOnPostgres(t *testing.T) {
	t.Parallel()
	pg := testenv.Postgres(t)
	url := pg.NewDatabase(t)
	env := map[string]string{"OUTBOX_DATABASE_URL": url, "OUTBOX_DATABASE_SCHEMA": `Mess"aging`, "OUTBOX_DATABASE_TABLE_PREFIX": "ob_"}
	for _, args := range [][]string{{}, {"--dry-run"}} {
		call(t, env, "", append([]string{"purge", "--older-than", "30d"}, args...)...).
			want(t, exitFailure, `table Mess"aging.ob_inbox is missing`, "run `outbox migrate`")
	}
	call(t, env, "", "migrate").want(t, 0)
	pg.Exec(url, `INSERT INTO "Mess""aging".ob_inbox (consumer, message_id, received_at)
		SELECT 'billing', n::text, now() - n * interval '1 day' FROM generate_series(1, 60) n`)
	call(t, env, "", "purge", "--older-than", "30d1h", "--dry-run").want(t, 0, "inbox: 30 rows older than 30d1h would be deleted")
	call(t, env, "", "purge", "--older-than", "30d1h", "--chunk", "7").want(t, 0, "inbox: 30 rows older than 30d1h deleted")
	if left := pg.Exec(url, `SELECT count(*) FROM "Mess""aging".ob_inbox`)[0][0]; left != "30" {
		t.Errorf("%s rows are left, want 30", left)
	}
}

func TestPurgeReportsWhatIsWrongWithItsFlags(t *testing.T) {
	t.Parallel()
	path := sqliteFile(t)
	fillInbox(t, path, 1)
	for _, tc := range []struct{ args, want string }{
		{"", "--older-than: is not set"},
		{"--older-than 0d", `--older-than "0d": must be longer than nothing`},
		{"--older-than 30", `--older-than "30": is not an age, such as 30d, 36h or 1d12h`},
		{"--older-than 30d --chunk 0", `--chunk "0": must be 1 to 100000`},
		{"--older-than x --chunk 100001", "2 problems"},
		{"now --older-than 30d", "takes no arguments"},
	} {
		args := append([]string{"purge", "--database-url", "sqlite:" + path}, strings.Fields(tc.args)...)
		call(t, nil, "", args...).want(t, exitUsage, tc.want)
	}
	call(t, nil, "", "purge", "--older-than", "1d").want(t, exitUsage, "database.url: is not set")
	if n := inboxRows(t, path); n != 6 {
		t.Errorf("%d rows are left, want all", n)
	}
}

// TestPurgeStopsBetweenChunks: what was deleted until a signal came is told.
func TestPurgeStopsBetweenChunks(t *testing.T) {
	t.Parallel()
	path := sqliteFile(t)
	const old = 2000
	fillInbox(t, path, old)
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan answer)
	go func() {
		ended <- callContext(ctx, nil, "", "purge", "--database-url", "sqlite:"+path, "--older-than", "30d", "--chunk", "1", "--json")
	}()
	await(t, "the first chunks", func() bool { return inboxRows(t, path) < old })
	cancel(stopped{testSignal{}})
	got := <-ended
	got.want(t, exitFailure, "stopped by signal: test")
	var result purged
	if err := json.NewDecoder(bytes.NewReader([]byte(got.stdout))).Decode(&result); err != nil {
		t.Fatalf("printed %q: %v", got.stdout, err)
	}
	if left := inboxRows(t, path); result.Inbox == nil || *result.Inbox < 1 || *result.Inbox+left != old+5 {
		t.Errorf("says %s, %d rows are left", got.stdout, left)
	}
	begun := time.Now()
	callContext(ctx, nil, "", "purge", "--database-url", "sqlite:"+path, "--older-than", "30d", "--dry-run").want(t, exitFailure, "stopped by signal")
	if time.Since(begun) > patience/2 {
		t.Error("a purge that was stopped before it began took long")
	}
}

type testSignal struct{}

func (testSignal) String() string { return "test" }
func (testSignal) Signal()        {}

// signalledStore is told to stop in the middle of its second chunk.
type signalledStore struct {
	stop   func()
	chunks int
}

func (s *signalledStore) PurgeInbox(ctx context.Context, _ time.Duration, limit int) (int, error) {
	if s.chunks++; s.chunks == 2 {
		s.stop()
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	return limit, nil
}

func TestPurgeFinishesItsChunk(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	s := &signalledStore{stop: cancel}
	rows, err := purgeAll(ctx, s.PurgeInbox, time.Hour, 10)
	if rows != 20 || s.chunks != 2 || !errors.Is(err, context.Canceled) {
		t.Errorf("%d rows of %d chunks, %v, want 20 of 2, and why it stopped", rows, s.chunks, err)
	}
}
