package pgxstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/storetest"
	"github.com/outbox-go/outbox/worker"
)

var (
	_ relay.Store    = (*pgxstore.Store)(nil)
	_ relay.Armer    = (*pgxstore.Store)(nil)
	_ relay.Follower = (*pgxstore.Store)(nil)

	_ worker.Inbox[pgx.Tx] = (*pgxstore.Store)(nil)
	_ worker.Inbox[pgx.Tx] = (*pgxstore.Group)(nil)
)

// grouped is a store of which the inbox is a Group.
type grouped struct {
	*pgxstore.Store
	group *pgxstore.Group
}

func (g grouped) Once(ctx context.Context, consumer, id string, fn func(ctx context.Context, tx pgx.Tx) error) (bool, error) {
	return g.group.Once(ctx, consumer, id, fn)
}

func TestConformance(t *testing.T) {
	runConformance(t, func(s *pgxstore.Store) storetest.Store[pgx.Tx] { return s })
}

func TestGroupConformance(t *testing.T) {
	runConformance(t, func(s *pgxstore.Store) storetest.Store[pgx.Tx] { return grouped{s, s.Group(10)} })
}

func runConformance(t *testing.T, wrap func(*pgxstore.Store) storetest.Store[pgx.Tx]) {
	storetest.Run(t, func(t *testing.T) storetest.Harness[pgx.Tx] {
		config := &pgxstore.Config{TablePrefix: "My-"}
		s, pool, schema := openStore(t, config)
		business := pgx.Identifier{schema, "business"}.Sanitize()
		exec(t, pool, `CREATE TABLE `+business+` (id text PRIMARY KEY)`)
		return storetest.Harness[pgx.Tx]{
			Features: storetest.Features{
				Shards: 64, Notifies: storetest.NotifiesAll, Snapshots: true,
				Missing: []string{"message", "lease", "relay"},
			},
			Store: wrap(s),
			Open: func(t *testing.T) storetest.Store[pgx.Tx] {
				return wrap(newStore(t, openPool(t, testenv.Postgres(t).URL()), &pgxstore.Config{Schema: schema, TablePrefix: "My-"}))
			},
			Begin:    pool.Begin,
			Commit:   func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) },
			Rollback: func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) },
			Insert: func(ctx context.Context, tx pgx.Tx, id string) error {
				_, err := tx.Exec(ctx, `INSERT INTO `+business+` (id) VALUES ($1)`, id)
				return err
			},
			Count: func(ctx context.Context) (n int, err error) {
				err = pool.QueryRow(ctx, `SELECT count(*) FROM `+business).Scan(&n)
				return n, err
			},
			Savepoint: func(ctx context.Context, tx pgx.Tx, fn func(tx pgx.Tx) error) error {
				return pgx.BeginFunc(ctx, tx, fn)
			},
			Route: func(s storetest.Store[pgx.Tx], name string) storetest.Store[pgx.Tx] {
				if g, ok := s.(grouped); ok {
					return grouped{g.Store.Route(name), g.group}
				}
				return s.(*pgxstore.Store).Route(name)
			},
			Within: func(tx pgx.Tx) storetest.Once { return s.Within(tx) },
			AgeSent: func(ctx context.Context, by time.Duration) error {
				_, err := pool.Exec(ctx, `UPDATE `+pgx.Identifier{schema, "My-sent"}.Sanitize()+` SET sent_at = sent_at - $1::interval`, by)
				return err
			},
			AgeInbox: func(ctx context.Context, by time.Duration) error {
				_, err := pool.Exec(ctx, `UPDATE `+pgx.Identifier{schema, "My-inbox"}.Sanitize()+` SET received_at = received_at - $1::interval`, by)
				return err
			},
			Passing: passing(&pgxstore.Config{Schema: schema, TablePrefix: "My-"}),
			Empty: func(t *testing.T) (storetest.Store[pgx.Tx], func(context.Context) error) {
				empty, _ := storeIn(t, pool, config)
				return wrap(empty), empty.Migrate
			},
		}
	})
}
