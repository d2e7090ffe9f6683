package worker_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/worker"
)

// BenchmarkWorker measures messages through a broker in memory to an empty
// handler. The messages are published before the clock starts.
func BenchmarkWorker(b *testing.B) {
	for _, keys := range []int{0, 1, 1000} {
		b.Run(fmt.Sprintf("bytes/keys=%d", keys), func(b *testing.B) {
			benchmarkWorker[[]byte](b, membroker.New(), keys)
		})
	}
	b.Run("json/keys=1000", func(b *testing.B) { benchmarkWorker[map[string]int](b, membroker.New(), 1000) })
}

func benchmarkWorker[T any](b *testing.B, broker *membroker.Broker, keys int) {
	broker.Declare(queueName, "user.*")
	pub := broker.Publisher()
	for i := range b.N {
		m := outbox.Message{ID: "0190b5c4", Topic: "user.created", ContentType: outbox.ContentTypeJSON, Payload: []byte(`{"id":1}`)}
		if keys > 0 {
			m.Key = fmt.Sprint(i % keys)
		}
		pub.Publish(b.Context(), &m, func(error) {})
	}
	b.ReportAllocs()
	runBenchmark[T](b, broker.Subscriber())
}

// BenchmarkWorkerAlone measures the worker without a broker: the subscriber
// passes the same message on as fast as it can.
func BenchmarkWorkerAlone(b *testing.B) {
	for _, keys := range []int{0, 1, 1000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			names := make([]string, keys)
			for i := range names {
				names[i] = fmt.Sprint(i)
			}
			b.ReportAllocs()
			runBenchmark[[]byte](b, fakeSubscriber(func(ctx context.Context, s outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
				ready()
				room := make(chan struct{}, s.Prefetch)
				settle := func(outbox.Settlement) error { <-room; return nil }
				ring := make([]outbox.Received, 1<<16)
				for i := range b.N {
					room <- struct{}{}
					m := &ring[i&(len(ring)-1)]
					*m = outbox.Received{Message: outbox.Message{Topic: "user.created"}, Settle: settle}
					if keys > 0 {
						m.Key = names[i%keys]
					}
					receive(m)
				}
				<-ctx.Done()
				return nil
			}))
		})
	}
}

func runBenchmark[T any](b *testing.B, sub outbox.Subscriber) {
	w := worker.New(sub, &worker.Config{Queue: queueName, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(b.Context())
	left := atomic.Int64{}
	left.Store(int64(b.N))
	worker.Handle(w, "user.*", func(context.Context, *worker.Delivery[T]) error {
		if left.Add(-1) == 0 {
			cancel()
		}
		return nil
	})
	b.ResetTimer()
	if err := w.Run(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
