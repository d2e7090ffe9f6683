package bench

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
)

// Drain measures how fast relays bring a backlog to a broker. If there is a result, it
// is what is known, also when the error says that not all was done. The result's own
// error is not part of the error.
func Drain(ctx context.Context, o Options) (result *Result, err error) {
	own, err := scratch.New("outbox_bench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, own.Remove(ctx)) }()
	const perRelay, others = 4, 4
	d, err := own.Database(ctx, o.DatabaseURL, perRelay*o.Relays+others, o.Logger)
	if err != nil {
		return nil, err
	}
	t, err := newTraffic(&o, own)
	if err != nil {
		return nil, err
	}
	if err := d.Store.Migrate(ctx); err != nil {
		return nil, fmt.Errorf("make the outbox's tables: %w", err)
	}
	conditions, err := conditionsOf(ctx, o.Program, d, &t.broker)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout(), ErrTimeout)
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	run := &drain{traffic: t, own: own, database: d, fail: fail}
	runErr := run.execute(ctx)
	result = t.result("drain", conditions, run.filled.committed, run.filled.rolledBack)
	run.describe(&result.Settings)
	return result, runErr
}

// drain is one run.
type drain struct {
	*traffic
	own      *scratch.Scratch
	database *scratch.Database
	fail     context.CancelCauseFunc
	filled   filling
}

func (d *drain) execute(ctx context.Context) (err error) {
	stop, err := d.surround(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := d.filled.fill(ctx, d.database, d.Load); err != nil {
		return fmt.Errorf("emit the backlog: %w", because(ctx, err))
	}
	if d.Process != nil {
		return d.run(ctx, &children{Process: *d.Process, drain: d})
	}
	return d.run(ctx, &relays{drain: d})
}

// surround makes what is beside the drain: a snapshot that is held, and relays that
// are idle.
func (d *drain) surround(ctx context.Context) (stop func() error, err error) {
	var stops []func() error
	stop = func() error {
		var errs []error
		for _, f := range stops {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	stores, err := d.own.Schemas(ctx, d.DatabaseURL, d.IdleOutboxes, d.Logger)
	if err != nil {
		return nil, fmt.Errorf("make idle outboxes: %w", because(ctx, err))
	}
	idle := &relays{drain: d}
	stops = append(stops, idle.stop)
	for i, s := range stores {
		if err := idle.startOne(ctx, fmt.Sprintf("idle %d", i+1), s); err != nil {
			return nil, errors.Join(err, stop())
		}
	}
	if d.HoldSnapshot {
		release, err := holdSnapshot(ctx, d.database.Postgres.Pool.Config().ConnConfig)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("hold a snapshot: %w", because(ctx, err)), stop())
		}
		stops = append(stops, release)
	}
	return stop, nil
}

// unlimited takes away the limits after which a server ends a session in a transaction;
// not every version has all of them.
const unlimited = `SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')`

// holdSnapshot has a session of its own read, so that rows which are deleted from now
// on cannot be cleaned up before release, whose error also tells if they could.
func holdSnapshot(ctx context.Context, c *pgx.ConnConfig) (release func() error, err error) {
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, statement := range []string{unlimited, `BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_snapshot()`} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return nil, errors.Join(err, scratch.Finally(ctx, conn.Close))
		}
	}
	return func() error {
		return scratch.Finally(ctx, func(ctx context.Context) error {
			_, err := conn.Exec(ctx, `SELECT 1`)
			if err != nil {
				err = fmt.Errorf("the snapshot was not held to the end: %w", err)
			}
			return errors.Join(err, conn.Close(ctx))
		})
	}, nil
}

func (d *drain) describe(s *Settings) {
	s.Order = "strict"
	if len(d.Relay.Pipelined) > 0 {
		s.Order = "pipelined"
	}
	s.Relays, s.RelayProcess = d.Relays, d.Process != nil
	s.HoldSnapshot, s.IdleOutboxes = d.HoldSnapshot, d.IdleOutboxes
}
