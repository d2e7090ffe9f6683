package relay_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/memstore"
)

// BenchmarkRelay drains a store in memory. One operation is one message of 250
// bytes.
func BenchmarkRelay(b *testing.B) {
	for _, keys := range []int{0, 10_000} {
		for _, how := range []string{"at once", "by another goroutine"} {
			b.Run(fmt.Sprintf("%d keys/confirmed %s", keys, how), func(b *testing.B) {
				benchmarkRelay(b, keys, how == "at once", nil)
			})
		}
	}
	b.Run("10 keys pipelined/confirmed by another goroutine", func(b *testing.B) {
		benchmarkRelay(b, 10, false, []string{"#"})
	})
}

func benchmarkRelay(b *testing.B, keys int, atOnce bool, pipelined []string) {
	s := memstore.New(nil)
	fill(b, s, b.N, keys)
	p := outbox.Publisher(confirmer{})
	if !atOnce {
		answers := make(chan func(error), 1000)
		go func() {
			for done := range answers {
				done(nil)
			}
		}()
		defer close(answers)
		p = publisherFunc(func(_ context.Context, _ *outbox.Message, done func(error)) { answers <- done })
	}
	ctx, cancel := context.WithCancel(b.Context())
	r := relay.New(s, p, &relay.Config{Logger: slog.New(slog.DiscardHandler), Pipelined: pipelined})
	done := make(chan error, 1)
	b.ReportAllocs()
	b.ResetTimer()
	go func() { done <- r.Run(ctx) }()
	for r.Stats().Settled < int64(b.N) {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// confirmer confirms before Publish returns.
type confirmer struct{}

func (confirmer) Publish(_ context.Context, _ *outbox.Message, done func(error)) { done(nil) }
func (confirmer) Close() error                                                   { return nil }

// fill commits n messages, 500 in a transaction.
func fill(b *testing.B, s *memstore.Store, n, keys int) {
	b.Helper()
	ob := outbox.New(s)
	payload := make([]byte, 250)
	for i := 0; i < n; {
		err := ob.InTx(b.Context(), func(tx *memstore.Tx) error {
			var events []outbox.Event
			for ; i < n && len(events) < 500; i++ {
				e := outbox.Event{Topic: "order.placed", Payload: payload}
				if keys > 0 {
					e.Key = fmt.Sprint("customer-", i%keys)
				}
				events = append(events, e)
			}
			return ob.Emit(b.Context(), tx, events...)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
