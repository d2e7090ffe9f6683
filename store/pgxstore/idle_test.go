package pgxstore_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// statements counts what a pool sends, BEGIN and COMMIT too.
type statements struct{ n atomic.Int64 }

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	s.n.Add(1)
	return ctx
}

func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (s *statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (s *statements) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {
	s.n.Add(1)
}

func (s *statements) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// TestIdleRelayAsksLittle counts the statements of what a relay does while there is
// nothing to do, by its default intervals: it renews its leases and asks for pauses
// every two seconds, and reads and promotes every second.
func TestIdleRelayAsksLittle(t *testing.T) {
	t.Parallel()
	counted := &statements{}
	config, err := pgxpool.ParseConfig(testDatabase(t))
	must(t, err)
	config.ConnConfig.Tracer = counted
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	must(t, err)
	t.Cleanup(pool.Close)
	s, schema := storeIn(t, pool, nil)
	must(t, s.Migrate(t.Context()))
	for _, s := range []*pgxstore.Store{s, s.Route("other")} {
		idle(t, s, counted)
	}
	exec(t, pool, "TRUNCATE "+pgx.Identifier{schema, "incarnation"}.Sanitize())
	claimAll(t, s)
	if _, err := s.Read(t.Context(), store.ReadRequest{Shards: 1, Limit: 1}); err != nil {
		t.Fatalf("after a crash of the server: %v", err)
	}
}

func claimAll(t *testing.T, s *pgxstore.Store) store.Claim {
	t.Helper()
	c, err := s.Claim(t.Context(), store.ClaimRequest{Owner: "me", Name: "n", TTL: time.Minute, Rate: 1.5})
	must(t, err)
	if len(c.Leases) != 64 || c.Target != 64 || c.Relays != 1 {
		t.Fatalf("the claim is %+v, want all shards", c)
	}
	return c
}

func idle(t *testing.T, s *pgxstore.Store, counted *statements) {
	t.Helper()
	claimAll(t, s)
	f := follow(t, s)
	count := func(what string, most int64, do func()) float64 {
		t.Helper()
		before := counted.n.Load()
		do()
		n := counted.n.Load() - before
		if n > most {
			t.Errorf("%s takes %d statements, want at most %d", what, n, most)
		}
		return float64(n)
	}
	every2s := count("renewing leases", 1, func() { claimAll(t, s) }) +
		count("asking for pauses", 1, func() { _, err := s.Pauses(t.Context()); must(t, err) })
	everySecond := count("reading", 2, func() { f.read() }) +
		count("promoting", 1, func() { _, err := s.Promote(t.Context(), 1000); must(t, err) })
	if rate := every2s/2 + everySecond; rate >= 5 {
		t.Errorf("an idle relay sends %.1f statements a second, want less than 5", rate)
	}
}
