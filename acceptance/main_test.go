// Package acceptance holds the tests of the whole: from a commit in the database
// to a handler behind the broker, with the real servers.
package acceptance

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store/pgxstore"
)

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	testenv.Main(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// quiet keeps what is expected to go wrong out of the tests' output.
func quiet() *slog.Logger {
	if os.Getenv("OUTBOX_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.DiscardHandler)
}

// lockedBuffer collects output of several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func openPool(t testing.TB, url string, conns int32) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	must(t, err)
	config.MaxConns = conns
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	must(t, err)
	t.Cleanup(pool.Close)
	return pool
}

var schemas atomic.Int64

// postgresStore returns a migrated store in a schema of its own, on the shared
// server.
func postgresStore(t testing.TB, pool *pgxpool.Pool) *pgxstore.Store {
	t.Helper()
	schema := fmt.Sprintf("outbox_%d", schemas.Add(1))
	s := pgxstore.New(pool, &pgxstore.Config{Schema: schema, Logger: quiet()})
	must(t, s.Migrate(t.Context()))
	t.Cleanup(func() {
		_ = s.Close()
		_, _ = pool.Exec(context.Background(), "DROP SCHEMA IF EXISTS "+pgx.Identifier{schema}.Sanitize()+" CASCADE")
	})
	return s
}

func rabbitPublisher(t testing.TB, url string) *rabbitmq.Publisher {
	t.Helper()
	p, err := rabbitmq.NewPublisher(url, nil)
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func rabbitSubscriber(t testing.TB, url string, config *rabbitmq.SubscriberConfig) *rabbitmq.Subscriber {
	t.Helper()
	s, err := rabbitmq.NewSubscriber(url, config)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}
