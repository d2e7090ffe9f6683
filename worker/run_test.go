package worker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/worker"
)

func TestSuccessIsAcknowledged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{})
		var got record
		worker.Handle(b.worker, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			got.add(d.ID)
			return nil
		})
		b.start()
		b.send(text("1", "a", ""))
		synctest.Wait()
		b.broker.Cut() // what is not settled comes again
		time.Sleep(time.Hour)
		b.endClean()
		if !slices.Equal(got.all(), []string{"1"}) || len(b.left()) != 0 {
			t.Errorf("handled %q, left %q", got.all(), b.left())
		}
	})
}

func TestFailureIsRetriedAfterItsDelay(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() error{
		"error": func() error { return errors.New("no luck") },
		"panic": func() error { panic("no luck") },
		"Goexit": func() error {
			runtime.Goexit()
			return nil
		},
		"nil pointer": func() error { var e *user; e.Name = ""; return nil }, //nolint:govet // meant to panic
		"panic(nil)":  func() error { panic(nil) },                           //nolint:govet // as above
		"error that panics": func() error {
			var e *brokenError
			return e
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { testFailure(t, fail) })
		})
	}
}

type brokenError struct{ text string }

func (e *brokenError) Error() string { return e.text }

func testFailure(t *testing.T, fail func() error) {
	b := newBench(t, worker.Config{Concurrency: 1, Retries: worker.Retries{Delays: []time.Duration{3 * time.Second}}})
	begin := time.Now()
	var got record
	worker.Handle(b.worker, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
		got.add(fmt.Sprintf("%s %d %s", d.ID, d.Attempt, time.Since(begin)))
		if d.ID == "bad" && d.Attempt == 1 {
			return fail()
		}
		return nil
	})
	b.start()
	b.send(text("bad", "a", "k"))
	b.send(text("good", "a", ""))
	synctest.Wait()
	if want := []string{"bad 1 0s", "good 1 0s"}; !slices.Equal(got.all(), want) {
		t.Errorf("at first handled %q, want %q: the failed message must not hold the only slot", got.all(), want)
	}
	time.Sleep(time.Minute)
	b.endClean()
	if want := []string{"bad 1 0s", "good 1 0s", "bad 2 3s"}; !slices.Equal(got.all(), want) {
		t.Errorf("handled %q, want %q", got.all(), want)
	}
	if len(b.left()) != 0 {
		t.Errorf("left %q", b.left())
	}
	if n := strings.Count(b.log.String(), "message failed"); n != 1 {
		t.Errorf("%d failures in the log:\n%s", n, b.log)
	}
}

func TestPanicIsLoggedWithItsStack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{})
		worker.Handle(b.worker, "#", panickingHandler)
		b.start()
		b.send(text("1", "a", ""))
		synctest.Wait()
		b.endClean()
		log := b.log.String()
		for _, want := range []string{"level=ERROR", "id=1", "no luck", "panickingHandler", "queue=" + queueName} {
			if !strings.Contains(log, want) {
				t.Errorf("no %q in the log:\n%s", want, log)
			}
		}
	})
}

func panickingHandler(context.Context, *worker.Delivery[[]byte]) error { panic("no luck") }

func TestConcurrencyIsReachedAndNeverExceeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit = 7
		b := newBench(t, worker.Config{Concurrency: limit})
		var mu sync.Mutex
		running, most, handled := 0, 0, 0
		add := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			running += n
			most = max(most, running)
		}
		worker.Handle(b.worker, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			add(1)
			time.Sleep(time.Second)
			add(-1)
			mu.Lock()
			defer mu.Unlock()
			if handled++; handled%5 == 0 {
				return errors.New("no luck")
			}
			return nil
		})
		b.start()
		for i := range 140 {
			key := ""
			if i%2 == 0 {
				key = fmt.Sprint(i % 20)
			}
			b.send(text(fmt.Sprint(i), "a", key))
		}
		time.Sleep(time.Minute) // 140 messages and some again, 7 in a second
		b.endClean()
		if most != limit || handled < 140 {
			t.Errorf("up to %d handlers ran at once, want %d; %d messages, want 140", most, limit, handled)
		}
	})
}

func TestMessagesOfAKeyAreHandledInOrderOneAtATime(t *testing.T) {
	t.Parallel()
	const keys, each = 50, 60
	b := newBench(t, worker.Config{Concurrency: 16, Prefetch: 500})
	var mu sync.Mutex
	running := map[string]bool{}
	next := map[string]int{}
	done := make(chan struct{})
	left := keys * each
	worker.Handle(b.worker, "#", func(_ context.Context, d *worker.Delivery[int]) error {
		lane := d.Tenant + "/" + d.Key
		mu.Lock()
		if running[lane] {
			t.Errorf("two messages of %s at once", lane)
		}
		running[lane] = true
		mu.Unlock()
		runtime.Gosched()
		mu.Lock()
		defer mu.Unlock()
		running[lane] = false
		if d.Payload != next[lane] {
			t.Errorf("%s: got number %d, want %d", lane, d.Payload, next[lane])
		}
		next[lane]++
		if left--; left == 0 {
			close(done)
		}
		return nil
	})
	b.start()
	for n := range each {
		for k := range keys {
			b.send(outbox.Message{Topic: "a", Tenant: fmt.Sprint(k % 2), Key: fmt.Sprint(k / 2), Payload: fmt.Append(nil, n)})
		}
	}
	<-done
	b.endClean()
	if n := len(next); n != keys {
		t.Errorf("%d keys, want %d", n, keys)
	}
}

func TestSlowKeyDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Concurrency: 2})
		var got record
		worker.Handle(b.worker, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			if d.Key == "slow" {
				time.Sleep(time.Minute)
			}
			got.add(d.ID)
			return nil
		})
		b.start()
		for i := range 10 {
			b.send(text(fmt.Sprintf("slow%d", i), "a", "slow"))
		}
		var want []string
		for i := range 40 {
			id := fmt.Sprint(i)
			want = append(want, id)
			b.send(text(id, "a", "key"+fmt.Sprint(i%20)))
		}
		synctest.Wait() // no time passes
		if !slices.Equal(got.all(), want) {
			t.Errorf("while one key was slow, handled %q, want %q", got.all(), want)
		}
		time.Sleep(10*time.Minute + time.Second)
		b.endClean()
		if n := len(got.all()); n != 50 {
			t.Errorf("handled %d, want 50", n)
		}
	})
}

func TestSameKeyOfAnotherTenantIsAnotherOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{})
		var got record
		worker.Handle(b.worker, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			got.add(d.ID)
			time.Sleep(time.Second)
			return nil
		})
		b.start()
		for i, tenant := range []string{"x", "y", "x"} {
			m := text(fmt.Sprint(i), "a", "k")
			m.Tenant = tenant
			b.send(m)
		}
		synctest.Wait()
		if got := got.all(); len(got) != 2 || slices.Contains(got, "2") {
			t.Errorf("%q run at once, want 0 and 1", got)
		}
		b.endClean()
	})
}

func TestSuccessorsGoOnBeforeAFailedMessage(t *testing.T) {
	t.Parallel()
	testSuccessors(t, false, []string{"k1 0s", "k2 0s", "other 0s"}, []string{"k1 10s"})
}

func TestSuccessorsOfAKeyWaitInOrder(t *testing.T) {
	t.Parallel()
	testSuccessors(t, true, []string{"k1 0s", "other 0s"}, []string{"k1 10s", "k2 10s"})
}

// testSuccessors handles k1, which fails at first, and k2 after it, and wants what
// is handled before and after the delay.
func testSuccessors(t *testing.T, inOrder bool, before, after []string) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Concurrency: 4, InOrder: inOrder, Retries: worker.Retries{Delays: []time.Duration{10 * time.Second}}})
		begin := time.Now()
		var got record
		worker.Handle(b.worker, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			got.add(fmt.Sprintf("%s %s", d.ID, time.Since(begin)))
			if d.ID == "k1" && d.Attempt == 1 {
				return errors.New("no luck")
			}
			return nil
		})
		b.start()
		b.send(text("k1", "a", "k"))
		b.send(text("k2", "a", "k"))
		b.send(text("other", "a", "o"))
		time.Sleep(9 * time.Second)
		early := got.all()
		slices.Sort(early)
		if !slices.Equal(early, before) {
			t.Errorf("before the delay handled %q, want %q", early, before)
		}
		time.Sleep(time.Minute)
		b.endClean()
		if late := got.all()[len(early):]; !slices.Equal(late, after) {
			t.Errorf("after the delay handled %q, want %q", late, after)
		}
	})
}

func TestPrefetchBoundsWhatTheWorkerHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Concurrency: 2, Prefetch: 5})
		worker.Handle(b.worker, "#", func(context.Context, *worker.Delivery[[]byte]) error {
			time.Sleep(time.Second)
			return nil
		})
		b.start()
		for i := range 20 {
			b.send(text(fmt.Sprint(i), "a", "k"))
		}
		synctest.Wait()
		if n := len(b.left()); n != 15 {
			t.Errorf("%d messages wait at the broker, want 15", n)
		}
		b.endClean()
	})
}

// TestLostMessagesAreNotHandled: those that wait when the connection is lost come
// again, and are not handled twice.
func TestLostMessagesAreNotHandled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Concurrency: 1})
		var got record
		worker.Handle(b.worker, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			got.add(d.ID)
			time.Sleep(time.Second)
			return nil
		})
		b.start()
		for _, id := range []string{"1", "2", "3"} {
			b.send(text(id, "a", "k"))
		}
		synctest.Wait()
		b.broker.Cut()
		time.Sleep(time.Minute)
		b.endClean()
		if want := []string{"1", "1", "2", "3"}; !slices.Equal(got.all(), want) {
			t.Errorf("handled %q, want %q: only what ran at the cut is handled twice", got.all(), want)
		}
	})
}

func TestUnsettledMessageComesAgainAfterACut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{})
		var got record
		worker.Handle(b.worker, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			got.add(fmt.Sprint("begin ", d.Redelivered))
			time.Sleep(time.Second)
			got.add("end")
			return nil
		})
		b.start()
		b.send(text("1", "a", "k"))
		synctest.Wait()
		b.broker.Cut()
		time.Sleep(time.Minute)
		b.endClean()
		if want := []string{"begin false", "end", "begin true", "end"}; !slices.Equal(got.all(), want) {
			t.Errorf("got %q, want %q: the second delivery waits for the first", got.all(), want)
		}
		if !strings.Contains(b.log.String(), "message not settled") {
			t.Errorf("the log does not tell of the lost acknowledgement:\n%s", b.log)
		}
	})
}
