package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/worker"
)

// attempts runs a handler on one message for an hour and returns when it was
// called, and the dead letter, if any.
func attempts(t *testing.T, cfg worker.Config, fail func(attempt int) error, opts ...worker.HandleOption) (calls []string, dead *outbox.Failure) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, cfg)
		begin := time.Now()
		var got record
		worker.Handle(b.worker, "user.*", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			got.add(fmt.Sprintf("%d at %s", d.Attempt, time.Since(begin)))
			if f := d.Failure; d.Attempt > 1 && (f == nil || f.Attempts != d.Attempt-1 || f.Handler != "user.*" || f.Queue != queueName || !f.FirstAt.Equal(begin)) {
				t.Errorf("attempt %d has the failure %+v", d.Attempt, f)
			}
			return fail(d.Attempt)
		}, opts...)
		b.start()
		b.send(text("1", "user.created", "k"))
		time.Sleep(time.Hour)
		b.endClean()
		calls = got.all()
		if letters := b.broker.DeadLetters(queueName); len(letters) == 1 {
			dead = &letters[0].Failure
		} else if len(letters) > 1 {
			t.Errorf("%d dead letters", len(letters))
		}
		if n := len(b.left()) + len(b.broker.Waiting(queueName)); n > 0 {
			t.Errorf("%d messages are left", n)
		}
	})
	return calls, dead
}

var errNoLuck = errors.New("no luck")

func TestErrorDecidesTheOutcome(t *testing.T) {
	t.Parallel()
	always := func(err error) func(int) error { return func(int) error { return err } }
	once := func(err error) func(int) error {
		return func(attempt int) error {
			if attempt == 1 {
				return err
			}
			return nil
		}
	}
	two := worker.Retries{Delays: []time.Duration{2 * time.Second, 5 * time.Second}}
	off := worker.Retries{Off: true, Delays: []time.Duration{2 * time.Second}}
	for name, test := range map[string]struct {
		cfg  worker.Config
		opts []worker.HandleOption
		fail func(int) error
		want string
		dead int // attempts of the dead letter, 0 for none
	}{
		"by default five attempts":       {fail: always(errNoLuck), want: "1 at 0s, 2 at 1s, 3 at 11s, 4 at 1m11s, 5 at 6m11s", dead: 5},
		"delays of its own":              {cfg: worker.Config{Retries: two}, fail: always(errNoLuck), want: "1 at 0s, 2 at 2s, 3 at 7s", dead: 3},
		"success in the end":             {cfg: worker.Config{Retries: two}, fail: once(errNoLuck), want: "1 at 0s, 2 at 2s"},
		"the last delay repeats":         {cfg: worker.Config{Retries: worker.Retries{Delays: []time.Duration{time.Second}, MaxAttempts: 4}}, fail: always(errNoLuck), want: "1 at 0s, 2 at 1s, 3 at 2s, 4 at 3s", dead: 4},
		"fewer attempts than delays":     {cfg: worker.Config{Retries: worker.Retries{MaxAttempts: 2}}, fail: always(errNoLuck), want: "1 at 0s, 2 at 1s", dead: 2},
		"at once, and bounded":           {cfg: worker.Config{Retries: worker.Retries{Delays: []time.Duration{0, 0, 0}}}, fail: always(errNoLuck), want: "1 at 0s, 2 at 0s, 3 at 0s, 4 at 0s", dead: 4},
		"off":                            {cfg: worker.Config{Retries: off}, fail: always(errNoLuck), want: "1 at 0s", dead: 1},
		"off for one handler":            {cfg: worker.Config{Retries: two}, opts: []worker.HandleOption{worker.WithRetries(off)}, fail: always(errNoLuck), want: "1 at 0s", dead: 1},
		"on for one handler":             {cfg: worker.Config{Retries: off}, opts: []worker.HandleOption{worker.WithRetries(two)}, fail: always(errNoLuck), want: "1 at 0s, 2 at 2s, 3 at 7s", dead: 3},
		"Retry where retries are off":    {cfg: worker.Config{Retries: off}, fail: always(worker.Retry(errNoLuck)), want: "1 at 0s, 2 at 2s", dead: 2},
		"Retry of nothing":               {cfg: worker.Config{Retries: two}, fail: once(worker.Retry(nil)), want: "1 at 0s, 2 at 2s"},
		"RetryAfter":                     {cfg: worker.Config{Retries: off}, fail: once(worker.RetryAfter(7*time.Second, errNoLuck)), want: "1 at 0s, 2 at 7s"},
		"RetryAfter is bounded":          {cfg: worker.Config{Retries: two}, fail: always(worker.RetryAfter(7*time.Second, errNoLuck)), want: "1 at 0s, 2 at 7s, 3 at 14s", dead: 3},
		"RetryAfter nothing":             {cfg: worker.Config{Retries: two}, fail: once(worker.RetryAfter(-1, nil)), want: "1 at 0s, 2 at 0s"},
		"Retry in a wrapped join":        {cfg: worker.Config{Retries: off}, fail: once(fmt.Errorf("a: %w", errors.Join(errNoLuck, worker.RetryAfter(3*time.Second, nil)))), want: "1 at 0s, 2 at 3s"},
		"Abort":                          {cfg: worker.Config{Retries: two}, fail: always(worker.Abort(errNoLuck)), want: "1 at 0s", dead: 1},
		"Abort of nothing":               {cfg: worker.Config{Retries: two}, fail: always(worker.Abort(nil)), want: "1 at 0s", dead: 1},
		"Abort around Retry":             {cfg: worker.Config{Retries: two}, fail: always(worker.Abort(worker.Retry(errNoLuck))), want: "1 at 0s", dead: 1},
		"Abort within Retry":             {cfg: worker.Config{Retries: two}, fail: always(worker.Retry(worker.Abort(errNoLuck))), want: "1 at 0s", dead: 1},
		"Abort beside Retry":             {cfg: worker.Config{Retries: two}, fail: always(errors.Join(worker.Retry(nil), worker.Abort(nil))), want: "1 at 0s", dead: 1},
		"Abort, dropped":                 {cfg: worker.Config{DropAborted: true}, fail: always(worker.Abort(errNoLuck)), want: "1 at 0s"},
		"another error is not dropped":   {cfg: worker.Config{DropAborted: true, Retries: off}, fail: always(errNoLuck), want: "1 at 0s", dead: 1},
		"in order, in its place":         {cfg: worker.Config{InOrder: true, Retries: two}, fail: always(errNoLuck), want: "1 at 0s, 2 at 2s, 3 at 7s", dead: 3},
		"in order, success in the end":   {cfg: worker.Config{InOrder: true, Retries: two}, fail: once(errNoLuck), want: "1 at 0s, 2 at 2s"},
		"undeliverable, said by handler": {cfg: worker.Config{Retries: two}, fail: always(fmt.Errorf("a: %w", worker.ErrUndeliverable)), want: "1 at 0s", dead: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls, dead := attempts(t, test.cfg, test.fail, test.opts...)
			if got := strings.Join(calls, ", "); got != test.want {
				t.Errorf("attempts %s\nwant     %s", got, test.want)
			}
			switch {
			case test.dead == 0 && dead != nil:
				t.Errorf("a dead letter %+v", dead)
			case test.dead > 0 && (dead == nil || dead.Attempts != test.dead || dead.Reason == "" || dead.LastAt.Before(dead.FirstAt)):
				t.Errorf("dead letter %+v, want one of %d attempts", dead, test.dead)
			}
		})
	}
}

func TestForcedErrorsShowWhatTheyWrap(t *testing.T) {
	t.Parallel()
	for _, err := range []error{worker.Retry(errNoLuck), worker.RetryAfter(1, errNoLuck), worker.Abort(errNoLuck)} {
		if !errors.Is(err, errNoLuck) || err.Error() != "no luck" {
			t.Errorf("%T is %q and does not wrap its cause", err, err)
		}
	}
	for _, err := range []error{worker.Retry(nil), worker.Abort(nil)} {
		if !strings.Contains(err.Error(), "the handler") {
			t.Errorf("%T of nothing says %q", err, err)
		}
	}
}

func TestExponentialDelays(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		first, most time.Duration
		n           int
		want        []time.Duration
	}{
		{time.Second, 10 * time.Second, 6, []time.Duration{1e9, 2e9, 4e9, 8e9, 10e9, 10e9}},
		{time.Minute, time.Second, 2, []time.Duration{1e9, 1e9}},
		{time.Second, time.Hour, -1, []time.Duration{}},
		{time.Second, 1<<63 - 1, 100, nil},
	} {
		got := worker.Exponential(test.first, test.most, test.n)
		if test.want != nil && !slices.Equal(got, test.want) {
			t.Errorf("got %v, want %v", got, test.want)
		}
		if !slices.IsSorted(got) {
			t.Errorf("%v is not sorted", got)
		}
	}
}

func TestJitterLengthensDelays(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 20 {
		calls, _ := attempts(t, worker.Config{Retries: worker.Retries{Delays: []time.Duration{10 * time.Second}, Jitter: 0.5}}, func(int) error { return errNoLuck })
		at, err := time.ParseDuration(strings.TrimPrefix(calls[1], "2 at "))
		if err != nil || at < 10*time.Second || at > 15*time.Second {
			t.Fatalf("second attempt %s (%v), want 10s to 15s", at, err)
		}
		seen[calls[1]] = true
	}
	if len(seen) < 10 {
		t.Errorf("only %d different delays of 20", len(seen))
	}
}

func TestMessageIsAsItWasInEveryAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{})
		m := outbox.Message{ID: "1", Topic: "user.created", Key: "k", Tenant: "t", Type: "T", Version: "1", ContentType: "text/plain",
			Headers: map[string]string{"traceparent": "00-1-2-01"}, Payload: []byte("p"), CreatedAt: time.Now().UTC()}
		var got []worker.Metadata
		worker.Handle(b.worker, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			d.ReceivedAt, d.Failure, d.Redelivered = time.Time{}, nil, false
			got = append(got, d.Metadata)
			return errNoLuck
		})
		b.start()
		b.send(m)
		time.Sleep(time.Hour)
		b.endClean()
		for i := range got {
			got[i].Attempt = 1
			if fmt.Sprint(got[i]) != fmt.Sprint(got[0]) {
				t.Errorf("attempt %d: %+v, was %+v", i+1, got[i], got[0])
			}
		}
		if dead := b.broker.DeadLetters(queueName); len(got) != 5 || len(dead) != 1 || fmt.Sprint(dead[0].Message) != fmt.Sprint(m) {
			t.Errorf("%d attempts, dead %+v; want 5 and %+v", len(got), dead, m)
		}
	})
}

// TestRefusedRetryIsSettledAgain: without running the handler again.
func TestRefusedRetryIsSettledAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Concurrency: 1})
		begin := time.Now()
		var got record
		worker.Handle(b.worker, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			got.add(fmt.Sprintf("%s %d at %s", d.ID, d.Attempt, time.Since(begin)))
			if d.ID == "good" || d.Attempt == 2 {
				return nil
			}
			return errNoLuck
		})
		b.broker.RefuseSettle(func(_ *outbox.Message, s outbox.Settlement) error {
			if s.Outcome == outbox.Retry && time.Since(begin) < 2500*time.Millisecond {
				return errors.New("the delay queue is full")
			}
			return nil
		})
		b.start()
		b.send(text("bad", "a", "k"))
		b.send(text("good", "a", "k"))
		time.Sleep(time.Minute)
		b.endClean()
		if want := []string{"bad 1 at 0s", "good 1 at 3s", "bad 2 at 4s"}; !slices.Equal(got.all(), want) {
			t.Errorf("handled %q, want %q", got.all(), want)
		}
		if !strings.Contains(b.log.String(), "the delay queue is full") {
			t.Errorf("log:\n%s", b.log)
		}
	})
}

func TestDeadLettersAreHandledByAWorkerOfTheirOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Retries: worker.Retries{Off: true}})
		worker.Handle(b.worker, "#", func(context.Context, *worker.Delivery[[]byte]) error { return errNoLuck })
		b.start()
		b.send(text("1", "a.b", ""))
		b.send(text("2", "a.c", ""))
		synctest.Wait()
		b.endClean()

		w := worker.New(b.broker.Subscriber(), &worker.Config{Queue: queueName, DeadLetters: true, Logger: quiet()})
		var got record
		begin := time.Now()
		worker.Handle(w, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			got.add(fmt.Sprintf("%s %s: %s, at %s", d.ID, d.Topic, d.Failure.Reason, time.Since(begin)))
			if d.ID == "2" && time.Since(begin) < time.Second {
				return errNoLuck
			}
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
		list := got.all()
		slices.Sort(list)
		if want := []string{"1 a.b: no luck, at 0s", "2 a.c: no luck, at 0s", "2 a.c: no luck, at 10s"}; !slices.Equal(list, want) {
			t.Errorf("handled %q, want %q", list, want)
		}
		if dead := b.broker.DeadLetters(queueName); len(dead) != 0 {
			t.Errorf("left %+v", dead)
		}
	})
}

// TestRefusedDeadLetterKeepsTheOrder: its successors wait until it is where it
// belongs.
func TestRefusedDeadLetterKeepsTheOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{InOrder: true, Retries: worker.Retries{Off: true}})
		begin := time.Now()
		var got record
		worker.Handle(b.worker, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			got.add(d.ID)
			if d.ID == "1" {
				return errNoLuck
			}
			return nil
		})
		b.broker.RefuseSettle(func(*outbox.Message, outbox.Settlement) error {
			if time.Since(begin) < 5*time.Minute {
				return errors.New("full")
			}
			return nil
		})
		b.start()
		for _, id := range []string{"1", "2", "3"} {
			b.send(text(id, "a", "k"))
		}
		time.Sleep(4 * time.Minute)
		if !slices.Equal(got.all(), []string{"1"}) {
			t.Errorf("handled %q while the first could not be buried", got.all())
		}
		time.Sleep(4 * time.Minute)
		b.endClean()
		if dead := b.broker.DeadLetters(queueName); !slices.Equal(got.all(), []string{"1", "2", "3"}) || len(dead) != 1 {
			t.Errorf("handled %q, dead %+v", got.all(), dead)
		}
	})
}

// TestStopGivesBackWhatCannotBeSettled: also when the stop comes while it is being
// settled.
func TestStopGivesBackWhatCannotBeSettled(t *testing.T) {
	t.Parallel()
	for name, slow := range map[string]time.Duration{"held": 0, "being settled": time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, worker.Config{})
				worker.Handle(b.worker, "#", func(context.Context, *worker.Delivery[[]byte]) error { return errNoLuck })
				b.broker.RefuseSettle(func(*outbox.Message, outbox.Settlement) error {
					time.Sleep(slow)
					return errors.New("full")
				})
				b.start()
				b.send(text("1", "a", "k"))
				b.send(text("2", "a", "k"))
				time.Sleep(slow + 1500*time.Millisecond)
				b.endClean()
				if !slices.Equal(b.left(), []string{"1", "2"}) {
					t.Errorf("left %q, want both", b.left())
				}
			})
		})
	}
}

// brokenWrap is an error of which each method panics when it is nil.
type brokenWrap struct{ err error }

func (e *brokenWrap) Error() string { return e.err.Error() }
func (e *brokenWrap) Unwrap() error { return e.err }

func TestErrorsThatPanicAreFailures(t *testing.T) {
	t.Parallel()
	var none *brokenWrap
	calls, dead := attempts(t, worker.Config{Retries: worker.Retries{Delays: []time.Duration{0}}}, func(int) error { return none })
	if len(calls) != 2 || dead == nil || !strings.Contains(dead.Reason, "whose methods panic") {
		t.Errorf("attempts %q, dead %+v", calls, dead)
	}
}

func TestAttemptsOfAForeignHeader(t *testing.T) {
	t.Parallel()
	for _, before := range []int{1<<63 - 1, -1, 1 << 20} {
		var settled []outbox.Settlement
		w := worker.New(fakeSubscriber(func(ctx context.Context, _ outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
			ready()
			done := make(chan struct{})
			receive(&outbox.Received{Message: text("1", "a", ""), Failure: &outbox.Failure{Attempts: before}, Settle: func(s outbox.Settlement) error {
				settled = append(settled, s)
				close(done)
				return nil
			}})
			<-done
			return errNoLuck
		}), &worker.Config{Queue: "q", Logger: quiet()})
		worker.Handle(w, "#", func(context.Context, *worker.Delivery[[]byte]) error { return errNoLuck })
		if err := w.Run(t.Context()); !errors.Is(err, errNoLuck) || len(settled) != 1 {
			t.Errorf("%d attempts: settled %+v, %v", before, settled, err)
		}
	}
}

func TestRetryAfterOfADeadLetter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{DeadLetters: true})
		dying := worker.New(b.broker.Subscriber(), &worker.Config{Queue: queueName, Retries: worker.Retries{Off: true}, Logger: quiet()})
		worker.Handle(dying, "#", func(context.Context, *worker.Delivery[[]byte]) error { return errNoLuck })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() {
			<-dying.Ready()
			b.send(text("1", "a", ""))
		}()
		if err := dying.Run(ctx); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		var got record
		worker.Handle(b.worker, "#", func(context.Context, *worker.Delivery[[]byte]) error {
			got.add(time.Since(begin).String())
			return worker.RetryAfter(time.Hour, errNoLuck)
		})
		b.start()
		time.Sleep(150 * time.Minute)
		b.endClean()
		if want := []string{"0s", "1h0m0s", "2h0m0s"}; !slices.Equal(got.all(), want) {
			t.Errorf("handled at %q, want %q", got.all(), want)
		}
	})
}

func TestManyDelaysAreNoFault(t *testing.T) {
	t.Parallel()
	var got outbox.Subscription
	ctx, cancel := context.WithCancel(t.Context())
	w := worker.New(fakeSubscriber(func(_ context.Context, s outbox.Subscription, _ func(), _ func(*outbox.Received)) error {
		got = s
		cancel()
		return s.Validate()
	}), &worker.Config{Queue: "q", Logger: quiet(), Retries: worker.Retries{Delays: worker.Exponential(time.Second, 24*time.Hour, 20)}})
	worker.Handle(w, "#", handleNothing, worker.WithRetries(worker.Retries{Delays: []time.Duration{0, 2 * time.Second, 3 * time.Second}}))
	if err := w.Run(ctx); err != nil || len(got.RetryDelays) != outbox.MaxRetryDelays || !slices.Contains(got.RetryDelays, 3*time.Second) {
		t.Errorf("delays %v, %v", got.RetryDelays, err)
	}
}
