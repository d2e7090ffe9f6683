package acceptance

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/worker"
)

func intEnv(name string, value int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return value
}

// BenchmarkDrain measures a backlog's way from PostgreSQL through relays and a
// quorum queue to a worker with an empty handler and a prefetch of 2,000: strict
// order, 10,000 keys, payload 250 bytes. The relays start with the clock. One
// operation is the whole backlog.
func BenchmarkDrain(b *testing.B) {
	for _, relays := range []int{1, 4} {
		b.Run(fmt.Sprintf("relays=%d", relays), func(b *testing.B) { benchmarkDrain(b, relays) })
	}
}

func benchmarkDrain(b *testing.B, relays int) {
	messages := intEnv("DRAIN_MESSAGES", 300_000)
	const keys = 10_000
	pool := openPool(b, testenv.Postgres(b).URL(), 20)
	s := postgresStore(b, pool)
	ob := outbox.New(s)
	url := testenv.RabbitMQ(b).NewVHost(b)
	for b.Loop() {
		b.StopTimer()
		backlog(b, ob, messages, keys)
		var handled atomic.Int64
		done := make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		w := worker.New(rabbitSubscriber(b, url, nil), &worker.Config{Queue: "drain", Concurrency: 4, Prefetch: 2000})
		worker.Handle(w, "#", func(context.Context, *worker.Delivery[[]byte]) error {
			if handled.Add(1) == int64(messages) {
				close(done)
			}
			return nil
		})
		running.Go(func() { must(b, w.Run(ctx)) })
		<-w.Ready()
		b.StartTimer()
		began := time.Now()
		for range relays {
			r := relay.New(s, rabbitPublisher(b, url), &relay.Config{Logger: quiet()})
			running.Go(func() { must(b, r.Run(ctx)) })
		}
		<-done
		b.ReportMetric(float64(messages)/time.Since(began).Seconds(), "messages/s")
		b.StopTimer()
		cancel()
		running.Wait()
		b.StartTimer()
	}
}

func backlog(tb testing.TB, ob *outbox.Outbox[pgx.Tx], messages, keys int) {
	tb.Helper()
	payload := make([]byte, 250)
	const chunk = 1000
	for first := 0; first < messages; first += chunk {
		events := make([]outbox.Event, min(chunk, messages-first))
		for i := range events {
			events[i] = outbox.Event{Topic: "drain", Key: strconv.Itoa((first + i) % keys), Payload: payload}
		}
		must(tb, ob.InTx(context.Background(), func(tx pgx.Tx) error { return ob.Emit(context.Background(), tx, events...) }))
	}
}

// BenchmarkWorker measures a quorum queue's backlog to a worker with an empty
// handler: payload 250 bytes, 10,000 keys, ten handlers at once. One operation is
// the whole backlog.
func BenchmarkWorker(b *testing.B) {
	for _, prefetch := range []int{100, 500, 2000} {
		b.Run(fmt.Sprintf("prefetch=%d", prefetch), func(b *testing.B) {
			benchmarkWorker(b, "RATE_MESSAGES", 200_000, worker.Config{Prefetch: prefetch}, func(w *worker.Worker, handled func() error) {
				worker.Handle(w, "#", func(context.Context, *worker.Delivery[[]byte]) error { return handled() })
			})
		})
	}
}

// BenchmarkHandleTx is BenchmarkWorker with a handler that adds 1 to one of 10,000
// balances in PostgreSQL, with fsync: without an inbox, and once for each message, in
// a transaction of its own or in one that messages share.
func BenchmarkHandleTx(b *testing.B) {
	pool := openPool(b, testenv.Postgres(b).NewDatabase(b), 40)
	s := postgresStore(b, pool)
	_, err := pool.Exec(b.Context(), `CREATE TABLE balance (key text PRIMARY KEY, n integer NOT NULL) WITH (fillfactor = 50)`)
	must(b, err)
	_, err = pool.Exec(b.Context(), `INSERT INTO balance SELECT i::text, 0 FROM generate_series(0, 9999) AS i`)
	must(b, err)
	add := func(ctx context.Context, tx pgx.Tx, d *worker.Delivery[[]byte]) error {
		_, err := tx.Exec(ctx, `UPDATE balance SET n = n + 1 WHERE key = $1`, d.Key)
		return err
	}
	once := func(in worker.Inbox[pgx.Tx]) func(*worker.Worker, func() error) {
		return func(w *worker.Worker, handled func() error) {
			worker.HandleTx(w, in, "#", add, worker.WithMiddleware(func(next worker.Handler) worker.Handler {
				return func(ctx context.Context, d *worker.Delivery[[]byte]) error {
					if err := next(ctx, d); err != nil {
						return err
					}
					return handled()
				}
			}))
		}
	}
	for _, handlers := range []int{1, 10, 32} {
		config := worker.Config{Concurrency: handlers, Prefetch: 500}
		b.Run(fmt.Sprintf("transaction/handlers=%d", handlers), func(b *testing.B) {
			benchmarkWorker(b, "RATE_TX_MESSAGES", 20_000, config, func(w *worker.Worker, handled func() error) {
				worker.Handle(w, "#", func(ctx context.Context, d *worker.Delivery[[]byte]) error {
					if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return add(ctx, tx, d) }); err != nil {
						return err
					}
					return handled()
				})
			})
		})
		b.Run(fmt.Sprintf("inbox/handlers=%d", handlers), func(b *testing.B) {
			benchmarkWorker(b, "RATE_TX_MESSAGES", 20_000, config, once(s))
		})
		b.Run(fmt.Sprintf("group=30/handlers=%d", handlers), func(b *testing.B) {
			benchmarkWorker(b, "RATE_TX_MESSAGES", 20_000, config, once(s.Group(30)))
		})
	}
}

// benchmarkWorker publishes a backlog and measures how fast a worker handles it.
func benchmarkWorker(b *testing.B, variable string, messages int, config worker.Config, register func(w *worker.Worker, handled func() error)) {
	messages = intEnv(variable, messages)
	url := testenv.RabbitMQ(b).NewVHost(b)
	for b.Loop() {
		b.StopTimer()
		queued(b, url, messages)
		var left atomic.Int64
		left.Store(int64(messages))
		ctx, cancel := context.WithCancel(context.Background())
		config.Queue, config.Logger = "rate", quiet()
		w := worker.New(rabbitSubscriber(b, url, nil), &config)
		register(w, func() error {
			if left.Add(-1) == 0 {
				cancel()
			}
			return nil
		})
		b.StartTimer()
		began := time.Now()
		must(b, w.Run(ctx))
		b.ReportMetric(float64(messages)/time.Since(began).Seconds(), "messages/s")
	}
}

// queued leaves messages in the queue "rate".
func queued(b *testing.B, url string, messages int) {
	b.Helper()
	w := worker.New(rabbitSubscriber(b, url, nil), &worker.Config{Queue: "rate", Logger: quiet()})
	worker.Handle(w, "#", func(context.Context, *worker.Delivery[[]byte]) error { return nil })
	runWorker(b, w)()
	p := rabbitPublisher(b, url)
	window := make(chan struct{}, 1000)
	payload := make([]byte, 250)
	for i := range messages {
		window <- struct{}{}
		p.Publish(b.Context(), &outbox.Message{ID: uuid.NewString(), Topic: "rate", Key: strconv.Itoa(i % 10_000), Payload: payload}, func(err error) {
			if err != nil {
				b.Error(err)
			}
			<-window
		})
	}
	for range cap(window) {
		window <- struct{}{}
	}
}
