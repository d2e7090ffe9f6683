package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/worker"
)

var (
	errPassing = errors.New("serialization failure")
	errLasting = errors.New("unique violation")
)

// fakeTx is a transaction of a fakeInbox: what it writes counts when it commits.
type fakeTx struct{ writes []string }

// fakeInbox is an inbox in memory whose database fails as it is told.
type fakeInbox struct {
	fail func() error // of the next commit, nil for none

	mu     sync.Mutex
	known  map[string]bool
	writes []string
	purges []string
	old    int // rows to be purged
}

func (f *fakeInbox) Once(ctx context.Context, consumer, id string, fn func(context.Context, *fakeTx) error) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := consumer + "/" + id
	if f.known[key] {
		return false, nil
	}
	var tx fakeTx
	if err := fn(ctx, &tx); err != nil {
		return true, err
	}
	if f.fail != nil {
		if err := f.fail(); err != nil {
			return true, fmt.Errorf("commit: %w", err)
		}
	}
	if f.known == nil {
		f.known = map[string]bool{}
	}
	f.known[key] = true
	f.writes = append(f.writes, tx.writes...)
	return true, nil
}

func (f *fakeInbox) Transient(err error) bool { return errors.Is(err, errPassing) }

func (f *fakeInbox) PurgeInbox(_ context.Context, age time.Duration, limit int) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := min(f.old, limit)
	f.old -= n
	f.purges = append(f.purges, fmt.Sprintf("%d of %s", n, age))
	return n, nil
}

func TestHandleTxRunsOnceForEachID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{MessageID: worker.IDFromHeaders("cap-msg-id")})
		in := &fakeInbox{}
		worker.HandleTx(b.worker, in, "#", func(_ context.Context, tx *fakeTx, d *worker.Delivery[user]) error {
			tx.writes = append(tx.writes, d.ID+" "+d.Payload.Name)
			if d.Payload.Name == "late" && d.Attempt < 3 {
				return errLasting
			}
			return nil
		})
		b.start()
		send := func(id, header, name string) {
			m := outbox.Message{ID: id, Topic: "a", Key: "k", Payload: []byte(`{"name":"` + name + `"}`)}
			if header != "" {
				m.Headers = map[string]string{"Cap-Msg-Id": header}
			}
			b.send(m)
		}
		long := strings.Repeat("x", 300)
		send("1", "", "first")
		send("1", "", "again")
		send("2", "1", "known by its header")
		send("3", "", "late")
		send("3", "", "late too")
		send("", "", "nameless")
		send(long, "", "long")
		send(long, "", "long again")
		send(long+"x", "", "longer")
		send("zero\x00", "", "zero")
		time.Sleep(time.Hour)
		b.endClean()
		want := []string{"1 first", "3 late too", long + " long", long + "x longer", "zero\x00 zero"}
		if !slices.Equal(in.writes, want) {
			t.Errorf("written %q, want %q", in.writes, want)
		}
		for key := range in.known {
			consumer, id, _ := strings.Cut(key, "/")
			if consumer != queueName || len(id) > 255 || strings.Contains(id, "\x00") {
				t.Errorf("the inbox got consumer %q and id %q", consumer, id)
			}
		}
		dead := b.broker.DeadLetters(queueName)
		if len(dead) != 1 || !strings.Contains(dead[0].Failure.Reason, "no id") || len(b.left()) != 0 {
			t.Errorf("dead %+v, left %q; want the nameless one dead", dead, b.left())
		}
	})
}

func TestPassingDatabaseErrorsAreNoAttempts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fail     func(since time.Duration) error
		attempts int
		dead     bool
	}{
		"passes":          {func(d time.Duration) error { return errorUntil(d, 20*time.Second, errPassing) }, 1, false},
		"lasts too long":  {func(d time.Duration) error { return errorUntil(d, 100*time.Second, errPassing) }, 3, false},
		"never passes":    {func(time.Duration) error { return errPassing }, 3, true},
		"lasting":         {func(time.Duration) error { return errLasting }, 3, true},
		"passing, forced": {func(time.Duration) error { return worker.Abort(errPassing) }, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, worker.Config{Retries: worker.Retries{Delays: []time.Duration{time.Second, time.Minute}}})
				begin := time.Now()
				in := &fakeInbox{fail: func() error { return test.fail(time.Since(begin)) }}
				attempts := 0
				worker.HandleTx(b.worker, in, "#", func(_ context.Context, tx *fakeTx, d *worker.Delivery[map[string]int]) error {
					if d.Payload["runs"]++; d.Payload["runs"] != 1 {
						t.Error("the payload is that of an earlier run")
					}
					attempts = d.Attempt
					tx.writes = append(tx.writes, "w")
					return nil
				})
				b.start()
				b.send(outbox.Message{ID: "1", Topic: "a", Payload: []byte(`{"runs":0}`)})
				time.Sleep(time.Hour)
				b.endClean()
				if dead := b.broker.DeadLetters(queueName); attempts != test.attempts || (len(dead) == 1) != test.dead || len(in.writes) == 1 == test.dead {
					t.Errorf("%d attempts, dead letters %+v, written %q; want %d, dead %v", attempts, dead, in.writes, test.attempts, test.dead)
				}
			})
		})
	}
}

// TestDatabaseTimeoutBeginsWithTheFirstError: a slow handler has its second try.
func TestDatabaseTimeoutBeginsWithTheFirstError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{DatabaseTimeout: 10 * time.Second, Retries: worker.Retries{Off: true}})
		runs := 0
		in := &fakeInbox{fail: func() error {
			if runs++; runs == 1 {
				return errPassing
			}
			return nil
		}}
		worker.HandleTx(b.worker, in, "#", func(_ context.Context, tx *fakeTx, _ *worker.Delivery[[]byte]) error {
			time.Sleep(time.Minute)
			tx.writes = append(tx.writes, "w")
			return nil
		})
		b.start()
		b.send(text("1", "a", ""))
		time.Sleep(time.Hour)
		b.endClean()
		if len(in.writes) != 1 {
			t.Errorf("written %q, want it once; dead %+v", in.writes, b.broker.DeadLetters(queueName))
		}
	})
}

// TestMessageIDIsWrittenOnce: what an attempt in order has left behind reads it.
func TestMessageIDIsWrittenOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{
			InOrder: true, Retries: worker.Retries{Delays: []time.Duration{0}}, MessageID: func(*outbox.Message) string { return "other" },
		})
		var left sync.WaitGroup
		worker.Handle(b.worker, "#", func(ctx context.Context, d *worker.Delivery[[]byte]) error {
			left.Go(func() {
				if id := outbox.CorrelationID(ctx); id != "other" {
					t.Errorf("id %q", id)
				}
			})
			return errNoLuck
		})
		b.start()
		b.send(text("1", "a", ""))
		time.Sleep(time.Minute)
		b.endClean()
		left.Wait()
	})
}

func errorUntil(now, end time.Duration, err error) error {
	if now < end {
		return err
	}
	return nil
}

func TestStopEndsTheTriesOfATransaction(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{ShutdownTimeout: time.Second})
		in := &fakeInbox{fail: func() error { return errPassing }}
		worker.HandleTx(b.worker, in, "#", func(context.Context, *fakeTx, *worker.Delivery[[]byte]) error { return nil })
		b.start()
		b.send(text("1", "a", ""))
		time.Sleep(5 * time.Second)
		begin := time.Now()
		b.endClean()
		if d := time.Since(begin); d > 2*time.Second || !slices.Equal(b.left(), []string{"1"}) {
			t.Errorf("stopped after %s, left %q; want the message given back after 1s", d, b.left())
		}
	})
}

func TestInboxIsPurgedInChunks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := &fakeInbox{old: 2500}
		w := worker.New(fakeSubscriber(func(ctx context.Context, _ outbox.Subscription, ready func(), _ func(*outbox.Received)) error {
			ready()
			<-ctx.Done()
			return nil
		}), &worker.Config{Queue: "q", InboxRetention: 72 * time.Hour, Logger: quiet()})
		nop := func(context.Context, *fakeTx, *worker.Delivery[[]byte]) error { return nil }
		worker.HandleTx(w, in, "a", nop)
		worker.HandleTx(w, in, "b", nop)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Hour)
		defer cancel()
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
		want := []string{"1000 of 72h0m0s", "1000 of 72h0m0s", "500 of 72h0m0s", "0 of 72h0m0s"}
		if len(in.purges) < 4 || !slices.Equal(in.purges[:4], want) || len(in.purges) > 32 {
			t.Errorf("purged %q, want %q and some more nothing", in.purges, want)
		}
	})
}

func TestInboxIsKeptForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{InboxRetention: -1})
		in := &fakeInbox{old: 1}
		worker.HandleTx(b.worker, in, "a", func(context.Context, *fakeTx, *worker.Delivery[[]byte]) error { return nil })
		b.start()
		time.Sleep(1000 * time.Hour)
		b.endClean()
		if len(in.purges) != 0 {
			t.Errorf("purged %q", in.purges)
		}
	})
}

func TestIDsOfOtherSystems(t *testing.T) {
	t.Parallel()
	headers := worker.IDFromHeaders("cap-msg-id", "dop-msg-id", "message-id")
	for _, test := range []struct {
		id      func(*outbox.Message) string
		headers map[string]string
		payload string
		want    string
	}{
		{headers, map[string]string{"dop-msg-id": "d", "message-id": "m"}, "", "d"},
		{headers, map[string]string{"Message-ID": "m", "cap-msg-id": ""}, "", "m"},
		{headers, nil, "", ""},
		{worker.IDFromCloudEvent, map[string]string{"ce-id": "1", "ce-source": "/a"}, "", "/a 1"},
		{worker.IDFromCloudEvent, map[string]string{"CE-ID": "1"}, "", "1"},
		{worker.IDFromCloudEvent, map[string]string{"cloudEvents:id": "1", "cloudEvents:source": "/a"}, "", "/a 1"},
		{worker.IDFromCloudEvent, map[string]string{"cloudEvents_id": "1"}, "", "1"},
		{worker.IDFromCloudEvent, map[string]string{"ce_id": "1"}, "", "1"},
		{worker.IDFromCloudEvent, nil, `{"specversion":"1.0","id":"1","source":"/a"}`, "/a 1"},
		{worker.IDFromCloudEvent, nil, `{"id":17}`, ""},
		{worker.IDFromCloudEvent, nil, `{`, ""},
		{worker.IDFromCloudEvent, nil, `{}`, ""},
	} {
		m := &outbox.Message{Headers: test.headers, ContentType: "application/cloudevents+json; charset=utf-8", Payload: []byte(test.payload)}
		if got := test.id(m); got != test.want {
			t.Errorf("id of %q %s is %q, want %q", test.headers, test.payload, got, test.want)
		}
		m.ContentType = "application/json"
		if got := test.id(m); test.headers == nil && got != "" {
			t.Errorf("id %q of what is no CloudEvent", got)
		}
	}
}

func TestPanicOfMessageIDIsAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Retries: worker.Retries{Off: true}, MessageID: func(*outbox.Message) string { panic("no luck") }})
		worker.Handle(b.worker, "#", handleNothing)
		b.start()
		b.send(text("1", "a", ""))
		synctest.Wait()
		b.endClean()
		if dead := b.broker.DeadLetters(queueName); len(dead) != 1 || !strings.Contains(dead[0].Failure.Reason, "panic: no luck") {
			t.Errorf("dead %+v", dead)
		}
	})
}
