package demo

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

const (
	postgresTables = `
CREATE TABLE %[1]s.demo_account (
	account text   NOT NULL PRIMARY KEY,
	n       bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE %[1]s.demo_order (
	id           text    NOT NULL PRIMARY KEY,
	account      text    NOT NULL,
	n            bigint  NOT NULL,
	amount_cents integer NOT NULL
)`
	postgresAccounts = `INSERT INTO %[1]s.demo_account (account) SELECT unnest($1::text[])`

	// The account's row is locked from here to the end of the transaction.
	postgresPlace = `
WITH account AS (UPDATE %[1]s.demo_account SET n = n + 1 WHERE account = $1 RETURNING n)
INSERT INTO %[1]s.demo_order (id, account, n, amount_cents) SELECT $2, $1, n, $3 FROM account RETURNING n`
)

// postgresConcurrency is the number of transactions at once, beside those that
// follow on one that was held open.
const postgresConcurrency = 32

// postgresShop is a shop in a schema of its own.
type postgresShop struct {
	outbox *wire.PostgresStore
	schema string // quoted
	sql    string
}

func newPostgresShop(d *scratch.Database) *postgresShop {
	return &postgresShop{outbox: d.Postgres, schema: d.Schema(), sql: fmt.Sprintf(postgresPlace, d.Schema())}
}

func (s *postgresShop) store() wire.Store { return s.outbox }
func (s *postgresShop) concurrency() int  { return postgresConcurrency }
func (s *postgresShop) holds() bool       { return true }

func (s *postgresShop) setUp(ctx context.Context, accounts []string) error {
	if err := s.outbox.Migrate(ctx); err != nil {
		return err
	}
	if _, err := s.outbox.Pool.Exec(ctx, fmt.Sprintf(postgresTables, s.schema)); err != nil {
		return err
	}
	_, err := s.outbox.Pool.Exec(ctx, fmt.Sprintf(postgresAccounts, s.schema), accounts)
	return err
}

func (s *postgresShop) place(ctx context.Context, p *placement) error {
	return placeIn(ctx, s.outbox.Outbox, p, func(tx pgx.Tx) (n int64, err error) {
		err = tx.QueryRow(ctx, s.sql, p.account, p.id, p.amount).Scan(&n)
		return n, err
	})
}

func (s *postgresShop) committed(ctx context.Context) ([]order, error) {
	rows, err := s.outbox.Pool.Query(ctx, "SELECT id, account, n FROM "+s.schema+".demo_order")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[order])
}
