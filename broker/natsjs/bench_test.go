package natsjs_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox"
)

// window is the number of unanswered messages of the benchmarks.
const window = 1000

func benchMessage(i int) *outbox.Message {
	return &outbox.Message{
		ID: fmt.Sprintf("0190b5c6-0000-7000-8000-%012x", i), Topic: "user.created", Key: fmt.Sprint(i),
		ContentType: outbox.ContentTypeJSON, Payload: make([]byte, 250),
	}
}

// BenchmarkPublish publishes with a window, as the relay does, to file storage.
func BenchmarkPublish(b *testing.B) {
	broker := connect(b, startServer(b).url(), place())
	p := broker.Publisher()
	defer p.Close()
	msgs := make([]*outbox.Message, b.N)
	for i := range msgs {
		msgs[i] = benchMessage(i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	publishAll(b, p, msgs)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

func publishAll(tb testing.TB, p outbox.Publisher, msgs []*outbox.Message) {
	free := make(chan error, window)
	for range window {
		free <- nil
	}
	for _, m := range msgs {
		if err := <-free; err != nil {
			tb.Fatal(err)
		}
		p.Publish(context.Background(), m, func(err error) { free <- err })
	}
	for range window {
		if err := <-free; err != nil {
			tb.Fatal(err)
		}
	}
}

// BenchmarkClientPublishAsync is the same with the client's own asynchronous
// publishing, for comparison.
func BenchmarkClientPublishAsync(b *testing.B) {
	config := place()
	server := startServer(b)
	connect(b, server.url(), config)
	nc, err := nats.Connect(server.url())
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		m := benchMessage(i)
		msg := &nats.Msg{Subject: config.SubjectPrefix + m.Topic, Data: m.Payload, Header: nats.Header{
			nats.MsgIdHdr: {m.ID}, "Content-Type": {m.ContentType}, outbox.HeaderKey: {m.Key},
		}}
		if _, err := js.PublishMsgAsync(msg); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

// BenchmarkConsume receives and acknowledges what the stream has.
func BenchmarkConsume(b *testing.B) {
	for _, prefetch := range []int{100, 1000} {
		b.Run(fmt.Sprintf("prefetch=%d", prefetch), func(b *testing.B) {
			broker := connect(b, startServer(b).url(), place())
			p := broker.Publisher()
			defer p.Close()
			msgs := make([]*outbox.Message, b.N)
			for i := range msgs {
				msgs[i] = benchMessage(i)
			}
			publishAll(b, p, msgs)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			sub := broker.Subscriber()
			defer sub.Close()
			left := b.N
			b.ReportAllocs()
			b.ResetTimer()
			s := outbox.Subscription{Queue: "bench", Topics: []string{"user.*"}, Prefetch: prefetch}
			err := sub.Subscribe(ctx, s, func() {}, func(r *outbox.Received) {
				if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
					b.Error(err)
				}
				if left--; left == 0 {
					cancel()
				}
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}
