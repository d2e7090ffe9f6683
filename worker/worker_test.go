package worker_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/store/memstore"
	"github.com/outbox-go/outbox/worker"
)

func handleNothing(context.Context, *worker.Delivery[[]byte]) error { return nil }

type namelessCodec struct{ outbox.Codec }

func (namelessCodec) ContentType() string { return "" }

func TestRunReportsAllFaultsBeforeItConnects(t *testing.T) {
	t.Parallel()
	sub := fakeSubscriber(func(context.Context, outbox.Subscription, func(), func(*outbox.Received)) error {
		t.Error("Run connected")
		return nil
	})
	w := worker.New(sub, &worker.Config{
		Concurrency: -1, Prefetch: 70_000, ShutdownTimeout: -1, DatabaseTimeout: -2, InOrder: true, DeadLetters: true,
		Retries:    worker.Retries{Delays: []time.Duration{1, -time.Second}, MaxAttempts: -3, Jitter: math.NaN()},
		Middleware: []worker.Middleware{nil},
		Codecs:     []outbox.Codec{nil, namelessCodec{}},
	})
	worker.Handle(w, "user..created", handleNothing)
	worker.Handle(w, "order.*", handleNothing)
	worker.Handle(w, "order.*", handleNothing)
	worker.Handle(w, "#.a.#", handleNothing)
	worker.Handle(w, "#.b.#", handleNothing)
	worker.Handle[user](w, "nil", nil, worker.WithConcurrency(-1), worker.WithTimeout(-time.Second), worker.WithMiddleware(nil),
		worker.WithRetries(worker.Retries{MaxAttempts: 2000}))
	worker.HandleTx(w, worker.Inbox[*memstore.Tx](nil), "tx", func(context.Context, *memstore.Tx, *worker.Delivery[user]) error { return nil })
	worker.Handle(w, "strict", handleNothing, worker.Strict())
	err := w.Run(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"Config.Queue is empty", "Config.Concurrency is -1", "Config.Prefetch is 70000", "Config.Retries.Delays[1] is -1s", "Config.Retries.MaxAttempts is -3", "Config.Retries.Jitter is NaN",
		"Config.DatabaseTimeout is -2ns", "Config.InOrder does not go", "Config.Middleware[0] is nil",
		"Config.ShutdownTimeout is -1ns", "Config.Codecs[0] is nil", "Config.Codecs[1] (worker_test.namelessCodec) has no content type",
		`handler "user..created": the pattern has an empty word`, `handler "order.*" is registered twice`,
		`handlers "#.a.#" and "#.b.#" match some topics both`, `handler "nil": the function is nil`, `handler "nil": WithConcurrency is -1`, `handler "nil": WithTimeout is -1s`,
		`handler "nil": WithMiddleware[0] is nil`, `handler "nil": WithRetries.MaxAttempts is 2000`,
		`handler "tx": the inbox is nil`, `handler "strict" is Strict, but Config.Codecs[1]`,
	} {
		if n := strings.Count(err.Error(), want); n != 1 {
			t.Errorf("%d times %q in:\n%v", n, want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 22 {
		t.Errorf("%d faults, want 22:\n%v", n, err)
	}
}

func TestRunReportsWhatIsMissing(t *testing.T) {
	t.Parallel()
	err := worker.New(nil, nil).Run(t.Context())
	for _, want := range []string{"Config.Queue is empty", "the subscriber is nil", "there is no handler"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}

func TestRunReportsAFaultyQueueName(t *testing.T) {
	t.Parallel()
	w := worker.New(membroker.New().Subscriber(), &worker.Config{Queue: "my queue", Prefetch: -1})
	worker.Handle(w, "#", handleNothing)
	err := w.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), `Queue "my queue"`) || !strings.Contains(err.Error(), "Prefetch is -1") {
		t.Errorf("Run: %v", err)
	}
}

func TestSubscriptionHasTheHandlersPatternsAndThePrefetch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cfg  worker.Config
		want int
	}{
		{worker.Config{}, 100},
		{worker.Config{Concurrency: 80}, 160},
		{worker.Config{Prefetch: 1}, 1},
	} {
		var got outbox.Subscription
		ctx, cancel := context.WithCancel(t.Context())
		w := worker.New(fakeSubscriber(func(_ context.Context, s outbox.Subscription, ready func(), _ func(*outbox.Received)) error {
			got = s
			ready()
			ready() // a connection that was lost and restored
			cancel()
			return nil
		}), func() *worker.Config { test.cfg.Queue = "q"; return &test.cfg }())
		worker.Handle(w, "user.*", handleNothing)
		worker.Handle(w, "order.#", handleNothing)
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
		<-w.Ready()
		if got.Queue != "q" || !slices.Equal(got.Topics, []string{"user.*", "order.#"}) || got.Prefetch != test.want {
			t.Errorf("subscribed to %+v, want q, user.* and order.#, prefetch %d", got, test.want)
		}
	}
}

func TestRunReturnsTheErrorOfTheSubscription(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("access refused")
		var settled []outbox.Settlement
		w := worker.New(fakeSubscriber(func(_ context.Context, _ outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
			ready()
			receive(&outbox.Received{Message: text("1", "a", ""), Settle: func(s outbox.Settlement) error {
				settled = append(settled, s)
				return nil
			}})
			synctest.Wait()
			return refused
		}), &worker.Config{Queue: "q"})
		worker.Handle(w, "#", func(context.Context, *worker.Delivery[[]byte]) error {
			time.Sleep(time.Second)
			return nil
		})
		if err := w.Run(t.Context()); !errors.Is(err, refused) || !strings.Contains(err.Error(), `queue "q"`) {
			t.Errorf("Run: %v", err)
		}
		if !slices.Equal(settled, []outbox.Settlement{{Outcome: outbox.Ack}}) {
			t.Errorf("the running message was settled as %v, want one Ack", settled)
		}
	})
}

func TestRunReportsASubscriptionThatEndsByItself(t *testing.T) {
	t.Parallel()
	sub := membroker.New().Subscriber()
	w := worker.New(sub, &worker.Config{Queue: "q"})
	worker.Handle(w, "#", handleNothing)
	go func() { <-w.Ready(); sub.Close() }()
	if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("Run: %v", err)
	}
	w = worker.New(fakeSubscriber(func(context.Context, outbox.Subscription, func(), func(*outbox.Received)) error {
		return nil
	}), &worker.Config{Queue: "q"})
	worker.Handle(w, "#", handleNothing)
	if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("Run: %v", err)
	}
}

func TestRunAndHandleAfterRunAreRefused(t *testing.T) {
	t.Parallel()
	w := worker.New(membroker.New().Subscriber(), &worker.Config{Queue: "q"})
	worker.Handle(w, "#", handleNothing)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "called before") {
		t.Errorf("second Run: %v", err)
	}
	defer func() {
		if v := recover(); v == nil || !strings.Contains(v.(string), "after Run") {
			t.Errorf("Handle after Run: panic %v", v)
		}
	}()
	worker.Handle(w, "late", handleNothing)
}
