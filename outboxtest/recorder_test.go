package outboxtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/outboxtest"
	"github.com/outbox-go/outbox/store/memstore"
	"github.com/outbox-go/outbox/worker"
)

// querier stands for an interface of transactions, such as pgx.Tx.
type querier interface{ Query(string) error }

type fakeTx struct{ querier }

var (
	_ outbox.Store[querier] = (*outboxtest.Recorder[querier])(nil)
	_ worker.Inbox[*sql.Tx] = (*outboxtest.Recorder[*sql.Tx])(nil)
)

var errTest = errors.New("of the test")

func emit[Tx any](t testing.TB, ob *outbox.Outbox[Tx], tx Tx, topics ...string) {
	t.Helper()
	events := make([]outbox.Event, len(topics))
	for i, topic := range topics {
		events[i].Topic = topic
	}
	if err := ob.Emit(t.Context(), tx, events...); err != nil {
		t.Fatal(err)
	}
}

// wantTopics compares the topics of msgs.
func wantTopics(t *testing.T, what string, msgs []outbox.Message, want ...string) {
	t.Helper()
	var got []string
	for _, m := range msgs {
		got = append(got, m.Topic)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestRecorderTellsTransactionsApart(t *testing.T) {
	t.Parallel()
	rec := outboxtest.NewRecorder[*sql.Tx](nil)
	ob := outbox.New(rec)
	one, two := new(sql.Tx), new(sql.Tx)
	emit(t, ob, one, "a", "b")
	emit(t, ob, two, "c")
	emit(t, ob, one, "d")
	wantTopics(t, "one", rec.Emitted(one), "a", "b", "d")
	wantTopics(t, "two", rec.Emitted(two), "c")
	wantTopics(t, "another", rec.Emitted(new(sql.Tx)))
	wantTopics(t, "all", rec.All(), "a", "b", "c", "d")
}

func TestRecorderTakesAnyKindOfTransaction(t *testing.T) {
	t.Parallel()
	rec := outboxtest.NewRecorder(func() querier { return &fakeTx{} })
	var first querier
	for _, topic := range []string{"a", "b"} {
		err := rec.InTx(t.Context(), func(tx querier) error {
			if first == nil {
				first = tx
			}
			return outbox.New(rec).Emit(t.Context(), tx, outbox.Event{Topic: topic})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wantTopics(t, "first", rec.Emitted(first), "a")
	wantTopics(t, "all", rec.All(), "a", "b")

	without := outboxtest.NewRecorder[querier](nil)
	emit(t, outbox.New(without), querier(&fakeTx{}), "a")
	err := without.InTx(t.Context(), func(querier) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "cannot make a outboxtest_test.querier: pass NewRecorder a function") {
		t.Errorf("InTx: %v", err)
	}
	type number int
	numbers := outboxtest.NewRecorder[number](nil)
	emit(t, outbox.New(numbers), 1, "a")
	emit(t, outbox.New(numbers), 2, "b")
	wantTopics(t, "2", numbers.Emitted(2), "b")
}

// recorders returns one of each kind, with how to emit by it.
func recorders() map[string]func(t *testing.T, test func(rec recorder)) {
	return map[string]func(t *testing.T, test func(rec recorder)){
		"alone":        func(_ *testing.T, test func(recorder)) { test(newHarness(outboxtest.NewRecorder[*sql.Tx](nil))) },
		"with a store": func(_ *testing.T, test func(recorder)) { test(newHarness(outboxtest.Record(memstore.New(nil)))) },
	}
}

// recorder is a Recorder without its type.
type recorder struct {
	// inTx emits topics in a transaction of InTx, whose function then returns
	// what end does.
	inTx func(ctx context.Context, end func() error, topics ...string) error
	once func(ctx context.Context, id string, end func() error, topics ...string) (bool, error)
	all  func() []outbox.Message
	fail func(error)
}

func newHarness[Tx comparable](rec *outboxtest.Recorder[Tx]) recorder {
	ob := outbox.New(rec)
	run := func(ctx context.Context, tx Tx, end func() error, topics []string) error {
		for _, topic := range topics {
			if err := ob.Emit(ctx, tx, outbox.Event{Topic: topic}); err != nil {
				return err
			}
		}
		return end()
	}
	return recorder{
		inTx: func(ctx context.Context, end func() error, topics ...string) error {
			return ob.InTx(ctx, func(tx Tx) error { return run(ctx, tx, end, topics) })
		},
		once: func(ctx context.Context, id string, end func() error, topics ...string) (bool, error) {
			return rec.Once(ctx, "queue", id, func(ctx context.Context, tx Tx) error { return run(ctx, tx, end, topics) })
		},
		all:  rec.All,
		fail: rec.Fail,
	}
}

func succeed() error { return nil }

func TestRecorderForgetsWhatWasRolledBack(t *testing.T) {
	t.Parallel()
	for name, with := range recorders() {
		with(t, func(rec recorder) {
			if err := rec.inTx(t.Context(), succeed, "kept"); err != nil {
				t.Fatal(name, err)
			}
			if err := rec.inTx(t.Context(), func() error { return errTest }, "failed"); !errors.Is(err, errTest) {
				t.Errorf("%s: error %v", name, err)
			}
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: the panic was swallowed", name)
					}
				}()
				rec.inTx(t.Context(), func() error { panic("of the test") }, "panicked") //nolint:errcheck // panics
			}()
			ctx, cancel := context.WithCancel(t.Context())
			if err := rec.inTx(ctx, func() error { cancel(); return nil }, "cancelled"); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: error %v", name, err)
			}
			if err := rec.inTx(ctx, succeed, "late"); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: error %v", name, err)
			}
			wantTopics(t, name, rec.all(), "kept")
		})
	}
}

// retrying is a store that runs each function of InTx three times.
type retrying struct{ *memstore.Store }

func (s retrying) InTx(ctx context.Context, fn func(tx *memstore.Tx) error) error {
	for range 2 {
		tx, err := s.Begin(ctx)
		if err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		if err := tx.Rollback(); err != nil {
			return err
		}
	}
	return s.Store.InTx(ctx, fn)
}

func TestRecorderKeepsTheLastAttemptAlone(t *testing.T) {
	t.Parallel()
	rec := newHarness(outboxtest.Record(retrying{memstore.New(nil)}))
	attempt := 0
	if err := rec.inTx(t.Context(), func() error { attempt++; return nil }, "a", "b"); err != nil {
		t.Fatal(err)
	}
	if attempt != 3 {
		t.Fatalf("%d attempts", attempt)
	}
	wantTopics(t, "all", rec.all(), "a", "b")
}

func TestForgetLeavesWhatInTxCommitted(t *testing.T) {
	t.Parallel()
	same := &fakeTx{} // against the rule that transactions differ
	rec := outboxtest.NewRecorder(func() querier { return same })
	ob := outbox.New(rec)
	err := ob.InTx(t.Context(), func(tx querier) error {
		return ob.Emit(t.Context(), tx, outbox.Event{Topic: "committed"})
	})
	if err != nil {
		t.Fatal(err)
	}
	emit(t, ob, querier(same), "rolled-back")
	rec.Forget(same)
	wantTopics(t, "all", rec.All(), "committed")
}

func TestRecorderPassesOnToTheStore(t *testing.T) {
	t.Parallel()
	store := memstore.New(nil)
	rec := outboxtest.Record(store)
	ob := outbox.New(rec)
	err := ob.InTx(t.Context(), func(tx *memstore.Tx) error {
		emit(t, ob, tx, "a")
		wantTopics(t, "in the transaction", rec.Emitted(tx), "a")
		return tx.Put("k", "v")
	})
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := store.Get("k"); v != "v" {
		t.Errorf("the store has %q", v)
	}
	tx, err := store.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := ob.Emit(t.Context(), tx, outbox.Event{Topic: "refused"}); !errors.Is(err, memstore.ErrTxDone) {
		t.Errorf("error %v, want that of the store", err)
	}
	wantTopics(t, "all", rec.All(), "a")
	woken := make(chan struct{}, 10)
	ctx, cancel := context.WithCancel(t.Context())
	var listening sync.WaitGroup
	listening.Go(func() { store.Listen(ctx, func() { woken <- struct{}{} }) }) //nolint:errcheck // ends with ctx
	for done := false; !done; {
		ob.Wake()
		select {
		case <-woken:
			done = true
		default:
		}
	}
	cancel()
	listening.Wait()
}

func TestRecorderFailsWhenTold(t *testing.T) {
	t.Parallel()
	for name, with := range recorders() {
		with(t, func(rec recorder) {
			rec.fail(errTest)
			if err := rec.inTx(t.Context(), succeed, "a"); !errors.Is(err, errTest) {
				t.Errorf("%s: error %v", name, err)
			}
			rec.fail(nil)
			if err := rec.inTx(t.Context(), succeed, "b"); err != nil {
				t.Errorf("%s: error %v", name, err)
			}
			wantTopics(t, name, rec.all(), "b")
		})
	}
}

func TestRecorderIsAnInbox(t *testing.T) {
	t.Parallel()
	with := func(rec recorder) {
		for i, c := range []struct {
			id    string
			end   error
			first bool
		}{{"1", errTest, false}, {"1", nil, true}, {"1", nil, false}, {"2", nil, true}} {
			first, err := rec.once(t.Context(), c.id, func() error { return c.end }, fmt.Sprint("run", i))
			if first != c.first || !errors.Is(err, c.end) {
				t.Errorf("run %d: %v, %v", i, first, err)
			}
		}
		wantTopics(t, "all", rec.all(), "run1", "run3")
	}
	with(newHarness(outboxtest.NewRecorder[*sql.Tx](nil)))
	with(newHarness(outboxtest.Record(memstore.New(nil))))
	rec := outboxtest.Record[*sql.Tx](outboxtest.NewRecorder[*sql.Tx](nil))
	with(newHarness(rec))
	if rec.Transient(errTest) {
		t.Error("an error passes without a database")
	}
	if n, err := rec.PurgeInbox(t.Context(), 0, 10); n != 0 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	no := outboxtest.Record[*sql.Tx](noInbox{})
	if _, err := no.Once(t.Context(), "queue", "1", nil); err == nil || !strings.Contains(err.Error(), "noInbox, is not a worker.Inbox") {
		t.Errorf("error %v", err)
	}
}

// noInbox is a store alone.
type noInbox struct{ outbox.Store[*sql.Tx] }

func TestRecorderSharesNothing(t *testing.T) {
	t.Parallel()
	rec := outboxtest.NewRecorder[*sql.Tx](nil)
	ob := outbox.New(rec)
	payload, headers := []byte("payload"), map[string]string{"a": "b"}
	if err := ob.Emit(t.Context(), new(sql.Tx), outbox.Event{Topic: "t", Payload: payload, Headers: headers}); err != nil {
		t.Fatal(err)
	}
	spoil := func(m outbox.Message) {
		clear(m.Payload)
		clear(m.Headers)
	}
	spoil(outbox.Message{Payload: payload, Headers: headers})
	spoil(rec.All()[0])
	spoil(outboxtest.RequireEmitted(t, rec.All(), outboxtest.Want{}))
	if m := rec.All()[0]; string(m.Payload) != "payload" || m.Headers["a"] != "b" {
		t.Errorf("got %q %v", m.Payload, m.Headers)
	}
}

func TestRecorderBearsConcurrentUse(t *testing.T) {
	t.Parallel()
	rec := outboxtest.NewRecorder[*sql.Tx](nil)
	ob := outbox.New(rec)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			err := ob.InTx(t.Context(), func(tx *sql.Tx) error {
				emit(t, ob, tx, "a", "b")
				wantTopics(t, "own", rec.Emitted(tx), "a", "b")
				if i%2 == 0 {
					return errTest
				}
				return nil
			})
			if (err != nil) != (i%2 == 0) {
				t.Error(err)
			}
			rec.All()
		})
	}
	all.Wait()
	if n := len(rec.All()); n != 20 {
		t.Errorf("%d messages, want 20", n)
	}
}
