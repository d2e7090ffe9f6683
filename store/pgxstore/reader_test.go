package pgxstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	osexec "os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/internal/postgres"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// follower reads on from where it stands and counts what it gets.
type follower struct {
	t      *testing.T
	store  *pgxstore.Store
	cursor store.Cursor
	limit  int
	counts map[string]int // by topic
	order  []string
}

func follow(t *testing.T, s *pgxstore.Store) *follower {
	f := &follower{t: t, store: s, limit: 100, counts: map[string]int{}}
	f.read()
	return f
}

// read reads until there is nothing more.
func (f *follower) read() {
	f.t.Helper()
	for n, more := 0, true; more; n++ {
		if n == 10_000 {
			f.t.Fatal("the reader never comes to an end")
		}
		pages, err := f.store.Read(f.t.Context(), f.request())
		must(f.t, err)
		for _, row := range pages[0].Rows {
			f.counts[row.Topic]++
			f.order = append(f.order, row.Topic)
		}
		f.cursor, more = pages[0].Cursor, pages[0].More
	}
}

func (f *follower) request() store.ReadRequest {
	return store.ReadRequest{Cursor: f.cursor, Shards: store.FirstShards(64), Limit: f.limit}
}

// want checks that each topic was read once, and nothing else was.
func (f *follower) want(topics ...string) {
	f.t.Helper()
	for _, topic := range topics {
		if f.counts[topic] != 1 {
			f.t.Fatalf("%s was read %d times, want once", topic, f.counts[topic])
		}
	}
	if len(f.counts) != len(topics) {
		f.t.Fatalf("%d topics were read, want %d", len(f.counts), len(topics))
	}
}

func numbered(prefix string, n int) []string {
	topics := make([]string, n)
	for i := range topics {
		topics[i] = fmt.Sprint(prefix, i)
	}
	return topics
}

func emitIn(t *testing.T, s *pgxstore.Store, tx pgx.Tx, topics ...string) {
	t.Helper()
	events := make([]outbox.Event, len(topics))
	for i, topic := range topics {
		events[i] = outbox.Event{Topic: topic}
	}
	must(t, outbox.New(s).Emit(context.Background(), tx, events...))
}

func emit(t *testing.T, s *pgxstore.Store, topics ...string) {
	t.Helper()
	must(t, s.InTx(t.Context(), func(tx pgx.Tx) error { emitIn(t, s, tx, topics...); return nil }))
}

func TestReaderFindsALateCommit(t *testing.T) {
	t.Parallel()
	s, pool, _ := openStore(t, nil)
	f := follow(t, s)
	late := begin(t, pool)
	emitIn(t, s, late, "late.first", "late.second")
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for _, topic := range numbered(fmt.Sprint("w", w, "."), 400) {
				emit(t, s, topic)
			}
		})
	}
	read := make(chan struct{})
	go func() { defer close(read); writers.Wait() }()
	for reading := true; reading; {
		f.read()
		select {
		case <-read:
			reading = false
		default:
		}
	}
	f.read()
	if f.counts["late.first"] != 0 {
		t.Fatal("read what was not committed")
	}
	must(t, late.Commit(t.Context()))
	f.read()
	want := []string{"late.first", "late.second"}
	for w := range 8 {
		want = append(want, numbered(fmt.Sprint("w", w, "."), 400)...)
	}
	f.want(want...)
	if got := f.order[len(f.order)-2:]; got[0] != "late.first" || got[1] != "late.second" {
		t.Fatalf("the late ones came as %v", got)
	}
}

func TestReaderSeesWhatASavepointLeft(t *testing.T) {
	t.Parallel()
	s, pool, _ := openStore(t, nil)
	f := follow(t, s)
	tx := begin(t, pool)
	emitIn(t, s, tx, "before")
	inner, err := tx.Begin(t.Context())
	must(t, err)
	emitIn(t, s, inner, "undone")
	must(t, inner.Rollback(t.Context()))
	kept, err := tx.Begin(t.Context())
	must(t, err)
	emitIn(t, s, kept, "kept")
	must(t, kept.Commit(t.Context()))
	emitIn(t, s, tx, "after")
	f.read()
	f.want()
	must(t, tx.Commit(t.Context()))
	f.read()
	f.want("before", "kept", "after")
}

func TestReaderWaitsForAPreparedTransaction(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	f := follow(t, s)
	name := postgres.Literal(schema)
	conn, err := pool.Acquire(t.Context())
	must(t, err)
	defer conn.Release()
	run := func(sql string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), sql)
		must(t, err)
	}
	// A transaction that has notified cannot be prepared.
	run("BEGIN; SET LOCAL outbox.wake = 'off'")
	run(`INSERT INTO ` + pgx.Identifier{schema, "message"}.Sanitize() + ` (topic, payload) VALUES ('prepared', '1')`)
	run("PREPARE TRANSACTION " + name)
	emit(t, s, numbered("other", 300)...)
	f.read()
	f.want(numbered("other", 300)...)
	run("COMMIT PREPARED " + name)
	f.read()
	f.want(append(numbered("other", 300), "prepared")...)
}

func TestReaderAndSettleBearPositionsThatAreGivenAgain(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	f := follow(t, s)
	emit(t, s, numbered("old", 50)...)
	f.read()
	pages, err := s.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: 100})
	must(t, err)
	old := make([]store.Ref, 0, 50)
	for _, row := range pages[0].Rows {
		old = append(old, store.Ref{Position: row.Position, ID: row.ID})
	}
	must(t, s.Settle(t.Context(), append([]store.Ref(nil), old...), false))
	exec(t, pool, "ALTER TABLE "+pgx.Identifier{schema, "message"}.Sanitize()+" ALTER COLUMN position RESTART WITH 1")
	emit(t, s, numbered("new", 50)...)
	// A relay that settles late names the same positions with other ids.
	must(t, s.Settle(t.Context(), old, false))
	f.read()
	f.want(append(numbered("old", 50), numbered("new", 50)...)...)
	if left := follow(t, s); len(left.counts) != 50 {
		t.Fatalf("%d messages are left, want the 50 new ones", len(left.counts))
	}
}

// TestReaderReadsRowsOfADump restores rows with transaction ids of another server:
// some that this one has long given out, some that it will give out later.
func TestReaderReadsRowsOfADump(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	table := pgx.Identifier{schema, "message"}.Sanitize()
	emit(t, s, numbered("dumped", 30)...)
	exec(t, pool, `UPDATE `+table+` SET txid = CASE position % 3
		WHEN 0 THEN '5'::xid8 WHEN 1 THEN '9000000000'::xid8
		ELSE (pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 20)::text::xid8 END`)
	dump := pgDump(t, pool, schema)
	exec(t, pool, "TRUNCATE "+table)
	restored := openPool(t, testenv.Postgres(t).NewDatabase(t))
	copied := newStore(t, restored, &pgxstore.Config{Schema: schema})
	must(t, copied.Migrate(t.Context()))
	_, err := restored.Exec(t.Context(), dump, pgx.QueryExecModeSimpleProtocol)
	must(t, err)
	exec(t, restored, "SET search_path TO DEFAULT")

	f := &follower{t: t, store: copied, limit: 7, counts: map[string]int{}}
	for range 4 { // between reads the server's own ids pass those of the dump
		for range 20 {
			exec(t, restored, "SELECT pg_current_xact_id()")
		}
		f.read()
	}
	emit(t, copied, "fresh")
	f.read()
	f.want(append(numbered("dumped", 30), "fresh")...)
}

// TestReaderReadsRowsOfAnOpenTransactionsID has rows of another server carry the id of
// a transaction that runs here.
func TestReaderReadsRowsOfAnOpenTransactionsID(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	emit(t, s, numbered("dumped", 30)...)
	open := begin(t, pool)
	var id string
	must(t, open.QueryRow(t.Context(), "SELECT pg_current_xact_id()::text").Scan(&id))
	exec(t, pool, `UPDATE `+pgx.Identifier{schema, "message"}.Sanitize()+` SET txid = '`+id+`'::xid8`)
	f := follow(t, s)
	for range 3 {
		f.read()
	}
	must(t, open.Commit(t.Context()))
	f.read()
	f.want(numbered("dumped", 30)...)
}

// pgDump returns the data of the message table as INSERT statements.
func pgDump(t *testing.T, pool *pgxpool.Pool, schema string) string {
	t.Helper()
	text := command(t, "pg_dump", "--data-only", "--inserts", "--column-inserts", "--schema="+`"`+strings.ReplaceAll(schema, `"`, `""`)+`"`,
		"--table="+pgx.Identifier{schema, "message"}.Sanitize(), "--dbname="+pool.Config().ConnString())
	var sql strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, `\`) { // meta commands of psql
			sql.WriteString(line)
		}
	}
	return sql.String()
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := osexec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// TestReaderDoesNotTouchDeadRows deletes 200,000 rows under a snapshot that keeps
// them from being vacuumed, and counts the buffers that a read looks into.
func TestReaderDoesNotTouchDeadRows(t *testing.T) {
	s, pool, schema := openStore(t, nil)
	old := begin(t, pool)
	_, err := old.Exec(t.Context(), "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1", pgx.QueryExecModeSimpleProtocol)
	must(t, err)
	table := pgx.Identifier{schema, "message"}.Sanitize()
	exec(t, pool, `INSERT INTO `+table+` (topic, payload) SELECT 'dead', '\x00' FROM generate_series(1, 200000)`)
	f := follow(t, s)
	f.counts = map[string]int{}
	exec(t, pool, "DELETE FROM "+table)
	f.read()
	exec(t, pool, "ANALYZE "+table)
	if got := buffers(t, pool, schema, f.request()); got > 20 {
		t.Fatalf("a read that finds nothing looks into %d buffers, want a handful", got)
	}
	emit(t, s, "alive")
	if got := buffers(t, pool, schema, f.request()); got > 30 {
		t.Fatalf("a read that finds one message looks into %d buffers, want a handful", got)
	}
	whole := f.request()
	whole.Cursor = store.Cursor{}
	if got := buffers(t, pool, schema, whole); got < 500 {
		t.Fatalf("a sweep looks into %d buffers: there are no dead rows to avoid", got)
	}
	f.read()
	f.want("alive")
}

// TestReaderOfSomeShardsDoesNotCollectTheBacklog counts the buffers of one page of a
// relay that owns a quarter of the shards.
func TestReaderOfSomeShardsDoesNotCollectTheBacklog(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	table := pgx.Identifier{schema, "message"}.Sanitize()
	exec(t, pool, `INSERT INTO `+table+` (topic, key, payload) SELECT 'backlog', i, '\x00' FROM generate_series(1, 50000) AS i`)
	exec(t, pool, "ANALYZE "+table)
	f := &follower{t: t, store: s, limit: 100, counts: map[string]int{}}
	r := f.request()
	r.Shards = store.FirstShards(16)
	if got := buffers(t, pool, schema, r); got > 100 {
		t.Fatalf("a page of 100 messages looks into %d buffers", got)
	}
	pages, err := s.Read(t.Context(), r)
	must(t, err)
	r.Cursor = pages[0].Cursor
	if got := buffers(t, pool, schema, r); got > 100 || len(pages[0].Rows) != 100 {
		t.Fatalf("the page behind %d messages looks into %d buffers", len(pages[0].Rows), got)
	}
}

// buffers has a read explained as the store runs it and counts its buffers.
func buffers(t *testing.T, pool *pgxpool.Pool, schema string, r store.ReadRequest) int {
	t.Helper()
	names, err := postgres.NewNames(schema, "")
	must(t, err)
	settings, sql, args, err := postgres.ReadStatement(names, r)
	must(t, err)
	return explained(t, pool, string(settings), sql, args...)
}

// explained runs a statement under settings and counts its buffers.
func explained(t *testing.T, pool *pgxpool.Pool, settings, sql string, args ...any) int {
	t.Helper()
	var text []byte
	must(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), settings); err != nil {
			return err
		}
		return tx.QueryRow(t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+sql, args...).Scan(&text)
	}))
	var plans []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	must(t, json.Unmarshal(text, &plans))
	return plans[0].Plan.Hit + plans[0].Plan.Read
}

// TestReaderStartsAgainAfterACrash: transaction ids that were given out before a
// crash of the server, and left nothing behind, are given out again.
func TestReaderStartsAgainAfterACrash(t *testing.T) {
	t.Parallel()
	server := testenv.StartPostgres(t, nil)
	pool := openPool(t, server.URL())
	s := newStore(t, pool, nil)
	must(t, s.Migrate(t.Context()))
	emit(t, s, "one")
	f := follow(t, s)
	server.Stop()
	server.Start()
	pool.Reset()
	emit(t, s, "two")
	f.read() // an orderly restart keeps the cursor
	f.want("one", "two")
	server.Kill()
	server.Start()
	pool.Reset()
	if _, err := s.Read(t.Context(), f.request()); !errors.Is(err, store.ErrCursorVoid) {
		t.Fatalf("read after a crash returned %v, want ErrCursorVoid", err)
	}
	if left := follow(t, s); len(left.counts) != 2 {
		t.Fatalf("%d messages are read from the start, want both", len(left.counts))
	}
}
