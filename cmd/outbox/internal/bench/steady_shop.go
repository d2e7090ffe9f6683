package bench

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/internal/measure"
)

const (
	steadyPostgresTable = `
CREATE SCHEMA IF NOT EXISTS %[1]s;
CREATE TABLE %[1]s.bench_order (number bigint NOT NULL PRIMARY KEY, placed_at timestamptz NOT NULL DEFAULT now())`
	steadyPostgresInsert = `INSERT INTO %[1]s.bench_order (number) VALUES ($1)`

	steadySQLiteTable  = `CREATE TABLE bench_order (number INTEGER NOT NULL PRIMARY KEY, placed_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)`
	steadySQLiteInsert = `INSERT INTO bench_order (number) VALUES (?)`
)

// errSteadyRollBack makes a transaction roll back as planned.
var errSteadyRollBack = errors.New("rolled back on purpose")

// steadyShop is where the transactions are: each inserts a business row in database,
// and its message in outbox, which is mostly the same and always beside it.
type steadyShop struct {
	database, outbox *scratch.Database
	hold             time.Duration
	tally            *measure.Tally
	load             measure.Load
	insert           string
}

func (s *steadyShop) setUp(ctx context.Context) (err error) {
	if s.database.Postgres != nil {
		s.insert = fmt.Sprintf(steadyPostgresInsert, s.database.Schema())
		_, err = s.database.Postgres.Pool.Exec(ctx, fmt.Sprintf(steadyPostgresTable, s.database.Schema()))
		return err
	}
	_, err = s.database.SQLite.DB.ExecContext(ctx, steadySQLiteTable)
	return err
}

// commit runs a transaction.
func (s *steadyShop) commit(ctx context.Context, t steadyTx) (err error) {
	if s.database.Postgres != nil {
		err = s.inPostgres(ctx, t)
	} else {
		err = s.inSQLite(ctx, t)
	}
	if t.rollBack && errors.Is(err, errSteadyRollBack) {
		return nil
	}
	return err
}

func (s *steadyShop) inPostgres(ctx context.Context, t steadyTx) error {
	store := s.outbox.Postgres
	return store.Outbox.InTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, s.insert, t.number); err != nil {
			return err
		}
		if err := store.Outbox.Emit(ctx, tx, s.load.Event(t.number)); err != nil {
			return err
		}
		return s.end(ctx, t)
	})
}

// inSQLite does the same. InTx has writers wait in turn, where those of SQLite itself
// sleep for up to 100 ms.
func (s *steadyShop) inSQLite(ctx context.Context, t steadyTx) error {
	store := s.outbox.SQLite
	return store.Outbox.InTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, steadySQLiteInsert, t.number); err != nil {
			return err
		}
		if err := store.Outbox.Emit(ctx, tx, s.load.Event(t.number)); err != nil {
			return err
		}
		return s.end(ctx, t)
	})
}

// end is the last thing before the commit.
func (s *steadyShop) end(ctx context.Context, t steadyTx) error {
	if t.held {
		select {
		case <-time.After(s.hold):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	switch {
	case t.rollBack:
		return errSteadyRollBack
	case t.counts:
		s.tally.Committed(t.number, time.Now())
	}
	return nil
}

// removeConsumer removes a queue from a stream.
func removeConsumer(ctx context.Context, c config.Broker, queue string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("remove consumer %s, which may remain: %s", queue, config.Scrub(err.Error(), c.URL))
		}
	}()
	nc, err := nats.Connect(c.URL)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	err = js.DeleteConsumer(ctx, c.Stream, queue)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return err
}
