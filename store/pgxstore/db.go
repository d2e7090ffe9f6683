package pgxstore

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/store/internal/postgres"
)

// db lets the shared statements run on a pool.
type db struct {
	pool *pgxpool.Pool
}

// executor is what a pool and a transaction have in common.
type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

type querier struct {
	executor
}

func (q querier) Exec(ctx context.Context, sql string, args ...any) error {
	_, err := q.executor.Exec(ctx, sql, args...)
	return err
}

func (q querier) Query(ctx context.Context, sql string, args ...any) (postgres.Rows, error) {
	rows, err := q.executor.Query(ctx, sql, args...) // the caller closes what it asked for
	return rawRows{rows}, err
}

// rawRows lets the shared code decode what pgx has received.
type rawRows struct {
	pgx.Rows
}

func (r rawRows) Raw() [][]byte { return r.RawValues() }

func (r rawRows) Formats() []int16 {
	fields := r.FieldDescriptions()
	formats := make([]int16, len(fields))
	for i := range fields {
		formats[i] = fields[i].Format
	}
	return formats
}

func (d *db) Exec(ctx context.Context, sql string, args ...any) error {
	return querier{d.pool}.Exec(ctx, sql, args...)
}

func (d *db) Query(ctx context.Context, sql string, args ...any) (postgres.Rows, error) {
	return querier{d.pool}.Query(ctx, sql, args...)
}

func (d *db) InTx(ctx context.Context, mode postgres.TxMode, fn func(q postgres.Querier) error) error {
	options := pgx.TxOptions{IsoLevel: pgx.ReadCommitted}
	if mode == postgres.OneSnapshot {
		options = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	}
	return pgx.BeginTxFunc(ctx, d.pool, options, func(tx pgx.Tx) error { return fn(querier{tx}) })
}

// Scan sends the settings and the query as one batch, which is a transaction and
// one round trip.
func (d *db) Scan(ctx context.Context, settings postgres.Settings, sql string, args []any, fn func(postgres.Rows) error) error {
	batch := &pgx.Batch{}
	batch.Queue(string(settings))
	batch.Queue(sql, args...)
	results := d.pool.SendBatch(ctx, batch)
	defer func() { _ = results.Close() }()
	if _, err := results.Exec(); err != nil {
		return err
	}
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	if err := fn(rawRows{rows}); err != nil {
		return err
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return err
	}
	return results.Close()
}
