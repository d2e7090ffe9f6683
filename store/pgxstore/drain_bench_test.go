package pgxstore_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
)

const benchPage = 1000

// BenchmarkRead reads pages of 1,000 messages of 250 bytes, from a backlog and from
// what was just committed. An operation is a message.
func BenchmarkRead(b *testing.B) {
	b.Run("page", func(b *testing.B) {
		s, pool, schema := benchStore(b)
		backlog(b, pool, schema, 100_000)
		var r store.ReadRequest
		measure(b, pool, func() {
			if r.Cursor.Epoch == "" {
				r = store.ReadRequest{Shards: store.FirstShards(64), Limit: benchPage}
			}
		}, func() { r.Cursor = page(b, s, r).Cursor })
	})
	b.Run("tail", func(b *testing.B) {
		s, pool, schema := benchStore(b)
		backlog(b, pool, schema, 100_000)
		r := store.ReadRequest{Shards: store.FirstShards(64), Limit: benchPage}
		for more := true; more; {
			p := page(b, s, r)
			r.Cursor, more = p.Cursor, p.More
		}
		backlog(b, pool, schema, benchPage)
		measure(b, pool, func() {}, func() { page(b, s, r) })
	})
}

// BenchmarkSettle deletes batches of 1,000 messages. An operation is a message.
func BenchmarkSettle(b *testing.B) {
	s, pool, schema := benchStore(b)
	r := store.ReadRequest{Shards: store.FirstShards(64), Limit: benchPage}
	var batches [][]store.Ref
	measure(b, pool, func() {
		if len(batches) == 0 {
			b.StopTimer()
			batches = batchesOf(b, s, pool, schema, r)
			b.StartTimer()
		}
	}, func() {
		must(b, s.Settle(b.Context(), batches[0], false))
		batches = batches[1:]
	})
}

// batchesOf makes a backlog and returns what names it.
func batchesOf(b *testing.B, s *pgxstore.Store, pool *pgxpool.Pool, schema string, r store.ReadRequest) (batches [][]store.Ref) {
	b.Helper()
	exec(b, pool, "TRUNCATE "+pgx.Identifier{schema, "message"}.Sanitize())
	backlog(b, pool, schema, 100_000)
	for more := true; more; {
		p := page(b, s, r)
		r.Cursor, more = p.Cursor, p.More
		refs := make([]store.Ref, len(p.Rows))
		for i := range refs {
			refs[i] = store.Ref{Position: p.Rows[i].Position, ID: p.Rows[i].ID}
		}
		if len(refs) > 0 {
			batches = append(batches, refs)
		}
	}
	return batches
}

// benchStore returns a store on a single connection, so that its server process does
// all that is measured.
func benchStore(b *testing.B) (*pgxstore.Store, *pgxpool.Pool, string) {
	b.Helper()
	config, err := pgxpool.ParseConfig(testenv.Postgres(b).URL())
	must(b, err)
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(b.Context(), config)
	must(b, err)
	b.Cleanup(pool.Close)
	s, schema := storeIn(b, pool, nil)
	must(b, s.Migrate(b.Context()))
	return s, pool, schema
}

// backlog commits n messages of 250 bytes with 10,000 keys.
func backlog(b *testing.B, pool *pgxpool.Pool, schema string, n int) {
	b.Helper()
	exec(b, pool, `INSERT INTO `+pgx.Identifier{schema, "message"}.Sanitize()+` (topic, key, type, headers, payload)
		SELECT 'order.placed', 'customer-' || i % 10000, 'order', '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}',
		convert_to(repeat('x', 250), 'UTF8') FROM generate_series(1, $1) AS i`, n)
}

func page(b testing.TB, s *pgxstore.Store, r store.ReadRequest) store.Page {
	b.Helper()
	pages, err := s.Read(b.Context(), r)
	must(b, err)
	return pages[0]
}

// measure calls fn, after prepare, for each thousand of b.N and reports what it takes
// of the CPU, of the server's process and of this one.
func measure(b *testing.B, pool *pgxpool.Pool, prepare, fn func()) {
	b.Helper()
	var pid int
	must(b, pool.QueryRow(b.Context(), "SELECT pg_backend_pid()").Scan(&pid))
	b.ReportAllocs()
	var server, own time.Duration
	n := 0
	for b.ResetTimer(); n < b.N; n += benchPage {
		prepare()
		serverBefore, ownBefore := serverCPU(b, pid), ownCPU(b)
		fn()
		server += serverCPU(b, pid) - serverBefore
		own += ownCPU(b) - ownBefore
	}
	b.ReportMetric(float64(own.Nanoseconds())/float64(n), "own-ns/op")
	b.ReportMetric(float64(server.Nanoseconds())/float64(n), "server-ns/op")
}

// ownCPU returns what this process has used.
func ownCPU(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// serverCPU returns what a process has used, as Linux counts it; zero elsewhere.
func serverCPU(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		return 0
	}
	ns, err := strconv.ParseInt(string(bytes.Fields(text)[0]), 10, 64)
	must(b, err)
	return time.Duration(ns)
}
