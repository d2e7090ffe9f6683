package rabbitmq

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
)

const benchWindow = 1000

// BenchmarkPublish measures a publisher with 1,000 unanswered messages of 250
// bytes, to a queue that nobody consumes.
func BenchmarkPublish(b *testing.B) {
	for _, queueType := range []QueueType{Quorum, Classic} {
		b.Run(string(queueType), func(b *testing.B) {
			address := testenv.RabbitMQ(b).NewVHost(b)
			subscribed(b, address, &SubscriberConfig{QueueType: queueType}, 1, nil)()
			p := newPublisher(b, address, nil)
			m := startMeter(b)
			publishAll(b, p, b.N)
			m.stop()
		})
	}
}

// BenchmarkConsume measures a subscriber with a prefetch of 1,000 that acknowledges
// each message at once, on a queue that is full.
func BenchmarkConsume(b *testing.B) {
	for _, queueType := range []QueueType{Quorum, Classic} {
		b.Run(string(queueType), func(b *testing.B) {
			address := testenv.RabbitMQ(b).NewVHost(b)
			config := &SubscriberConfig{QueueType: queueType}
			subscribed(b, address, config, 1, nil)()
			publishAll(b, newPublisher(b, address, nil), b.N)
			var n atomic.Int64
			all := make(chan struct{})
			m := startMeter(b)
			stop := subscribed(b, address, config, benchWindow, func(r *outbox.Received) {
				if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
					b.Error(err)
				}
				if n.Add(1) == int64(b.N) {
					close(all)
				}
			})
			<-all
			m.stop()
			stop()
		})
	}
}

// BenchmarkConsumeConcurrently measures a subscriber on a full quorum queue whose
// messages are acknowledged by ten goroutines, a little out of order, as a worker
// does.
func BenchmarkConsumeConcurrently(b *testing.B) {
	const goroutines = 10
	for _, prefetch := range []int{100, 500} {
		b.Run(fmt.Sprintf("prefetch=%d", prefetch), func(b *testing.B) {
			address := testenv.RabbitMQ(b).NewVHost(b)
			subscribed(b, address, nil, 1, nil)()
			publishAll(b, newPublisher(b, address, nil), b.N)
			work := make(chan *outbox.Received, prefetch)
			var left sync.WaitGroup
			left.Add(b.N)
			for range goroutines {
				go func() {
					for r := range work {
						if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
							b.Error(err)
						}
						left.Done()
					}
				}()
			}
			m := startMeter(b)
			stop := subscribed(b, address, nil, prefetch, func(r *outbox.Received) { work <- r })
			left.Wait()
			m.stop()
			stop()
			close(work)
		})
	}
}

// BenchmarkRetry measures a hundred handlers each of whose messages fails once and
// is retried at once: two deliveries, a copy and two acknowledgements an operation.
func BenchmarkRetry(b *testing.B) {
	const handlers = 100
	address := testenv.RabbitMQ(b).NewVHost(b)
	subscribed(b, address, nil, 1, nil)()
	publishAll(b, newPublisher(b, address, nil), b.N)
	work := make(chan *outbox.Received, handlers)
	var left sync.WaitGroup
	left.Add(b.N)
	for range handlers {
		go func() {
			for r := range work {
				s := outbox.Settlement{Outcome: outbox.Ack}
				if r.Failure == nil {
					s = retryAfter(0)
				}
				if err := r.Settle(s); err != nil {
					b.Error(err)
				}
				if s.Outcome == outbox.Ack {
					left.Done()
				}
			}
		}()
	}
	m := startMeter(b)
	stop := subscribed(b, address, nil, handlers, func(r *outbox.Received) { work <- r })
	left.Wait()
	m.stop()
	stop()
	close(work)
}

// BenchmarkThrough measures a publisher and a subscriber that acknowledges at once,
// both by one queue, as a relay and a worker have it.
func BenchmarkThrough(b *testing.B) {
	for _, queueType := range []QueueType{Quorum, Classic} {
		b.Run(string(queueType), func(b *testing.B) {
			address := testenv.RabbitMQ(b).NewVHost(b)
			var left sync.WaitGroup
			left.Add(b.N)
			stop := subscribed(b, address, &SubscriberConfig{QueueType: queueType}, 2*benchWindow, func(r *outbox.Received) {
				if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
					b.Error(err)
				}
				left.Done()
			})
			p := newPublisher(b, address, nil)
			m := startMeter(b)
			publishAll(b, p, b.N)
			left.Wait()
			m.stop()
			stop()
		})
	}
}

// publishAll publishes n messages, with benchWindow of them unanswered.
func publishAll(tb testing.TB, p *Publisher, n int) {
	tb.Helper()
	msgs := make([]outbox.Message, benchWindow)
	for i := range msgs {
		msgs[i] = benchMessage(i)
	}
	free := make(chan *outbox.Message, benchWindow)
	for i := range msgs {
		free <- &msgs[i]
	}
	var failed atomic.Pointer[error]
	dones := make(map[*outbox.Message]func(error), len(msgs))
	for i := range msgs {
		m := &msgs[i]
		dones[m] = func(err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
			free <- m
		}
	}
	for range n {
		m := <-free
		p.Publish(context.Background(), m, dones[m])
	}
	for range benchWindow {
		<-free
	}
	if err := failed.Load(); err != nil {
		tb.Fatal(*err)
	}
}

func benchMessage(i int) outbox.Message {
	payload := make([]byte, 250)
	binary.BigEndian.PutUint64(payload, uint64(i))
	return outbox.Message{
		ID:    fmt.Sprintf("018f3f2c-7d52-7c11-9c5a-%012x", i),
		Topic: "user.created", Key: strconv.Itoa(i), Type: "user.Created", Version: "1",
		ContentType: outbox.ContentTypeJSON, Payload: payload, CreatedAt: time.Now().UTC(),
		Headers: map[string]string{outbox.HeaderTraceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
	}
}

// subscribed subscribes to all topics, by the queue "q", and waits until it is
// established. It returns a function that ends the subscription in order.
func subscribed(tb testing.TB, address string, config *SubscriberConfig, prefetch int, receive func(*outbox.Received)) (stop func()) {
	tb.Helper()
	s := newSubscriber(tb, address, config)
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		ended <- s.Subscribe(ctx, outbox.Subscription{Queue: "q", Topics: []string{"#"}, Prefetch: prefetch},
			func() { ready <- struct{}{} }, receive)
	}()
	select {
	case <-ready:
	case err := <-ended:
		tb.Fatalf("subscribe: %v", err)
	}
	return func() {
		tb.Helper()
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("subscription ended: %v", err)
		}
		_ = s.Close()
	}
}
