package natsjs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

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

// measure begins the measured part of a benchmark; report ends it. The time that the
// two processes need says more than the rate where others use the machine too.
func measure(b *testing.B, p *process) (report func()) {
	b.ReportAllocs()
	own, servers := processorTime(b, os.Getpid()), processorTime(b, p.cmd.Process.Pid)
	b.ResetTimer()
	return func() {
		b.StopTimer()
		perMessage := func(pid int, before time.Duration) float64 {
			return float64((processorTime(b, pid) - before).Microseconds()) / float64(b.N)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		b.ReportMetric(perMessage(os.Getpid(), own), "own-cpu-us/msg")
		b.ReportMetric(perMessage(p.cmd.Process.Pid, servers), "server-cpu-us/msg")
	}
}

// processorTime is what a process has needed up to now, 0 where there is no /proc.
func processorTime(tb testing.TB, pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, errUser := strconv.ParseInt(fields[11], 10, 64)
	system, errSystem := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(errUser, errSystem); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // Linux counts in hundredths
}

// BenchmarkPublish publishes with a window, as the relay does, to file storage.
func BenchmarkPublish(b *testing.B) {
	server := startProcess(b)
	broker := connect(b, server.url(), place())
	p := broker.Publisher()
	defer p.Close()
	msgs := make([]*outbox.Message, b.N)
	for i := range msgs {
		msgs[i] = benchMessage(i)
	}
	report := measure(b, server)
	publishAll(b, p, msgs)
	report()
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
	server := startProcess(b)
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
	msgs := make([]*outbox.Message, b.N)
	for i := range msgs {
		msgs[i] = benchMessage(i)
	}
	report := measure(b, server)
	for _, m := range msgs {
		msg := &nats.Msg{Subject: config.SubjectPrefix + m.Topic, Data: m.Payload, Header: nats.Header{
			nats.MsgIdHdr: {m.ID}, "Content-Type": {m.ContentType}, outbox.HeaderKey: {m.Key},
		}}
		if _, err := js.PublishMsgAsync(msg); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	report()
}

// BenchmarkConsume receives and acknowledges what the stream has.
func BenchmarkConsume(b *testing.B) {
	for _, prefetch := range []int{100, 1000} {
		b.Run(fmt.Sprintf("prefetch=%d", prefetch), func(b *testing.B) {
			server := startProcess(b)
			broker := connect(b, server.url(), place())
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
			report := measure(b, server)
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
			report()
		})
	}
}
