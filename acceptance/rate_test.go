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
