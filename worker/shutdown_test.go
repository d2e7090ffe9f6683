package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/worker"
)

func TestStopFinishesWhatRunsAndGivesBackTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{
			Concurrency: 3, InOrder: true, Retries: worker.Retries{Delays: []time.Duration{time.Hour}}, ShutdownTimeout: time.Minute,
		})
		var finished record
		worker.Handle(b.worker, "#", func(ctx context.Context, d *worker.Delivery[[]byte]) error {
			if d.Key == "bad" {
				return errors.New("no luck")
			}
			time.Sleep(30 * time.Second)
			finished.add(d.ID)
			if d.ID == "fails" {
				return errors.New("no luck")
			}
			return ctx.Err()
		})
		b.start()
		b.send(text("early", "a", "k"))
		time.Sleep(time.Minute) // everything has been settled once
		b.send(text("held", "a", "bad"))
		b.send(text("behind the held", "a", "bad"))
		synctest.Wait()
		b.send(text("runs", "a", "k"))
		b.send(text("behind the running", "a", "k"))
		b.send(text("runs too", "a", ""))
		b.send(text("fails", "a", ""))
		b.send(text("waits", "a", ""))
		b.send(text("waits too", "a", "w"))
		b.send(text("waits behind", "a", "w"))
		synctest.Wait()
		begin := time.Now()
		b.stop()
		synctest.Wait()
		want := []string{"held", "behind the held", "behind the running", "waits", "waits too", "waits behind"}
		if !slices.Equal(b.left(), want) {
			t.Errorf("at once given back %q, want %q", b.left(), want)
		}
		b.send(text("late", "a", ""))
		b.endClean()
		if d := time.Since(begin); d != 30*time.Second {
			t.Errorf("stopped after %s, want 30s", d)
		}
		got := finished.all()
		slices.Sort(got)
		if !slices.Equal(got, []string{"early", "fails", "runs", "runs too"}) {
			t.Errorf("finished %q", got)
		}
		want = []string{"held", "behind the held", "behind the running", "fails", "waits", "waits too", "waits behind", "late"}
		if !slices.Equal(b.left(), want) {
			t.Errorf("in the end left %q, want %q", b.left(), want)
		}
		if n := strings.Count(b.log.String(), "not settled"); n != 0 {
			t.Errorf("the log tells of %d failed settlements:\n%s", n, b.log)
		}
	})
}

func TestShutdownTimeoutCancelsHandlers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Concurrency: 2, ShutdownTimeout: 10 * time.Second})
		worker.Handle(b.worker, "#", func(ctx context.Context, d *worker.Delivery[[]byte]) error {
			if d.ID == "early" {
				return nil
			}
			<-ctx.Done()
			if d.ID == "done" {
				return nil
			}
			return fmt.Errorf("not finished: %w", context.Cause(ctx))
		})
		b.start()
		b.send(text("early", "a", ""))
		synctest.Wait()
		b.send(text("unfinished", "a", ""))
		b.send(text("done", "a", ""))
		synctest.Wait()
		begin := time.Now()
		b.endClean()
		if d := time.Since(begin); d != 10*time.Second {
			t.Errorf("stopped after %s, want 10s", d)
		}
		if !slices.Equal(b.left(), []string{"unfinished"}) {
			t.Errorf("left %q, want the unfinished one", b.left())
		}
		if log := b.log.String(); !strings.Contains(log, "running=2") || !strings.Contains(log, "shutdown timeout has passed") {
			t.Errorf("log:\n%s", log)
		}
	})
}

func TestHandlerThatIgnoresItsContextDoesNotHoldUpTheStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Concurrency: 2, ShutdownTimeout: 10 * time.Second})
		worker.Handle(b.worker, "#", func(context.Context, *worker.Delivery[[]byte]) error {
			time.Sleep(time.Hour)
			return nil
		})
		b.start()
		b.send(text("1", "a", ""))
		synctest.Wait()
		begin := time.Now()
		err := b.end()
		if d := time.Since(begin); d != 15*time.Second {
			t.Errorf("stopped after %s, want 15s", d)
		}
		if err == nil || !strings.Contains(err.Error(), "1 handlers did not return") {
			t.Errorf("Run: %v", err)
		}
		if !slices.Equal(b.left(), []string{"1"}) {
			t.Errorf("left %q, want 1", b.left())
		}
		time.Sleep(2 * time.Hour) // the handler returns at last, and must not settle again
		if log := b.log.String(); strings.Contains(log, "not settled") {
			t.Errorf("log:\n%s", log)
		}
	})
}

func TestMessageThatArrivesWhileStoppingIsGivenBack(t *testing.T) {
	t.Parallel()
	var got []outbox.Settlement
	sub := fakeSubscriber(func(ctx context.Context, _ outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
		ready()
		<-ctx.Done()
		time.Sleep(time.Second)
		receive(&outbox.Received{Message: text("1", "a", "k"), Settle: func(s outbox.Settlement) error {
			got = append(got, s)
			return nil
		}})
		return nil
	})
	synctest.Test(t, func(t *testing.T) {
		w := worker.New(sub, &worker.Config{Queue: queueName})
		worker.Handle(w, "#", func(context.Context, *worker.Delivery[[]byte]) error {
			t.Error("the handler ran")
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	if !slices.Equal(got, []outbox.Settlement{{Outcome: outbox.Requeue}}) {
		t.Errorf("settled %v, want one Requeue", got)
	}
}

// TestStopWhileAFailedMessageIsBeingGivenBack has a Settle that takes its time.
func TestStopWhileAFailedMessageIsBeingGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var handled, requeued record
		w := worker.New(fakeSubscriber(func(ctx context.Context, _ outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
			for _, id := range []string{"1", "2", "3"} {
				receive(&outbox.Received{Message: text(id, "a", "k"), Settle: func(s outbox.Settlement) error {
					if s.Outcome == outbox.Retry {
						return errors.New("the delay queue is full")
					}
					time.Sleep(time.Minute)
					requeued.add(fmt.Sprint(id, s.Outcome == outbox.Requeue))
					return nil
				}})
			}
			<-ctx.Done()
			return nil
		}), &worker.Config{Queue: "q", ShutdownTimeout: time.Hour})
		worker.Handle(w, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			handled.add(d.ID)
			return errors.New("no luck")
		})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
		if got := handled.all(); !slices.Equal(got, []string{"1"}) {
			t.Errorf("handled %q, want only 1", got)
		}
		if got := requeued.all(); !slices.Equal(got, []string{"1true", "2true", "3true"}) {
			t.Errorf("given back %q, want 1, 2 and 3", got)
		}
	})
}

// TestNothingIsLost stops and replaces workers while handlers fail and the
// connection breaks.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	const messages = 3000
	broker := membroker.New()
	broker.Declare(queueName, "#")
	pub := broker.Publisher()
	for i := range messages {
		m := text(fmt.Sprint(i), "a", "")
		if i%3 > 0 {
			m.Key = fmt.Sprint(i % 17)
		}
		pub.Publish(t.Context(), &m, func(error) {})
	}
	var mu sync.Mutex
	handled := map[string]bool{}
	calls := 0
	log := &logBuffer{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	for round := 1; len(handled) < messages; round++ {
		w := worker.New(broker.Subscriber(), &worker.Config{
			Queue: queueName, Concurrency: 8, InOrder: round%2 == 0, Logger: logger,
			Retries: worker.Retries{Delays: []time.Duration{time.Duration(round%3) * time.Millisecond}, MaxAttempts: 1000},
		})
		ctx, cancel := context.WithCancel(t.Context())
		worker.Handle(w, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			mu.Lock()
			defer mu.Unlock()
			switch calls++; {
			case calls%400 == 0:
				cancel()
			case calls%313 == 0:
				defer broker.Cut()
			case calls%29 == 0:
				panic("no luck")
			case calls%7 == 0:
				return errors.New("no luck")
			}
			if handled[d.ID] = true; len(handled) == messages {
				cancel()
			}
			return nil
		})
		if err := w.Run(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	if strings.Contains(log.String(), "settled before") {
		t.Error("a message was settled twice")
	}
}

func TestHandlersKeepTheValuesOfTheContextNotItsEnd(t *testing.T) {
	t.Parallel()
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{})
		worker.Handle(b.worker, "#", func(ctx context.Context, d *worker.Delivery[[]byte]) error {
			time.Sleep(time.Minute)
			if ctx.Err() != nil || ctx.Value(key{}) != "value" {
				t.Errorf("context: error %v, value %v", ctx.Err(), ctx.Value(key{}))
			}
			return nil
		})
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "value"), 50*time.Second)
		defer cancel()
		go func() { b.ended <- b.worker.Run(ctx) }()
		<-b.worker.Ready()
		b.send(text("1", "a", ""))
		if err := <-b.ended; err != nil {
			t.Error(err)
		}
		if len(b.left()) != 0 {
			t.Errorf("left %q", b.left())
		}
	})
}
