package memstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/memstore"
	"github.com/outbox-go/outbox/storetest"
)

func TestConformance(t *testing.T) {
	for _, shards := range []int{64, 7, 1} {
		t.Run(fmt.Sprintf("%d shards", shards), func(t *testing.T) {
			storetest.Run(t, func(*testing.T) storetest.Harness[*memstore.Tx] { return harness(shards) })
		})
	}
}

func harness(shards int) storetest.Harness[*memstore.Tx] {
	s := memstore.New(&memstore.Config{Shards: shards})
	return storetest.Harness[*memstore.Tx]{
		Features: storetest.Features{Shards: shards},
		Store:    s,
		Open:     func(*testing.T) storetest.Store[*memstore.Tx] { return s },
		Begin:    s.Begin,
		Commit:   func(_ context.Context, tx *memstore.Tx) error { return tx.Commit() },
		Rollback: func(_ context.Context, tx *memstore.Tx) error { return tx.Rollback() },
		Insert: func(_ context.Context, tx *memstore.Tx, id string) error {
			if _, ok := tx.Get(id); ok {
				return errors.New("it is there already")
			}
			return tx.Put(id, "")
		},
		Count: func(context.Context) (int, error) { return s.Len(), nil },
		Route: func(s storetest.Store[*memstore.Tx], name string) storetest.Store[*memstore.Tx] {
			return s.(*memstore.Store).Route(name)
		},
		Within:   func(tx *memstore.Tx) storetest.Once { return s.Within(tx) },
		AgeSent:  func(_ context.Context, by time.Duration) error { s.AgeSent(by); return nil },
		AgeInbox: func(_ context.Context, by time.Duration) error { s.AgeInbox(by); return nil },
	}
}

func TestEndedTransactionIsRefused(t *testing.T) {
	t.Parallel()
	s := memstore.New(nil)
	tx, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	for doing, err := range map[string]error{
		"commit": tx.Commit(), "rollback": tx.Rollback(), "put": tx.Put("a", "b"),
		"insert": s.Insert(t.Context(), tx, []outbox.Message{{Topic: "a"}}),
	} {
		if !errors.Is(err, memstore.ErrTxDone) {
			t.Errorf("%s: %v, want ErrTxDone", doing, err)
		}
	}
}

func TestTransactionOfAnotherStoreIsRefused(t *testing.T) {
	t.Parallel()
	tx, err := memstore.New(nil).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := memstore.New(nil).Insert(t.Context(), tx, []outbox.Message{{Topic: "a"}}); err == nil {
		t.Fatal("the insert was taken")
	}
}

func TestCursorOfAnotherStoreIsVoid(t *testing.T) {
	t.Parallel()
	r := store.ReadRequest{Shards: store.FirstShards(64), Limit: 1, MaxBytes: 1}
	pages, err := memstore.New(nil).Read(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	r.Cursor = pages[0].Cursor
	if _, err := memstore.New(nil).Read(t.Context(), r); !errors.Is(err, store.ErrCursorVoid) {
		t.Fatalf("read returned %v, want ErrCursorVoid", err)
	}
}

func TestTimeOfABubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(nil)
		claim := func(owner string) int {
			c, err := s.Claim(t.Context(), store.ClaimRequest{Owner: owner, TTL: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			return len(c.Leases)
		}
		if n := claim("a"); n != 64 {
			t.Fatalf("%d leases, want 64", n)
		}
		time.Sleep(time.Hour - 1)
		if n := claim("b"); n != 0 {
			t.Fatalf("%d leases before the hour has passed, want 0", n)
		}
		time.Sleep(time.Nanosecond)
		if n := claim("b"); n != 64 {
			t.Fatalf("%d leases after an hour, want 64", n)
		}
	})
}

// BenchmarkEmitReadSettle is the life of a message without a relay or a broker.
func BenchmarkEmitReadSettle(b *testing.B) {
	const batch = 500
	s := memstore.New(nil)
	ob := outbox.New(s)
	events := make([]outbox.Event, batch)
	for i := range events {
		events[i] = outbox.Event{Topic: "a", Key: fmt.Sprint("key-", i), Payload: make([]byte, 250)}
	}
	r := store.ReadRequest{Shards: store.FirstShards(64), Limit: batch, MaxBytes: 1 << 25}
	refs := make([]store.Ref, 0, batch)
	b.ReportAllocs()
	rows := 0
	for b.Loop() {
		if err := ob.InTx(b.Context(), func(tx *memstore.Tx) error { return ob.Emit(b.Context(), tx, events...) }); err != nil {
			b.Fatal(err)
		}
		pages, err := s.Read(b.Context(), r)
		if err != nil {
			b.Fatal(err)
		}
		refs = refs[:0]
		for i := range pages[0].Rows {
			refs = append(refs, store.Ref{Position: pages[0].Rows[i].Position, ID: pages[0].Rows[i].ID})
		}
		rows += len(refs)
		r.Cursor = pages[0].Cursor
		if err := s.Settle(b.Context(), refs, false); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkDrain reads and settles a backlog.
func BenchmarkDrain(b *testing.B) {
	const backlog, batch = 500_000, 500
	ctx := b.Context()
	rows := 0
	for b.Loop() {
		b.StopTimer()
		s := memstore.New(nil)
		msgs := make([]outbox.Message, 10)
		for i := range msgs {
			msgs[i] = outbox.Message{ID: fmt.Sprint(i), Topic: "a", Key: fmt.Sprint("key-", i), Payload: make([]byte, 250)}
		}
		for range backlog / len(msgs) {
			if err := s.InTx(ctx, func(tx *memstore.Tx) error { return s.Insert(ctx, tx, msgs) }); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		r := store.ReadRequest{Shards: store.FirstShards(64), Limit: batch, MaxBytes: 1 << 25}
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

// A reader that goes on behind a row by its position skips none, however many
// commits there are.
func TestPageIsSortedByPosition(t *testing.T) {
	t.Parallel()
	s := memstore.New(nil)
	ob := outbox.New(s)
	emit := func(tx *memstore.Tx) {
		t.Helper()
		if err := ob.Emit(t.Context(), tx, outbox.Event{Topic: "t"}); err != nil {
			t.Fatal(err)
		}
	}
	late, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	emit(late)
	for range 1500 {
		if err := ob.InTx(t.Context(), func(tx *memstore.Tx) error { emit(tx); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if err := late.Commit(); err != nil {
		t.Fatal(err)
	}
	request := store.ReadRequest{Shards: store.FirstShards(64), Limit: 10_000, MaxBytes: 1 << 30}
	rows := 0
	for more := true; more; {
		pages, err := s.Read(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		request.Cursor, more = pages[0].Cursor, pages[0].More
		rows += len(pages[0].Rows)
		for i := 1; i < len(pages[0].Rows); i++ {
			if before, row := pages[0].Rows[i-1], pages[0].Rows[i]; row.Position <= before.Position {
				t.Fatalf("a page has position %d behind %d", row.Position, before.Position)
			}
		}
	}
	if rows != 1501 {
		t.Fatalf("read %d rows, want 1501", rows)
	}
}
