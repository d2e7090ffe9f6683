package demo

import (
	"context"
	"database/sql"

	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

const sqliteTables = `
CREATE TABLE demo_account (
	account TEXT    NOT NULL PRIMARY KEY,
	n       INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE demo_order (
	id           TEXT    NOT NULL PRIMARY KEY,
	account      TEXT    NOT NULL,
	n            INTEGER NOT NULL,
	amount_cents INTEGER NOT NULL
)`

// sqliteConcurrency is the number of goroutines; one at a time can write.
const sqliteConcurrency = 4

// sqliteShop is a shop in a file of its own.
type sqliteShop struct {
	outbox *wire.SQLiteStore
}

func (s *sqliteShop) store() wire.Store { return s.outbox }
func (s *sqliteShop) concurrency() int  { return sqliteConcurrency }
func (s *sqliteShop) holds() bool       { return false }

func (s *sqliteShop) setUp(ctx context.Context, accounts []string) error {
	if err := s.outbox.Migrate(ctx); err != nil {
		return err
	}
	if _, err := s.outbox.DB.ExecContext(ctx, sqliteTables); err != nil {
		return err
	}
	return s.outbox.InTx(ctx, func(tx *sql.Tx) error {
		for _, account := range accounts {
			if _, err := tx.ExecContext(ctx, `INSERT INTO demo_account (account) VALUES (?)`, account); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *sqliteShop) place(ctx context.Context, p *placement) error {
	return placeIn(ctx, s.outbox.Outbox, p, func(tx *sql.Tx) (n int64, err error) {
		const count = `UPDATE demo_account SET n = n + 1 WHERE account = ? RETURNING n`
		if err := tx.QueryRowContext(ctx, count, p.account).Scan(&n); err != nil {
			return 0, err
		}
		const insert = `INSERT INTO demo_order (id, account, n, amount_cents) VALUES (?, ?, ?, ?)`
		_, err = tx.ExecContext(ctx, insert, p.id, p.account, n, p.amount)
		return n, err
	})
}

func (s *sqliteShop) committed(ctx context.Context) ([]order, error) {
	rows, err := s.outbox.DB.QueryContext(ctx, `SELECT id, account, n FROM demo_order`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var orders []order
	for rows.Next() {
		var o order
		if err := rows.Scan(&o.ID, &o.Account, &o.N); err != nil {
			return nil, err
		}
		orders = append(orders, o)
	}
	return orders, rows.Err()
}
