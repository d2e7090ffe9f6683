package work

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox/internal/measure"
)

// System brings messages from tables of its own, in the schema of the run, to the
// exchange of the run.
type System interface {
	// SetUp makes the tables.
	SetUp(ctx context.Context) error

	// Fill writes the messages of load, in the order of their numbers.
	Fill(ctx context.Context, load measure.Load) error

	// Emitter returns what one goroutine emits by.
	Emitter(ctx context.Context) (Emitter, error)

	// Relay brings what is there and what comes to the exchange, until ctx ends. It
	// calls ready when it works, or is about to begin.
	Relay(ctx context.Context, ready func()) error

	// Describe tells what the system is run with, for the report.
	Describe() Description

	Close()
}

// Event is what is emitted, with the topic [measure.Topic].
type Event struct {
	Number  int
	Key     string
	Payload []byte
}

// EventOf returns message n of load.
func EventOf(load *measure.Load, n int) Event {
	return Event{Number: n, Key: load.Key(n), Payload: load.Body(n)}
}

// Description is what a report tells of a system.
type Description struct {
	Name     string
	Modules  []string          // whose versions are told
	Settings map[string]string // of the system itself
}

// Emitter emits for one goroutine.
type Emitter interface {
	// Emit begins a transaction, inserts a row of business and emits the event. Then
	// it calls end, which holds the transaction open for a while, or not, and returns
	// just before the commit is to be sent. With an error of end it rolls back and
	// returns that error.
	Emit(ctx context.Context, event Event, end func() error) error

	Close()
}

// The rows of business are those of `outbox bench steady`; an emitter inserts one with
// every message, by its number.
const (
	BusinessTable  = `CREATE TABLE bench_order (number bigint NOT NULL PRIMARY KEY, placed_at timestamptz NOT NULL DEFAULT now())`
	BusinessInsert = `INSERT INTO bench_order (number) VALUES ($1)`
)

// TxEmitter is an Emitter on a connection of its own.
type TxEmitter struct {
	Conn   *pgx.Conn
	Insert func(ctx context.Context, tx pgx.Tx, e Event) error // emits
}

// Emit runs the transaction; each statement is a round trip of its own.
func (t *TxEmitter) Emit(ctx context.Context, e Event, end func() error) error {
	tx, err := t.Conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, BusinessInsert, e.Number); err != nil {
		return err
	}
	if err := t.Insert(ctx, tx, e); err != nil {
		return err
	}
	if err := end(); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// Close closes the connection.
func (t *TxEmitter) Close() { _ = t.Conn.Close(context.Background()) }

// Pause waits for d, if it is more than zero.
func Pause(d time.Duration) {
	if d > 0 {
		time.Sleep(d)
	}
}
