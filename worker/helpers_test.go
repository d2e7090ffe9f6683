package worker_test

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/worker"
)

const queueName = "billing"

// bench is a worker on a broker in memory.
type bench struct {
	t      testing.TB
	broker *membroker.Broker
	pub    *membroker.Publisher
	worker *worker.Worker
	log    *logBuffer
	stop   context.CancelFunc
	ended  chan error
}

// newBench makes a worker, to which a test adds handlers before it calls start.
func newBench(t testing.TB, cfg worker.Config) *bench {
	b := &bench{t: t, broker: membroker.New(), log: &logBuffer{}, ended: make(chan error, 1)}
	cfg.Queue = queueName
	cfg.Logger = slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.pub = b.broker.Publisher()
	b.worker = worker.New(b.broker.Subscriber(), &cfg)
	return b
}

func (b *bench) start() {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	b.stop = cancel
	go func() { b.ended <- b.worker.Run(ctx) }()
	select {
	case <-b.worker.Ready():
	case err := <-b.ended:
		b.t.Fatalf("Run ended: %v", err)
	}
}

// end stops the worker and returns what Run returned.
func (b *bench) end() error {
	b.stop()
	return <-b.ended
}

func (b *bench) endClean() {
	b.t.Helper()
	if err := b.end(); err != nil {
		b.t.Errorf("Run: %v", err)
	}
}

func (b *bench) send(m outbox.Message) {
	b.t.Helper()
	b.pub.Publish(b.t.Context(), &m, func(err error) {
		if err != nil {
			b.t.Errorf("publish %s: %v", m.ID, err)
		}
	})
}

// left returns the ids that wait in the queue.
func (b *bench) left() []string {
	var ids []string
	for _, m := range b.broker.Messages(queueName) {
		ids = append(ids, m.ID)
	}
	return ids
}

// logBuffer collects log output.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// record collects texts from several goroutines.
type record struct {
	mu   sync.Mutex
	list []string
}

func (r *record) add(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, s)
}

func (r *record) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.list...)
}

// fakeSubscriber is a Subscriber by a function.
type fakeSubscriber func(ctx context.Context, s outbox.Subscription, ready func(), receive func(*outbox.Received)) error

func (f fakeSubscriber) Subscribe(ctx context.Context, s outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
	return f(ctx, s, ready, receive)
}

func (f fakeSubscriber) Close() error { return nil }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func text(id, topic, key string) outbox.Message {
	return outbox.Message{ID: id, Topic: topic, Key: key, ContentType: outbox.ContentTypeBytes, Payload: []byte(id), CreatedAt: time.Unix(1, 0)}
}
