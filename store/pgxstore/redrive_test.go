package pgxstore_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// parkAll emits a message for each key and has it become a dead letter that parks its
// key.
func parkAll(t *testing.T, s *pgxstore.Store, keys ...string) (store.Claim, []store.Stored) {
	t.Helper()
	events := make([]outbox.Event, 0, len(keys))
	for _, key := range keys {
		events = append(events, outbox.Event{Topic: "t", Key: key})
	}
	must(t, s.InTx(t.Context(), func(tx pgx.Tx) error { return outbox.New(s).Emit(t.Context(), tx, events...) }))
	c := claim(t, s, "o")
	pages, err := s.Read(t.Context(), store.ReadRequest{Shards: store.FirstShards(64), Limit: len(keys)})
	must(t, err)
	var failures []store.Failure
	for _, row := range pages[0].Rows {
		failures = append(failures, store.Failure{
			Ref: store.Ref{Position: row.Position, ID: row.ID}, Lease: c.Leases[row.Shard], Dead: store.Exhausted, Park: true,
		})
	}
	must(t, s.Fail(t.Context(), failures))
	dead, err := s.List(t.Context(), store.Query{State: store.Dead, Limit: len(keys)})
	must(t, err)
	if len(dead) != len(keys) {
		t.Fatalf("%d dead letters, want %d", len(dead), len(keys))
	}
	return c, dead
}

// lockDead has whoever deletes the dead letter wait.
func lockDead(t *testing.T, pool *pgxpool.Pool, schema string, place int64) pgx.Tx {
	t.Helper()
	tx := begin(t, pool)
	_, err := tx.Exec(t.Context(), `SELECT FROM `+pgx.Identifier{schema, "dead"}.Sanitize()+` WHERE place = $1 FOR UPDATE`, place)
	must(t, err)
	return tx
}

// waitBehind waits until n wait for tx, or for one who does, or something is done.
func waitBehind(t *testing.T, pool *pgxpool.Pool, tx pgx.Tx, n int, done <-chan error) {
	t.Helper()
	for waiting := 0; waiting < n && len(done) == 0; {
		must(t, pool.QueryRow(t.Context(), `WITH RECURSIVE w AS (
			SELECT $1::integer AS pid
			UNION
			SELECT a.pid FROM w JOIN pg_stat_activity a ON a.wait_event_type = 'Lock' AND w.pid = ANY (pg_blocking_pids(a.pid)))
			SELECT count(*) - 1 FROM w`, int32(tx.Conn().PgConn().PID())).Scan(&waiting)) //nolint:gosec // the server's pids are int4
	}
}

// TestDiscardsOfTheLastTwo: whoever comes second sees that the key is parked no longer.
func TestDiscardsOfTheLastTwo(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	before, dead := parkAll(t, s, "k", "k")
	tx := lockDead(t, pool, schema, dead[0].Place)
	done := make(chan error, 2)
	discard := func(place int64) { _, err := s.Discard(context.Background(), []int64{place}); done <- err }
	go discard(dead[0].Place)
	waitBehind(t, pool, tx, 1, done)
	go discard(dead[1].Place)
	waitBehind(t, pool, tx, 2, done)
	must(t, tx.Rollback(t.Context()))
	must(t, <-done)
	must(t, <-done)
	shard := dead[0].Shard
	if after := claim(t, s, "o"); after.Leases[shard].Token == before.Leases[shard].Token {
		t.Fatal("nothing tells the owner that the key is parked no longer")
	}
}

// TestRedriveAndDiscardDoNotDeadlock: both lock the lease first.
func TestRedriveAndDiscardDoNotDeadlock(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	var keys []string
	for i := range 65 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	_, dead := parkAll(t, s, keys...)
	a, b := twoOfAShard(dead)
	tx := lockDead(t, pool, schema, a)
	done := make(chan error, 2)
	go func() { _, err := s.Redrive(context.Background(), []int64{a, b}); done <- err }()
	waitBehind(t, pool, tx, 1, done)
	go func() { _, err := s.Discard(context.Background(), []int64{b}); done <- err }()
	waitBehind(t, pool, tx, 2, done)
	must(t, tx.Rollback(t.Context()))
	must(t, <-done)
	must(t, <-done)
}

// twoOfAShard returns the places of two dead letters, of which there are more than
// shards.
func twoOfAShard(dead []store.Stored) (a, b int64) {
	seen := map[uint8]int64{}
	for _, m := range dead {
		if place, ok := seen[m.Shard]; ok {
			return place, m.Place
		}
		seen[m.Shard] = m.Place
	}
	return 0, 0
}
