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

// BenchmarkSQLiteDrain reads and settles 20,000 rows, 500 at a time.
func BenchmarkSQLiteDrain(b *testing.B) {
	const backlog, batch = 20_000, 500
	s := migrated(b, openFile(b, newFile(b)), nil)
	ob := outbox.New(s)
	ctx := b.Context()
	events := make([]outbox.Event, backlog)
	for i := range events {
		events[i] = outbox.Event{Topic: "order.placed", Key: "customer", Payload: make([]byte, 250)}
	}
	rows := 0
	for b.Loop() {
		b.StopTimer()
		if err := ob.InTx(ctx, func(tx *sql.Tx) error { return ob.Emit(ctx, tx, events...) }); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		r := store.ReadRequest{Shards: store.FirstShards(1), Limit: batch, MaxBytes: 1 << 25}
		for more := true; more; {
			pages, err := s.Read(ctx, r)
			if err != nil {
				b.Fatal(err)
			}
			refs := make([]store.Ref, len(pages[0].Rows))
			for i := range refs {
				refs[i] = store.Ref{Position: pages[0].Rows[i].Position, ID: pages[0].Rows[i].ID}
			}
			if err := s.Settle(ctx, refs, false); err != nil {
				b.Fatal(err)
			}
			rows += len(refs)
			r.Cursor, more = pages[0].Cursor, pages[0].More
		}
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
}
