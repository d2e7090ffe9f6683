package pgxstore_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store/internal/postgres/pgtest"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/storetest"
)

// passing returns the faults of package pgtest for a store with that config.
func passing(config *pgxstore.Config) map[string]func(t *testing.T) storetest.PassingFault[pgx.Tx] {
	all := map[string]func(t *testing.T) storetest.PassingFault[pgx.Tx]{}
	for name := range pgtest.Faults("") {
		all[name] = func(t *testing.T) storetest.PassingFault[pgx.Tx] {
			t.Helper()
			table := fmt.Sprint("fault_", schemas.Add(1))
			fault := pgtest.Faults(table)[name]
			conn, err := pgx.Connect(t.Context(), testenv.Postgres(t).URL())
			must(t, err)
			t.Cleanup(func() { _ = conn.Close(context.Background()) })
			other := func(ctx context.Context, sql string) error { _, err := conn.Exec(ctx, sql); return err }
			must(t, other(t.Context(), pgtest.MakeTable(table)))
			return storetest.PassingFault[pgx.Tx]{
				Store: newStore(t, openPool(t, testenv.Postgres(t).URL()+pgtest.FaultParams), config),
				Fail: func(ctx context.Context, tx pgx.Tx) error {
					return fault.Fail(ctx, func(ctx context.Context, sql string) error { _, err := tx.Exec(ctx, sql); return err }, other)
				},
			}
		}
	}
	return all
}
