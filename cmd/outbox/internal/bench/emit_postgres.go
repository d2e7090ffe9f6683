package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// Modes of [emitPostgres]: as an idle relay of another process, or a busy one, leaves
// the database. No relay runs.
const (
	armed    = "armed"
	disarmed = "disarmed"
)

const (
	emitPostgresTables = `
CREATE TABLE %[1]s.bench_account (
	id bigint NOT NULL PRIMARY KEY,
	n  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO %[1]s.bench_account (id) SELECT generate_series(0, %[2]d - 1);
CREATE TABLE %[1]s.bench_order (
	id           bigint      NOT NULL PRIMARY KEY,
	account      bigint      NOT NULL,
	amount_cents integer     NOT NULL,
	placed_at    timestamptz NOT NULL DEFAULT now()
)`
	emitPostgresUpdate = `UPDATE %[1]s.bench_account SET n = n + 1 WHERE id = $1`
	emitPostgresInsert = `INSERT INTO %[1]s.bench_order (id, account, amount_cents) VALUES ($1, $2, $3)`
	emitPostgresCount  = `SELECT count(o.id), count(m.id), count(*) FILTER (WHERE o.id IS NULL OR m.id IS NULL)
FROM %[1]s.bench_order o FULL JOIN %[1]s.message m ON m.key = o.id::text`
	emitPostgresClear = `TRUNCATE %[1]s.bench_order, %[1]s.message`

	// emitFailure ends the transaction of a batch, by this code.
	emitFailure    = `SELECT 1 / 0`
	divisionByZero = "22012"
)

// emitPostgres emits in PostgreSQL. Beside it another store listens, on a connection
// of its own, as the relay of another process does.
type emitPostgres struct {
	database *scratch.Database
	payload  []byte
	logger   *slog.Logger

	update, insert string
	listening      sync.WaitGroup
	stop           context.CancelFunc
}

func (e *emitPostgres) sql(text string) string { return fmt.Sprintf(text, e.database.Schema()) }

func (e *emitPostgres) setUp(ctx context.Context, rows int) error {
	if err := e.database.Store.Migrate(ctx); err != nil {
		return err
	}
	if _, err := e.database.Postgres.Pool.Exec(ctx, fmt.Sprintf(emitPostgresTables, e.database.Schema(), rows)); err != nil {
		return err
	}
	e.update, e.insert = e.sql(emitPostgresUpdate), e.sql(emitPostgresInsert)
	listener, err := pgxstore.Open(e.database.Postgres.Pool, &pgxstore.Config{Schema: e.database.Config.Schema, Logger: e.logger})
	if err != nil {
		return err
	}
	return e.listen(ctx, listener)
}

// listen has a store listen until close, and returns when it does.
func (e *emitPostgres) listen(ctx context.Context, listener emitListener) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.stop = stop
	heard, ended := make(chan struct{}), make(chan error, 1)
	listens := sync.OnceFunc(func() { close(heard) })
	e.listening.Go(func() {
		ended <- errors.Join(listener.Listen(running, listens), listener.Close())
	})
	select {
	case <-heard:
		return nil
	case err := <-ended:
		return fmt.Errorf("listen: %w", err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// emitListener is a store that listens.
type emitListener interface {
	Listen(ctx context.Context, wake func()) error
	Close() error
}

func (e *emitPostgres) close() {
	if e.stop != nil {
		e.stop()
	}
	e.listening.Wait()
}

func (e *emitPostgres) prepare(ctx context.Context, mode string) error {
	_, err := e.database.Postgres.Store.Arm(ctx, "outbox bench", mode == armed)
	return err
}

func (e *emitPostgres) count(ctx context.Context) (c emitCount, err error) {
	err = e.database.Postgres.Pool.QueryRow(ctx, e.sql(emitPostgresCount)).Scan(&c.orders, &c.messages, &c.alone)
	return c, err
}

func (e *emitPostgres) clear(ctx context.Context) error {
	_, err := e.database.Postgres.Pool.Exec(ctx, e.sql(emitPostgresClear))
	return err
}

// variants are all ways to emit by pgxstore.
func (e *emitPostgres) variants() []emitVariant {
	wakes := func(run func(context.Context, emitTx) error) func(context.Context, emitTx) error {
		return func(ctx context.Context, t emitTx) error {
			err := run(ctx, t)
			if err == nil {
				e.database.Postgres.Outbox.Wake()
			}
			return err
		}
	}
	return []emitVariant{
		{"none", "BEGIN, UPDATE, INSERT and COMMIT, a round trip each", "none", disarmed, e.single(false)},
		{"none-batch", "UPDATE and INSERT in one batch", "none-batch", disarmed, e.batch(false)},
		{"none-one-batch", "the whole transaction in one batch", "none-one-batch", disarmed, e.oneBatch(false)},
		{"emit", "none, Emit and Wake", "none", disarmed, wakes(e.single(true))},
		{"emit-no-wake", "none and Emit", "none", disarmed, e.single(true)},
		{"emit-armed", "emit while a relay waits", "none", armed, wakes(e.single(true))},
		{"intx", "none in InTx, with Emit", "none", disarmed, e.inTx},
		{"intx-armed", "intx while a relay waits", "none", armed, e.inTx},
		{"batch", "none-batch, the message in the batch too", "none-batch", disarmed, wakes(e.batch(true))},
		{"one-batch", "none-one-batch, the message in the batch too", "none-one-batch", disarmed, wakes(e.oneBatch(true))},
		{"one-batch-armed", "one-batch while a relay waits", "none-one-batch", armed, wakes(e.oneBatch(true))},
	}
}

// single runs each statement for itself.
func (e *emitPostgres) single(emits bool) func(context.Context, emitTx) error {
	return func(ctx context.Context, t emitTx) error {
		return pgx.BeginFunc(ctx, e.database.Postgres.Pool, func(tx pgx.Tx) error {
			if err := e.business(ctx, tx, t); err != nil {
				return err
			}
			if emits {
				if err := e.database.Postgres.Outbox.Emit(ctx, tx, t.event(e.payload)); err != nil {
					return err
				}
			}
			return t.end()
		})
	}
}

func (e *emitPostgres) inTx(ctx context.Context, t emitTx) error {
	ob := e.database.Postgres.Outbox
	return ob.InTx(ctx, func(tx pgx.Tx) error {
		if err := e.business(ctx, tx, t); err != nil {
			return err
		}
		if err := ob.Emit(ctx, tx, t.event(e.payload)); err != nil {
			return err
		}
		return t.end()
	})
}

// end says how the transaction ends.
func (t emitTx) end() error {
	if t.rollBack {
		return errEmitRollBack
	}
	return nil
}

func (e *emitPostgres) business(ctx context.Context, tx pgx.Tx, t emitTx) error {
	if _, err := tx.Exec(ctx, e.update, t.row); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, e.insert, t.id, t.row, 100)
	return err
}

// statements returns those of the transaction as a batch.
func (e *emitPostgres) statements(ctx context.Context, t emitTx, emits bool) (*pgx.Batch, error) {
	b := &pgx.Batch{}
	b.Queue(e.update, t.row)
	b.Queue(e.insert, t.id, t.row, 100)
	if !emits {
		return b, nil
	}
	msgs, err := e.database.Postgres.Outbox.Prepare(ctx, t.event(e.payload))
	if err != nil {
		return nil, err
	}
	return b, e.database.Postgres.Store.Queue(b, msgs)
}

// batch sends the statements between BEGIN and COMMIT together.
func (e *emitPostgres) batch(emits bool) func(context.Context, emitTx) error {
	return func(ctx context.Context, t emitTx) error {
		return pgx.BeginFunc(ctx, e.database.Postgres.Pool, func(tx pgx.Tx) error {
			b, err := e.statements(ctx, t, emits)
			if err != nil {
				return err
			}
			if err := tx.SendBatch(ctx, b).Close(); err != nil {
				return err
			}
			return t.end()
		})
	}
}

// oneBatch sends a batch that is the transaction.
func (e *emitPostgres) oneBatch(emits bool) func(context.Context, emitTx) error {
	return func(ctx context.Context, t emitTx) error {
		b, err := e.statements(ctx, t, emits)
		if err != nil {
			return err
		}
		if t.rollBack {
			b.Queue(emitFailure)
		}
		err = e.database.Postgres.Pool.SendBatch(ctx, b).Close()
		var failure *pgconn.PgError
		if t.rollBack && errors.As(err, &failure) && failure.Code == divisionByZero {
			return errEmitRollBack
		}
		return err
	}
}
