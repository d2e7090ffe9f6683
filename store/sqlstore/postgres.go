package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/internal/postgres"
)

// postgresBackend does by database/sql what the PostgreSQL stores share.
type postgresBackend struct {
	*postgres.Core
	db        postgresDB
	names     *postgres.Names
	insertOne string
	insertAll string
	timed     string

	inboxInsert string
}

func newPostgres(db *sql.DB, names *postgres.Names) *postgresBackend {
	d := postgresDB{querier{db}, db}
	return &postgresBackend{
		Core:      postgres.NewCore(d, names, postgres.Polling),
		db:        d,
		names:     names,
		insertOne: names.SQL(postgres.InsertOne),
		insertAll: names.SQL(postgres.InsertMany),
		timed:     names.SQL(postgres.InsertTimed),

		inboxInsert: names.SQL(postgres.InboxInsert),
	}
}

func (b *postgresBackend) route(name string) backend {
	view := *b
	view.Core = b.Core.Route(name)
	return &view
}

func (b *postgresBackend) within(tx *sql.Tx) once { return b.Core.Within(querier{tx}) }

func (b *postgresBackend) Shards() int { return postgres.Shards }

// Wake does nothing: relays on this store poll, and those on pgxstore are notified
// by the database.
func (b *postgresBackend) Wake() {}

func (b *postgresBackend) Listen(context.Context, func()) error {
	return fmt.Errorf("database/sql on PostgreSQL: %w", store.ErrPollOnly)
}

func (b *postgresBackend) Migrate(ctx context.Context) error {
	return postgres.Migrate(ctx, b.db, b.names)
}

func (b *postgresBackend) Insert(ctx context.Context, tx *sql.Tx, msgs []outbox.Message) error {
	timed := postgres.Timed(msgs)
	statement := b.insertAll
	switch {
	case len(msgs) == 0:
		return nil
	case timed:
		statement = b.timed
	case len(msgs) == 1:
		m := &msgs[0]
		headers, err := postgres.Headers(m)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, b.insertOne, m.ID, m.Topic, m.Key, m.Tenant, m.Type, m.Version, m.ContentType,
			headers, postgres.Payload(m), m.CreatedAt)
		return err
	}
	args, err := postgres.ArrayArgs(msgs, timed)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, statement, args...)
	return err
}

func (b *postgresBackend) InTx(ctx context.Context, fn func(tx *sql.Tx) error) error {
	return inTx(ctx, b.db.sql, nil, fn)
}

// inTx runs fn in a transaction, which ends also when fn panics.
func inTx(ctx context.Context, db *sql.DB, options *sql.TxOptions, fn func(tx *sql.Tx) error) (err error) {
	tx, err := db.BeginTx(ctx, options)
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done {
			err = errors.Join(err, ignoreDone(tx.Rollback()))
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	done = true
	return tx.Commit()
}

// ignoreDone drops the error of ending what has ended by itself, with its context.
func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// postgresDB lets the shared statements run on a *sql.DB.
type postgresDB struct {
	querier
	sql *sql.DB
}

// executor is what *sql.DB and *sql.Tx have in common.
type executor interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

type querier struct {
	executor
}

func (q querier) Exec(ctx context.Context, query string, args ...any) error {
	_, err := q.ExecContext(ctx, query, args...)
	return err
}

func (q querier) Query(ctx context.Context, query string, args ...any) (postgres.Rows, error) {
	rows, err := q.QueryContext(ctx, query, args...) //nolint:rowserrcheck // the caller checks, by Rows.Err
	if err != nil {
		return nil, err
	}
	return closer{rows}, nil
}

// closer closes rows in the way of pgx. What Close could report, Err does.
type closer struct {
	*sql.Rows
}

func (c closer) Close() { _ = c.Rows.Close() }

func (d postgresDB) InTx(ctx context.Context, mode postgres.TxMode, fn func(q postgres.Querier) error) error {
	options := &sql.TxOptions{Isolation: sql.LevelReadCommitted}
	if mode == postgres.OneSnapshot {
		options = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	}
	return inTx(ctx, d.sql, options, func(tx *sql.Tx) error { return fn(querier{tx}) })
}

func (d postgresDB) Scan(ctx context.Context, settings postgres.Settings, query string, args []any, fn func(postgres.Rows) error) error {
	return d.InTx(ctx, postgres.ReadWrite, func(q postgres.Querier) error {
		return postgres.ScanIn(q)(ctx, settings, query, args, fn)
	})
}
