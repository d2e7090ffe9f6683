package pgxstore_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// BenchmarkOnce handles messages whose handler is one UPDATE, with fsync on, by the
// store and by groups of it. Beside them it measures the same without the row of the
// inbox, the price of which shows, and what is not built, to judge whether it would
// pay: BEGIN and the row in one round trip.
func BenchmarkOnce(b *testing.B) {
	server := testenv.StartPostgres(b, nil)
	config, err := pgxpool.ParseConfig(server.URL())
	must(b, err)
	config.MaxConns = 40
	pool, err := pgxpool.NewWithConfig(b.Context(), config)
	must(b, err)
	b.Cleanup(pool.Close)
	s := newStore(b, pool, nil)
	must(b, s.Migrate(b.Context()))
	exec(b, pool, `CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL DEFAULT 0) WITH (fillfactor = 50)`)
	exec(b, pool, `INSERT INTO account (id) SELECT generate_series(0, 32 * 1000)`)
	for _, goroutines := range []int{1, 10, 32} {
		for _, c := range []struct {
			name string
			work onceWork
		}{
			{"NoInbox", workNoInbox}, {"Once", workOnce}, {"BeginWithInsert", workBeginWithInsert},
			{"Group=10", workGroup(10)}, {"Group=30", workGroup(30)},
		} {
			b.Run(fmt.Sprintf("%s/goroutines=%d", c.name, goroutines), func(b *testing.B) {
				benchmarkOnce(b, goroutines, func(ctx context.Context, worker, n int) error { return c.work(ctx, s, pool, worker, n) })
			})
		}
	}
}

// benchmarkOnce has work called until b.N messages are done.
func benchmarkOnce(b *testing.B, goroutines int, work func(ctx context.Context, worker, n int) error) {
	var next atomic.Int64
	var group sync.WaitGroup
	b.ResetTimer()
	for worker := range goroutines {
		group.Go(func() {
			for n := int(next.Add(1)); n <= b.N; n = int(next.Add(1)) {
				if err := work(b.Context(), worker, n); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

type onceWork func(ctx context.Context, s *pgxstore.Store, pool *pgxpool.Pool, worker, n int) error

const (
	benchUpdate = `UPDATE account SET balance = balance + 1 WHERE id = $1`
	benchInsert = `INSERT INTO outbox.inbox (consumer, message_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`
)

// handleBench is the handler. Each worker has accounts of its own.
func handleBench(ctx context.Context, tx interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, worker, n int,
) error {
	rows, err := tx.Query(ctx, benchUpdate, worker*1000+n%1000)
	if err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}

func benchID() string { return uuid.Must(uuid.NewV7()).String() }

func workOnce(ctx context.Context, s *pgxstore.Store, _ *pgxpool.Pool, worker, n int) error {
	_, err := s.Once(ctx, "billing", benchID(), func(ctx context.Context, tx pgx.Tx) error { return handleBench(ctx, tx, worker, n) })
	return err
}

func workNoInbox(ctx context.Context, _ *pgxstore.Store, pool *pgxpool.Pool, worker, n int) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return handleBench(ctx, tx, worker, n) })
}

func workBeginWithInsert(ctx context.Context, _ *pgxstore.Store, pool *pgxpool.Pool, worker, n int) error {
	return pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		batch := &pgx.Batch{}
		batch.Queue("BEGIN")
		batch.Queue(benchInsert, "billing", benchID())
		if err := conn.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		if err := handleBench(ctx, conn, worker, n); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "COMMIT")
		return err
	})
}

func workGroup(most int) onceWork {
	var group *pgxstore.Group
	var once sync.Once
	return func(ctx context.Context, s *pgxstore.Store, _ *pgxpool.Pool, worker, n int) error {
		once.Do(func() { group = s.Group(most) })
		_, err := group.Once(ctx, "billing", benchID(), func(ctx context.Context, tx pgx.Tx) error { return handleBench(ctx, tx, worker, n) })
		return err
	}
}
