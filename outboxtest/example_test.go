package outboxtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/outboxtest"
	"github.com/outbox-go/outbox/store/memstore"
	"github.com/outbox-go/outbox/worker"
)

// t stands for the *testing.T that a test has and an example has not.
var t = exampleT{}

type exampleT struct{ testing.TB }

func (exampleT) Helper()                           {}
func (exampleT) Context() context.Context          { return context.Background() }
func (exampleT) Output() io.Writer                 { return io.Discard }
func (exampleT) Fatalf(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// Accounts is the code under test.
type Accounts struct {
	outbox *outbox.Outbox[*sql.Tx]
}

func (a *Accounts) Open(ctx context.Context, id int, name string) error {
	return a.outbox.InTx(ctx, func(tx *sql.Tx) error {
		if err := a.outbox.Emit(ctx, tx, outbox.Event{
			Topic: "account.opened", Key: fmt.Sprint(id), Payload: map[string]any{"id": id, "name": name},
		}); err != nil {
			return err
		}
		if name == "" {
			return errors.New("no name")
		}
		return nil
	})
}

// Without a database, a recorder makes the transactions itself.
func ExampleNewRecorder() {
	rec := outboxtest.NewRecorder[*sql.Tx](nil)
	accounts := &Accounts{outbox: outbox.New(rec)}

	if err := accounts.Open(context.Background(), 7, "Ada"); err != nil {
		fmt.Println(err)
	}
	m := outboxtest.RequireEmitted(t, rec.All(), outboxtest.Want{
		Topic: "account.opened", Key: "7", Payload: map[string]any{"name": "Ada", "id": 7},
	})
	fmt.Println(m.Topic, string(m.Payload))

	fmt.Println(accounts.Open(context.Background(), 8, ""))
	outboxtest.RequireNotEmitted(t, rec.All(), outboxtest.Want{Key: "8"}) // it was rolled back

	outboxtest.RequireEmitted(t, rec.All(), outboxtest.Want{Topic: "account.closed"}) // fails
	// Output:
	// account.opened {"id":7,"name":"Ada"}
	// no name
	// outboxtest: not emitted: topic "account.closed"
	//   message 1 of 1: topic "account.opened", key "7", content type "application/json", payload {"id":7,"name":"Ada"}
	//     its topic is "account.opened"
}

// With a database, a recorder stands before the store.
func ExampleRecord() {
	store := memstore.New(nil) // a pgxstore or an sqlstore
	rec := outboxtest.Record(store)
	ob := outbox.New(rec)

	err := ob.InTx(context.Background(), func(tx *memstore.Tx) error {
		if err := ob.Emit(context.Background(), tx, outbox.Event{Topic: "account.opened"}); err != nil {
			return err
		}
		fmt.Println("in this transaction:", len(rec.Emitted(tx)))
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println("in all:", len(rec.All()))
	// Output:
	// in this transaction: 1
	// in all: 1
}

// The handler of a message runs without a broker.
func ExampleDeliver() {
	type account struct {
		ID   int    `json:"id"`
		Name string `json:"name"`
	}
	handlers := func(w *worker.Worker) {
		worker.Handle(w, "account.opened", func(_ context.Context, d *worker.Delivery[account]) error {
			if d.Payload.Name == "" {
				return worker.Abort(errors.New("nobody to greet"))
			}
			if d.Payload.ID > 100 {
				return errors.New("the mail server is down")
			}
			return nil
		})
	}

	opened := outbox.Event{Topic: "account.opened", Payload: account{ID: 7, Name: "Ada"}}
	fmt.Println(outboxtest.Deliver(t, opened, handlers))

	opened.Payload = account{ID: 101, Name: "Ada"}
	result := outboxtest.Deliver(t, opened, handlers)
	fmt.Println(result.Outcome == outbox.Retry, result.Delay, result.Err)

	lastAttempt := outboxtest.WithFailure(outbox.Failure{Attempts: 4})
	fmt.Println(outboxtest.Deliver(t, opened, handlers, lastAttempt))

	opened.Payload = account{ID: 7}
	fmt.Println(outboxtest.Deliver(t, opened, handlers).Outcome == outbox.DeadLetter)
	// Output:
	// acknowledged
	// true 1s the mail server is down
	// dead letter: the mail server is down
	// true
}

// What a handler emits in its transaction is found in the recorder.
func ExampleDeliver_transaction() {
	rec := outboxtest.NewRecorder[*sql.Tx](nil) // of its own transactions, and an inbox
	ob := outbox.New(rec)
	result := outboxtest.Deliver(t, outbox.Event{Topic: "order.placed"}, func(w *worker.Worker) {
		worker.HandleTx(w, rec, "order.placed", func(ctx context.Context, tx *sql.Tx, d *worker.Delivery[any]) error {
			return ob.Emit(ctx, tx, outbox.Event{Topic: "invoice.written"})
		})
	})
	m := outboxtest.RequireEmitted(t, rec.All(), outboxtest.Want{Topic: "invoice.written"})
	fmt.Println(result, m.CausationID() == result.Message.ID)
	// Output: acknowledged true
}

func ExampleClock() {
	clock := outboxtest.NewClock(time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC))
	rec := outboxtest.NewRecorder[*sql.Tx](nil)
	ob := outbox.New(rec, outbox.WithClock(clock.Now))

	clock.Advance(24 * time.Hour)
	if err := ob.Emit(context.Background(), new(sql.Tx), outbox.Event{Topic: "day.begun"}); err != nil {
		fmt.Println(err)
	}
	fmt.Println(rec.All()[0].CreatedAt)
	// Output: 2026-01-03 15:04:05 +0000 UTC
}
