package sqlstore_test

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/sqlstore"
)

// BenchmarkSQLiteTx is a business transaction: what it costs by itself, and with
// an event. The difference is the price of the outbox.
func BenchmarkSQLiteTx(b *testing.B) {
	for _, synchronous := range []string{"FULL", "NORMAL"} {
		for _, emit := range []bool{false, true} {
			name := map[bool]string{false: "WithoutOutbox", true: "WithOutbox"}[emit]
			b.Run(synchronous+"/"+name, func(b *testing.B) { benchmarkTx(b, synchronous, emit) })
		}
	}
}

func benchmarkTx(b *testing.B, synchronous string, emit bool) {
	db, err := sql.Open("sqlite", strings.Replace(sqlstore.SQLiteDSN(newFile(b)), "FULL", synchronous, 1))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	s := migrated(b, db, nil)
	ob := outbox.New(s)
	execute(b, db, `CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, detail TEXT)`)
	execute(b, db, `CREATE INDEX orders_customer ON orders (customer)`)
	payload := []byte(strings.Repeat("x", 250))
	ctx := b.Context()
	for b.Loop() {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO orders (customer, detail) VALUES (?, ?)`, "customer", "detail"); err != nil {
			b.Fatal(err)
		}
		if emit {
			if err := ob.Emit(ctx, tx, outbox.Event{Topic: "order.placed", Key: "customer", Payload: payload}); err != nil {
				b.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tx/s")
}

// BenchmarkSQLiteEmit is the emit alone, of several events in one call.
func BenchmarkSQLiteEmit(b *testing.B) {
	s := migrated(b, openFile(b, newFile(b)), nil)
	ob := outbox.New(s)
	ctx := b.Context()
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			events := make([]outbox.Event, n)
			for i := range events {
				events[i] = outbox.Event{Topic: "order.placed", Key: "customer", Payload: make([]byte, 250)}
			}
			for b.Loop() {
				if err := ob.InTx(ctx, func(tx *sql.Tx) error { return ob.Emit(ctx, tx, events...) }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// page is the number of rows of the benchmarks of the relay's part.
const page = 1000

// backlog commits rows and returns what reads the first page of them.
func backlog(b *testing.B, rows int) (*sqlstore.Store, store.ReadRequest) {
	b.Helper()
	s := migrated(b, openFile(b, newFile(b)), nil)
	emitBacklog(b, s, rows)
	return s, store.ReadRequest{Shards: store.FirstShards(1), Limit: page, MaxBytes: 1 << 25}
}

func emitBacklog(b *testing.B, s *sqlstore.Store, rows int) {
	b.Helper()
	ob := outbox.New(s)
	events := make([]outbox.Event, rows)
	for i := range events {
		events[i] = outbox.Event{Topic: "order.placed", Key: fmt.Sprint(i % 1000), Payload: make([]byte, 250)}
	}
	if err := ob.InTx(b.Context(), func(tx *sql.Tx) error { return ob.Emit(b.Context(), tx, events...) }); err != nil {
		b.Fatal(err)
	}
}

func readPage(b *testing.B, s *sqlstore.Store, r store.ReadRequest) store.Page {
	pages, err := s.Read(b.Context(), r)
	if err != nil {
		b.Fatal(err)
	}
	return pages[0]
}

func settlePage(b *testing.B, s *sqlstore.Store, p store.Page) {
	refs := make([]store.Ref, len(p.Rows))
	for i := range refs {
		refs[i] = store.Ref{Position: p.Rows[i].Position, ID: p.Rows[i].ID}
	}
	if err := s.Settle(b.Context(), refs, false); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkSQLiteRead reads a page of 1,000 rows.
func BenchmarkSQLiteRead(b *testing.B) {
	s, r := backlog(b, page)
	b.ReportAllocs()
	for b.Loop() {
		if p := readPage(b, s, r); len(p.Rows) != page {
			b.Fatalf("%d rows", len(p.Rows))
		}
	}
	b.ReportMetric(float64(b.N)*page/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkSQLiteSettle settles 1,000 rows at once.
func BenchmarkSQLiteSettle(b *testing.B) {
	s, r := backlog(b, 0)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		emitBacklog(b, s, page)
		p := readPage(b, s, r)
		r.Cursor = p.Cursor
		b.StartTimer()
		settlePage(b, s, p)
	}
	b.ReportMetric(float64(b.N)*page/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkSQLiteDrain reads and settles 20,000 rows, 1,000 at a time.
func BenchmarkSQLiteDrain(b *testing.B) {
	const rows = 20 * page
	s, r := backlog(b, 0)
	for b.Loop() {
		b.StopTimer()
		emitBacklog(b, s, rows)
		b.StartTimer()
		for more := true; more; {
			p := readPage(b, s, r)
			settlePage(b, s, p)
			r.Cursor, more = p.Cursor, p.More
		}
	}
	b.ReportMetric(float64(b.N)*rows/b.Elapsed().Seconds(), "rows/s")
}
