package stomp

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
	"github.com/outbox-go/outbox/internal/testenv"
)

const benchWindow = 500

// BenchmarkRaw measures the protocol's client alone, sending the frames that a
// publisher sends, with one receipt waited for each time and with 500 at once.
func BenchmarkRaw(b *testing.B) {
	for _, window := range []int{1, benchWindow} {
		b.Run(fmt.Sprintf("window=%d", window), func(b *testing.B) {
			address := benchQueue(b, Quorum)
			conn := benchConn(b, address)
			e := encoder{template: newTemplate(DefaultDestination)}
			m := benchMessage(1)
			var f stomp.Frame
			b.ReportAllocs()
			b.ResetTimer()
			for sent, answered := 0, 0; answered < b.N; {
				for ; sent < b.N && sent-answered < window; sent++ {
					e.encode(&f, &m, uint64(sent))
					if err := conn.Write(&f); err != nil {
						b.Fatal(err)
					}
				}
				if err := conn.Flush(); err != nil {
					b.Fatal(err)
				}
				// A burst of receipts before the next burst of messages.
				for range max(1, (sent-answered)/4) {
					if _, err := conn.Read(); err != nil {
						b.Fatal(err)
					}
					answered++
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}

// BenchmarkPublisher measures a publisher with 500 unanswered messages of 250 bytes,
// to a queue that nobody consumes.
func BenchmarkPublisher(b *testing.B) {
	for _, queueType := range []QueueType{Quorum, Classic} {
		b.Run(string(queueType), func(b *testing.B) {
			p := newPublisher(b, benchQueue(b, queueType), nil)
			b.ReportAllocs()
			b.ResetTimer()
			publishAll(b, p, b.N)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}

// BenchmarkSubscriber measures a subscriber with a prefetch of 500 that acknowledges
// each message at once, on a quorum queue that is full.
func BenchmarkSubscriber(b *testing.B) {
	address := benchQueue(b, Quorum)
	publishAll(b, newPublisher(b, address, nil), b.N)
	var n atomic.Int64
	all := make(chan struct{})
	b.ReportAllocs()
	b.ResetTimer()
	in := listen(b, address, nil, everything(benchWindow), func(r *outbox.Received) {
		if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
			b.Error(err)
		}
		if n.Add(1) == int64(b.N) {
			close(all)
		}
	})
	<-all
	b.StopTimer()
	in.stop()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

// benchQueue returns the URL of a virtual host where a queue collects all topics.
func benchQueue(b *testing.B, queueType QueueType) string {
	b.Helper()
	server := testenv.RabbitMQ(b)
	address := server.STOMPURL(server.NewVHost(b))
	in := listen(b, address, &SubscriberConfig{QueueType: queueType}, everything(1), nil)
	in.waitReady()
	in.stop()
	return address
}

func benchConn(b *testing.B, address string) *stomp.Conn {
	b.Helper()
	e, err := newEndpoint(address, Connection{}.withDefaults(), nil)
	if err != nil {
		b.Fatal(err)
	}
	conn, err := e.connect(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	return conn
}

// publishAll publishes n messages, with benchWindow of them unanswered.
func publishAll(tb testing.TB, p *Publisher, n int) {
	tb.Helper()
	free := make(chan *outbox.Message, benchWindow)
	dones := make(map[*outbox.Message]func(error), benchWindow)
	var failed atomic.Pointer[error]
	for i := range benchWindow {
		m := benchMessage(i)
		dones[&m] = func(err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
			free <- &m
		}
		free <- &m
	}
	take := func() *outbox.Message {
		select {
		case m := <-free:
			return m
		default:
			_ = p.Flush()
			return <-free
		}
	}
	for range n {
		m := take()
		p.Publish(context.Background(), m, dones[m])
	}
	for range benchWindow {
		take()
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
