package pgxstore_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
)

const day = 24 * time.Hour

// send emits n messages and settles them into the history.
func send(t *testing.T, s *pgxstore.Store, n int) {
	t.Helper()
	emit(t, s, numbered("sent", n)...)
	pages, err := s.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: n})
	must(t, err)
	refs := make([]store.Ref, 0, n)
	for _, row := range pages[0].Rows {
		refs = append(refs, store.Ref{Position: row.Position, ID: row.ID})
	}
	must(t, s.Settle(t.Context(), refs, true))
}

// partitions returns how many rows each partition of the history has, by the days
// from today on, the default one as "default".
func partitions(t *testing.T, pool *pgxpool.Pool, schema string) map[string]int {
	t.Helper()
	rows, err := pool.Query(t.Context(), `SELECT c.oid::regclass::text, CASE WHEN c.relname = 'sent_default' THEN 'default'
			ELSE (to_date(right(c.relname, 8), 'YYYYMMDD') - (now() AT TIME ZONE 'UTC')::date)::text END
		FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::regclass AND c.relkind = 'r'`,
		pgx.Identifier{schema, "sent"}.Sanitize())
	must(t, err)
	tables := map[string]string{}
	var table, name string
	_, err = pgx.ForEachRow(rows, []any{&table, &name}, func() error { tables[name] = table; return nil })
	must(t, err)
	counts := map[string]int{}
	for name, table := range tables {
		var n int
		must(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM `+table).Scan(&n))
		counts[name] = n
	}
	return counts
}

// makePast makes a partition of some days ago, with n messages in it.
func makePast(t *testing.T, pool *pgxpool.Pool, schema string, days, n int) {
	t.Helper()
	begin := time.Now().UTC().Truncate(day).Add(-time.Duration(days) * day)
	sent := pgx.Identifier{schema, "sent"}.Sanitize()
	exec(t, pool, `CREATE TABLE `+pgx.Identifier{schema, "sent_" + begin.Format("20060102")}.Sanitize()+` PARTITION OF `+sent+
		` FOR VALUES FROM ('`+begin.Format(time.RFC3339)+`') TO ('`+begin.Add(day).Format(time.RFC3339)+`')`)
	exec(t, pool, `INSERT INTO `+sent+` (position, id, topic, tenant, type, version, content_type, headers, payload, created_at, route, attempts, last_error, sent_at)
		SELECT i, gen_random_uuid(), 't', '', '', '', '', '{}', '', now(), '', 0, '', $1::timestamptz FROM generate_series(1, $2::integer) AS i`, begin.Add(time.Hour), n)
}

func purge(t *testing.T, s *pgxstore.Store, age time.Duration, limit, want int) {
	t.Helper()
	n, err := s.PurgeSent(t.Context(), age, limit)
	must(t, err)
	if n != want {
		t.Fatalf("purged %d messages, want %d", n, want)
	}
}

func TestHistoryGoesToThePartitionOfItsDay(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	purge(t, s, day, 10, 0)
	purge(t, s, 1<<62, 10, 0) // for ever
	send(t, s, 5)
	got := partitions(t, pool, schema)
	// Either one if the day has just ended.
	if len(got) < 4 || got["0"]+got["1"] != 5 || got["default"] != 0 {
		t.Fatalf("the history's partitions are %v, want 5 messages in today's, and the next two", got)
	}
	purge(t, s, 0, 3, 3)
	purge(t, s, 0, 10, 2)
}

// TestHistoryOfTodayStaysInTheDefaultPartition: a partition cannot take what is in
// another one.
func TestHistoryOfTodayStaysInTheDefaultPartition(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	send(t, s, 5)
	purge(t, s, day, 10, 0)
	got := partitions(t, pool, schema)
	if _, today := got["0"]; today || len(got) != 3 || got["default"] != 5 {
		t.Fatalf("the history's partitions are %v, want 5 messages in the default one, and the next two days'", got)
	}
}

func TestHistoryIsDroppedByDays(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	makePast(t, pool, schema, 5, 50)
	makePast(t, pool, schema, 2, 20)
	emit(t, s, "pending")
	exec(t, pool, `INSERT INTO `+pgx.Identifier{schema, "sent"}.Sanitize()+` (position, id, topic, tenant, type, version, content_type, headers, payload,
			created_at, route, attempts, last_error, sent_at)
		SELECT i, gen_random_uuid(), 't', '', '', '', '', '{}', '', now(), '', 0, '', now() - interval '7 days' FROM generate_series(1, 7) AS i`)
	count, err := s.CountSent(t.Context(), 3*day)
	must(t, err)
	if count != 57 {
		t.Fatalf("%d messages are counted as older than three days, want 57", count)
	}
	purge(t, s, 3*day, 2, 52) // the limit is for what has no partition
	got, left := partitions(t, pool, schema), 0
	for _, n := range got {
		left += n
	}
	if len(got) != 5 || got["default"] != 5 || left != 25 {
		t.Fatalf("the history's partitions are %v, want 5 messages in the default one and 20 in another, and three that are new", got)
	}
	purge(t, s, 3*day, 10, 5)
	f := follow(t, s)
	f.want("pending")
}

// TestShortHistoryIsDroppedByDays, too: partitions are made whatever its age.
func TestShortHistoryIsDroppedByDays(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	makePast(t, pool, schema, 5, 50)
	purge(t, s, time.Hour, 10, 50)
	got := partitions(t, pool, schema)
	if _, old := got["-5"]; old || len(got) != 4 {
		t.Fatalf("the history's partitions are %v, want the default one and those of three days", got)
	}
}

// TestHistoryIsNotDroppedWhileItIsRead: who emits or settles does not wait for long
// behind one who drops, who waits for a reader.
func TestHistoryIsNotDroppedWhileItIsRead(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	makePast(t, pool, schema, 5, 50)
	reader := begin(t, pool)
	_, err := reader.Exec(t.Context(), `SELECT count(*) FROM `+pgx.Identifier{schema, "sent"}.Sanitize())
	must(t, err)
	purge(t, s, 3*day, 0, 0)
	must(t, reader.Commit(t.Context()))
	purge(t, s, 3*day, 0, 50)
}

func TestOnlyOnePurgesTheHistory(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	send(t, s, 5)
	makePast(t, pool, schema, 5, 50)
	other := begin(t, pool)
	_, err := other.Exec(t.Context(), `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "outbox purge "+schema+".message")
	must(t, err)
	purge(t, s, 0, 10, 0)
	purge(t, s, day, 10, 0)
	must(t, other.Rollback(t.Context()))
	purge(t, s, day, 10, 50)
	purge(t, s, 0, 10, 5)
}

// TestRoleWithoutCreate runs all of a relay as a role that has the rights that Check
// asks for, and no others.
func TestRoleWithoutCreate(t *testing.T) {
	t.Parallel()
	_, pool, schema := openStore(t, nil)
	s := storeOfRole(t, pool, schema, relayGrants(pgx.Identifier{schema}.Sanitize())...)
	must(t, s.Check(t.Context()))
	makePast(t, pool, schema, 5, 50)
	allOfARelay(t, s)
	purge(t, s, 3*day, 30, 30)
	purge(t, s, 3*day, 30, 20)
	if got := partitions(t, pool, schema); len(got) != 2 || got["default"] != 5 {
		t.Fatalf("the history's partitions are %v, want 5 messages in the default one, and an empty one", got)
	}
	purge(t, s, 0, 10, 5)
}

// allOfARelay leaves five messages in the history.
func allOfARelay(t *testing.T, s *pgxstore.Store) {
	t.Helper()
	ctx := t.Context()
	send(t, s, 5)
	emit(t, s, "waits", "dies", "goes")
	for _, route := range []string{"", "r"} {
		_, err := s.Route(route).Claim(ctx, store.ClaimRequest{Owner: "o", TTL: time.Hour, Doubt: map[uint8]int64{3: 1}})
		must(t, err)
	}
	c, err := s.Claim(ctx, store.ClaimRequest{Owner: "o", TTL: time.Hour})
	must(t, err)
	pages, err := s.Read(ctx, store.ReadRequest{Shards: store.FirstShards(64), Limit: 10})
	must(t, err)
	rows := pages[0].Rows
	ref := func(i int) store.Ref { return store.Ref{Position: rows[i].Position, ID: rows[i].ID} }
	must(t, s.Fail(ctx, []store.Failure{
		{Ref: ref(0), Lease: c.Leases[rows[0].Shard], RetryIn: store.Never},
		{Ref: ref(1), Lease: c.Leases[rows[1].Shard], Dead: store.Invalid},
	}))
	must(t, s.Dispatch(ctx, []store.Dispatch{{Ref: ref(2), Routes: []string{"r"}}}))
	_, err = s.Promote(ctx, 10)
	must(t, err)
	_, err = s.Parked(ctx, store.FirstShards(64))
	must(t, err)
	dead, err := s.List(ctx, store.Query{State: store.Dead, Limit: 9})
	must(t, err)
	if n, err := s.Redrive(ctx, []int64{dead[0].Place}); err != nil || n != 1 {
		t.Fatalf("redriven %d, %v, want 1", n, err)
	}
	if n, err := s.Retry(ctx, []store.Ref{ref(0)}); err != nil || n != 1 {
		t.Fatalf("retried %d, %v, want 1", n, err)
	}
	if w, err := s.Withdraw(ctx, rows[0].ID, "me"); err != nil || w != store.Asked {
		t.Fatalf("withdraw: %q, %v, want asked", w, err)
	}
	must(t, s.LetGo(ctx, "me"))
	_, err = s.Pause(ctx, store.Pause{Topic: "t"})
	must(t, err)
	_, err = s.Resume(ctx, store.Pause{Topic: "t"})
	must(t, err)
	_, err = s.Stats(ctx)
	must(t, err)
	_, err = s.Arm(ctx, "o", false)
	must(t, err)
	must(t, s.Leave(ctx, "o", nil))
}
