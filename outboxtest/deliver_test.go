package outboxtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/outboxtest"
	"github.com/outbox-go/outbox/worker"
)

var quiet = slog.New(slog.DiscardHandler)

// handler registers a handler that returns err for all topics.
func handler(err error, opts ...worker.HandleOption) func(w *worker.Worker) {
	return func(w *worker.Worker) {
		worker.Handle(w, "#", func(context.Context, *worker.Delivery[any]) error { return err }, opts...)
	}
}

func TestDeliverTellsTheOutcome(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		register func(w *worker.Worker)
		cfg      worker.Config
		failed   int // attempts before this one
		want     outboxtest.Result
		says     string
	}{
		"handled":          {register: handler(nil), says: "acknowledged"},
		"failed":           {register: handler(errTest), want: outboxtest.Result{Outcome: outbox.Retry, Delay: time.Second, Err: errTest}, says: "retried after 1s: of the test"},
		"failed again":     {register: handler(errTest), failed: 1, want: outboxtest.Result{Outcome: outbox.Retry, Delay: 10 * time.Second, Err: errTest}},
		"failed too often": {register: handler(errTest), failed: 4, want: outboxtest.Result{Outcome: outbox.DeadLetter, Err: errTest}, says: "dead letter: of the test"},
		"retry after":      {register: handler(worker.RetryAfter(time.Hour, errTest)), want: outboxtest.Result{Outcome: outbox.Retry, Delay: time.Hour, Err: errTest}},
		"aborted":          {register: handler(worker.Abort(errTest)), want: outboxtest.Result{Outcome: outbox.DeadLetter, Err: errTest}},
		"dropped":          {register: handler(worker.Abort(errTest)), cfg: worker.Config{DropAborted: true}, want: outboxtest.Result{Err: errTest}, says: "dropped: "},
		"own retries":      {register: handler(errTest, worker.WithRetries(worker.Retries{Off: true})), want: outboxtest.Result{Outcome: outbox.DeadLetter, Err: errTest}},
		"in order":         {register: handler(errTest), cfg: worker.Config{InOrder: true}, want: outboxtest.Result{Outcome: outbox.Retry, Delay: time.Second, Err: errTest}},
		"of dead letters":  {register: handler(nil), cfg: worker.Config{DeadLetters: true}, failed: 5, says: "acknowledged"},
		"stays dead":       {register: handler(errTest), cfg: worker.Config{DeadLetters: true}, failed: 5, want: outboxtest.Result{Outcome: outbox.Requeue, Err: errTest}, says: "given back: of the test"},
		"short shutdown":   {register: handler(errTest), cfg: worker.Config{ShutdownTimeout: 1}, want: outboxtest.Result{Outcome: outbox.Retry, Delay: time.Second, Err: errTest}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.cfg.Logger = quiet
			opts := []outboxtest.DeliverOption{outboxtest.WithConfig(c.cfg)}
			if c.failed > 0 {
				opts = append(opts, outboxtest.WithFailure(outbox.Failure{Attempts: c.failed, Reason: "before", FirstAt: time.Unix(1, 0)}))
			}
			got := outboxtest.Deliver(t, outbox.Event{Topic: "a"}, c.register, opts...)
			if got.Outcome != c.want.Outcome || got.Delay != c.want.Delay || !errors.Is(got.Err, c.want.Err) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if !strings.HasPrefix(got.String(), c.says) {
				t.Errorf("says %q, want %q", got, c.says)
			}
			hasFailure := got.Outcome == outbox.Retry || got.Outcome == outbox.DeadLetter
			switch f := got.Failure; {
			case (f != nil) != hasFailure:
				t.Errorf("failure %+v", f)
			case f == nil:
			case f.Attempts != c.failed+1, !strings.Contains(f.Reason, "of the test"), f.Handler != "#", f.Queue != "outboxtest":
				t.Errorf("failure %+v", f)
			}
		})
	}
}

func TestDeliverReportsWhatNoHandlerSaw(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		message outbox.Message
		handle  func(context.Context, *worker.Delivery[user]) error
		outcome outbox.Outcome
		says    string
	}{
		"other topic":  {outbox.Message{Topic: "b"}, nil, outbox.DeadLetter, "no handler's pattern matches"},
		"undecodable":  {outbox.Message{Topic: "a", Payload: []byte("{")}, nil, outbox.DeadLetter, "decode application/json"},
		"panic":        {outbox.Message{Topic: "a", Payload: []byte("{}")}, func(context.Context, *worker.Delivery[user]) error { panic("oh") }, outbox.Retry, "panic: oh"},
		"ended thread": {outbox.Message{Topic: "a", Payload: []byte("{}")}, func(context.Context, *worker.Delivery[user]) error { runtime.Goexit(); return nil }, outbox.Retry, "Goexit"},
	} {
		for _, dead := range []bool{false, true} {
			want := c.outcome
			if dead {
				want = outbox.Requeue
			}
			got := outboxtest.Deliver(t, c.message, func(w *worker.Worker) {
				worker.Handle(w, "a", func(ctx context.Context, d *worker.Delivery[user]) error { return c.handle(ctx, d) })
			}, outboxtest.WithConfig(worker.Config{Logger: quiet, DeadLetters: dead}))
			if got.Outcome != want {
				t.Errorf("%s, dead %v: %v", name, dead, got)
			}
			if dead && name == "ended thread" {
				continue // nothing carries the reason
			}
			if got.Err == nil || !strings.Contains(got.Err.Error(), c.says) {
				t.Errorf("%s: %v, want %q", name, got, c.says)
			}
		}
	}
}

func TestDeliverPassesTheMessageAsItIs(t *testing.T) {
	t.Parallel()
	m := emitted[0]
	m.CreatedAt = time.Unix(5, 0)
	var got *worker.Delivery[user]
	result := outboxtest.Deliver(t, m, func(w *worker.Worker) {
		worker.Handle(w, "user.*", func(_ context.Context, d *worker.Delivery[user]) error {
			clear(d.Headers)
			got = d
			return nil
		})
	}, outboxtest.WithFailure(outbox.Failure{Attempts: 2, Reason: "before"}))
	if got.ID != "1" || got.Topic != m.Topic || got.Key != "7" || got.Tenant != "acme" || got.Type != "User" || got.Version != "2" ||
		got.ContentType != m.ContentType || !got.CreatedAt.Equal(m.CreatedAt) || !got.Redelivered || got.Queue != "outboxtest" {
		t.Errorf("got %+v", got)
	}
	if got.Payload.Name != "Ada" || got.ReceivedAt.IsZero() {
		t.Errorf("got %+v", got)
	}
	if m.Headers["a"] != "b" || result.Message.Headers["a"] != "b" || result.Message.ID != "1" {
		t.Errorf("the handler's change shows: %v, %v", m.Headers, result.Message)
	}
}

func TestDeliverEncodesAnEvent(t *testing.T) {
	t.Parallel()
	for contentType, want := range map[string]string{"": `"Ada"`, "text/upper": "ADA"} {
		var got string
		result := outboxtest.Deliver(t, outbox.Event{Topic: "a", ContentType: contentType, Payload: "Ada"}, func(w *worker.Worker) {
			worker.Handle(w, "a", func(_ context.Context, d *worker.Delivery[string]) error {
				got = d.Payload
				return nil
			})
		}, outboxtest.WithConfig(worker.Config{Queue: "mine", Codecs: []outbox.Codec{upper{}}}))
		if result.Outcome != outbox.Ack || string(result.Message.Payload) != want || !strings.EqualFold(got, "ada") {
			t.Errorf("%q: %v, %q, %s", contentType, result, got, result.Message.Payload)
		}
		if result.Message.ID == "" || result.Message.CreatedAt.IsZero() {
			t.Errorf("the message is %+v", result.Message)
		}
	}
}

func TestDeliverRunsTheMiddleware(t *testing.T) {
	t.Parallel()
	outer := func(worker.Handler) worker.Handler {
		return func(context.Context, *worker.Delivery[[]byte]) error { return errTest }
	}
	got := outboxtest.Deliver(t, outbox.Event{Topic: "a"}, handler(nil),
		outboxtest.WithConfig(worker.Config{Logger: quiet, Middleware: []worker.Middleware{outer}}))
	if got.Outcome != outbox.Retry || !errors.Is(got.Err, errTest) {
		t.Errorf("got %v", got)
	}
}

func TestDeliverToAHandlerWithATransaction(t *testing.T) {
	t.Parallel()
	rec := outboxtest.NewRecorder[*sql.Tx](nil)
	ob := outbox.New(rec)
	m := outbox.Message{ID: "0190b5c4", Topic: "order.placed", Payload: []byte(`{}`)}
	fail := true
	register := func(w *worker.Worker) {
		worker.HandleTx(w, rec, "order.*", func(ctx context.Context, tx *sql.Tx, _ *worker.Delivery[user]) error {
			if err := ob.Emit(ctx, tx, outbox.Event{Topic: "order.billed"}); err != nil || fail {
				return errors.Join(errTest, err)
			}
			return nil
		})
	}
	cfg := outboxtest.WithConfig(worker.Config{Logger: quiet})
	if got := outboxtest.Deliver(t, m, register, cfg); got.Outcome != outbox.Retry {
		t.Errorf("got %v", got)
	}
	outboxtest.RequireNotEmitted(t, rec.All(), outboxtest.Want{})
	fail = false
	for range 2 { // the second is known
		if got := outboxtest.Deliver(t, m, register, cfg); got.Outcome != outbox.Ack {
			t.Errorf("got %v", got)
		}
	}
	wantTopics(t, "emitted", rec.All(), "order.billed")
	if got := rec.All()[0].CausationID(); got != m.ID {
		t.Errorf("caused by %q", got)
	}
}

func TestDeliverEndsTheTestOnFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		event    outbox.Event
		register func(w *worker.Worker)
		cfg      worker.Config
		says     string
	}{
		"event":   {outbox.Event{Topic: "a..b"}, handler(nil), worker.Config{}, "Topic"},
		"no one":  {outbox.Event{Topic: "a"}, func(*worker.Worker) {}, worker.Config{}, "there is no handler"},
		"config":  {outbox.Event{Topic: "a"}, handler(nil), worker.Config{Concurrency: -1}, "Concurrency is -1"},
		"codec":   {outbox.Event{Topic: "a"}, handler(nil), worker.Config{Codecs: []outbox.Codec{nil}}, "Codecs[0] is nil"},
		"pattern": {outbox.Event{Topic: "a"}, func(w *worker.Worker) { handler(nil)(w); handler(nil)(w) }, worker.Config{}, "#"},
	} {
		f := &fakeTB{}
		got := outboxtest.Deliver(f, c.event, c.register, outboxtest.WithConfig(c.cfg))
		if !f.failed || !strings.Contains(f.text, c.says) {
			t.Errorf("%s: %q, %v", name, f.text, got)
		}
	}
}

func TestDeliverLogsToTheTest(t *testing.T) {
	t.Parallel()
	f := &fakeTB{}
	outboxtest.Deliver(f, outbox.Event{Topic: "a"}, handler(errTest))
	if f.failed || !strings.Contains(f.log.String(), "of the test") {
		t.Errorf("log %q, %s", f.log.String(), f.text)
	}
}

func TestDeliverInABubble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		got := outboxtest.Deliver(t, outbox.Event{Topic: "a"}, func(w *worker.Worker) {
			worker.Handle(w, "a", func(ctx context.Context, _ *worker.Delivery[any]) error {
				<-ctx.Done()
				return fmt.Errorf("gave up: %w", context.Cause(ctx))
			}, worker.WithTimeout(time.Hour))
		}, outboxtest.WithConfig(worker.Config{Logger: quiet}))
		if got.Outcome != outbox.Retry || time.Since(start) != time.Hour {
			t.Errorf("after %s: %v", time.Since(start), got)
		}
	})
}
