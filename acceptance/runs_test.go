package acceptance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/store/sqlstore"
)

// wholeStore is all that a store can do for relays and for people.
type wholeStore interface {
	relay.Store
	store.Admin
}

// whole opens the store on connections of its own.
func (s *system) whole(t testing.TB) wholeStore {
	t.Helper()
	st, closeStore, err := openStore(s.databaseURL())
	must(t, err)
	t.Cleanup(closeStore)
	return st.(wholeStore)
}

// emitWith emits in a transaction by an outbox with options.
func (s *system) emitWith(t testing.TB, opts []outbox.Option, events ...outbox.Event) {
	t.Helper()
	ctx := context.Background()
	var err error
	switch d := s.database.(type) {
	case *postgres:
		ob := outbox.New(d.store, opts...)
		err = ob.InTx(ctx, func(tx pgx.Tx) error { return ob.Emit(ctx, tx, events...) })
	case *sqlite:
		ob := outbox.New(d.store, opts...)
		err = ob.InTx(ctx, func(tx *sql.Tx) error { return ob.Emit(ctx, tx, events...) })
	}
	must(t, err)
}

// within runs fn with the outbox as a transaction sees it, which it commits if fn
// returns nil.
func (s *system) within(fn func(view relay.OnceStore) error) error {
	ctx := context.Background()
	switch d := s.database.(type) {
	case *postgres:
		return d.outbox.InTx(ctx, func(tx pgx.Tx) error { return fn(d.store.Within(tx)) })
	case *sqlite:
		return d.outbox.InTx(ctx, func(tx *sql.Tx) error { return fn(d.store.Within(tx)) })
	}
	panic("unknown database")
}

// module is an outbox of its own in the system's database.
type module struct {
	wholeStore
	emit func(t testing.TB, events ...outbox.Event)
}

// newModule makes the tables of a module. Each has a schema, or a prefix.
func (s *system) newModule(t testing.TB, name string) module {
	t.Helper()
	ctx := context.Background()
	switch d := s.database.(type) {
	case *postgres:
		st := pgxstore.New(d.pool, &pgxstore.Config{Schema: name, Logger: quiet()})
		t.Cleanup(func() { _ = st.Close() })
		must(t, st.Migrate(ctx))
		ob := outbox.New(st)
		return module{st, func(t testing.TB, events ...outbox.Event) {
			t.Helper()
			must(t, ob.InTx(ctx, func(tx pgx.Tx) error { return ob.Emit(ctx, tx, events...) }))
		}}
	case *sqlite:
		st := sqlstore.New(d.db, sqlstore.SQLite, &sqlstore.Config{TablePrefix: name + "_"})
		must(t, st.Migrate(ctx))
		ob := outbox.New(st)
		return module{st, func(t testing.TB, events ...outbox.Event) {
			t.Helper()
			must(t, ob.InTx(ctx, func(tx *sql.Tx) error { return ob.Emit(ctx, tx, events...) }))
		}}
	}
	panic("unknown database")
}

// runs are those of a user's own loop: each sends what is due, by a function that
// brings it to the broker.
type runs struct {
	t     *testing.T
	store wholeStore
	send  outbox.PublishFunc

	mu    sync.Mutex
	fail  func(m *outbox.Message) error // instead of sending, where it returns an error
	calls []outbox.Message
}

// newRuns makes runs on the system's outbox, and a worker that gets what they send.
func (s *system) newRuns(t *testing.T) (*runs, *recorder) {
	t.Helper()
	r := s.startWorker(t)
	p, err := openPublisher(s.address)
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return &runs{t: t, store: s.whole(t), send: relay.Wait(p)}, r
}

func (r *runs) publish(ctx context.Context, m *outbox.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, *m)
	if r.fail != nil {
		if err := r.fail(m); err != nil {
			return err
		}
	}
	return r.send(ctx, m)
}

// run runs once, and returns the topics of the calls.
func (r *runs) run(config *relay.OnceConfig) (relay.Result, []string) {
	r.t.Helper()
	return r.runOn(r.store, config)
}

func (r *runs) runOn(s relay.OnceStore, config *relay.OnceConfig) (relay.Result, []string) {
	r.t.Helper()
	before := len(r.calls)
	result, err := relay.RunOnce(r.t.Context(), s, r.publish, config)
	if err != nil {
		r.t.Fatalf("the run failed: %v", err)
	}
	return result, topics(r.calls[before:])
}

// runUntil runs again and again until so many calls were made.
func (r *runs) runUntil(calls int, config *relay.OnceConfig) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d calls", calls), func() (bool, string) {
		r.run(config)
		return len(r.calls) >= calls, fmt.Sprintf("%d calls", len(r.calls))
	})
}

// want runs once and compares.
func (r *runs) want(config *relay.OnceConfig, result relay.Result, called ...string) {
	r.t.Helper()
	got, calls := r.run(config)
	if got != result || !slices.Equal(calls, called) {
		r.t.Errorf("the run called for %q with the result %+v, want %q and %+v", calls, got, called, result)
	}
}

func topics(msgs []outbox.Message) (list []string) {
	for i := range msgs {
		list = append(list, msgs[i].Topic)
	}
	return list
}

// atOnce has what failed be due again at once, more or less.
func atOnce(attempts int) *relay.OnceConfig {
	return &relay.OnceConfig{MaxAttempts: attempts, RefusedBackoff: time.Millisecond, MaxRefusedBackoff: time.Millisecond}
}

// stored returns the messages of a state.
func stored(t testing.TB, a store.Admin, state store.State) []store.Stored {
	t.Helper()
	list, err := a.List(context.Background(), store.Query{State: state, Limit: 1000})
	must(t, err)
	return list
}

// single returns the only message of a state.
func single(t testing.TB, a store.Admin, state store.State) store.Stored {
	t.Helper()
	list := stored(t, a, state)
	if len(list) != 1 {
		t.Fatalf("%d messages are %s, want 1: %+v", len(list), state, list)
	}
	return list[0]
}

func TestE02_NoOutboxConfigured(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		s.emit(t, outbox.Event{Topic: "a"})
		var pg *pgxstore.Store
		var lite *sqlstore.Store
		for _, none := range []relay.OnceStore{nil, pg, lite} {
			if result, calls := runs.runOn(none, nil); result != (relay.Result{}) || calls != nil {
				t.Errorf("a run without an outbox called for %q, %+v", calls, result)
			}
		}
		runs.want(nil, relay.Result{Taken: 1, Sent: 1}, "a") // with one
		r.await(1)
	})
}

func TestE03_EmptyOutbox(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		runs.want(nil, relay.Result{})
		s.emit(t, outbox.Event{Topic: "a"})
		runs.want(nil, relay.Result{Taken: 1, Sent: 1}, "a")
		r.await(1)
		runs.want(nil, relay.Result{}) // empty again
	})
}

func TestE04_LimitOfARun(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		for _, topic := range []string{"a", "b", "c"} {
			s.emit(t, outbox.Event{Topic: topic, Key: topic})
		}
		two := &relay.OnceConfig{Limit: 2}
		runs.want(two, relay.Result{Taken: 2, Sent: 2}, "a", "b")
		s.wantRows(t, 1)
		runs.want(two, relay.Result{Taken: 1, Sent: 1}, "c")
		r.await(3)
	})
}

func TestE05_DefaultLimit(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		events := make([]outbox.Event, 120)
		for i := range events {
			events[i] = outbox.Event{Topic: "a", Key: fmt.Sprint(i)}
		}
		s.emit(t, events...)
		for _, want := range []int{100, 20} {
			if result, calls := runs.run(nil); result.Sent != want || len(calls) != want {
				t.Errorf("a run called %d times with the result %+v, want %d", len(calls), result, want)
			}
		}
		r.await(len(events))
		s.wantRows(t, 0)
	})
}

func TestE11_RunRolledBack(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		s.emit(t, outbox.Event{Topic: "a", Key: "1"}, outbox.Event{Topic: "b", Key: "1"}, outbox.Event{Topic: "failing", Key: "2"})
		runs.fail = failFor("failing")
		all, want := []string{"a", "b", "failing"}, relay.Result{Taken: 3, Sent: 2, Failed: 1}
		once := func(end error) error {
			return s.within(func(view relay.OnceStore) error {
				if result, calls := runs.runOn(view, nil); result != want || !slices.Equal(calls, all) {
					t.Errorf("the run called for %q with the result %+v", calls, result)
				}
				return end
			})
		}
		for range 2 { // all are sent again
			if err := once(errUndone); !errors.Is(err, errUndone) {
				t.Fatalf("the transaction ended with %v", err)
			}
			rows := pending(t, s)
			if len(rows) != 3 || rows[2].attempts != 0 {
				t.Errorf("after the rollback the outbox has %+v, want all three untouched", rows)
			}
		}
		must(t, once(nil))
		rows := pending(t, s)
		if len(rows) != 1 || rows[0].topic != "failing" || rows[0].attempts != 1 {
			t.Errorf("after the commit the outbox has %+v, want the failed one", rows)
		}
		r.await(2)
		// The transaction has left no lease behind that would keep others away.
		runs.fail = nil
		s.emit(t, outbox.Event{Topic: "c"})
		runs.want(nil, relay.Result{Taken: 1, Sent: 1}, "c")
	})
}
