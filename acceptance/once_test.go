package acceptance

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/store/sqlstore"
)

// onceStore is a store that runs drain.
type onceStore[Tx any] interface {
	outbox.Store[Tx]
	relay.OnceStore
	store.Admin
	Migrate(ctx context.Context) error
}

// TestRunOnceOnDatabases: a run in the caller's transaction is undone with it, and its
// rows are nobody else's meanwhile.
func TestRunOnceOnDatabases(t *testing.T) {
	t.Parallel()
	t.Run("pgx", func(t *testing.T) {
		t.Parallel()
		s := pgxstore.New(openPool(t, testenv.Postgres(t).NewDatabase(t), 6), &pgxstore.Config{Logger: quiet()})
		t.Cleanup(func() { _ = s.Close() })
		runOnceOn(t, s, func(tx pgx.Tx) relay.OnceStore { return s.Within(tx) }, true)
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		s := sqlstore.New(openSQL(t, "pgx", testenv.Postgres(t).NewDatabase(t)), sqlstore.PostgreSQL, nil)
		runOnceOn(t, s, func(tx *sql.Tx) relay.OnceStore { return s.Within(tx) }, true)
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		s := sqlstore.New(openSQL(t, "sqlite", sqlstore.SQLiteDSN(filepath.Join(t.TempDir(), "app.db"))), sqlstore.SQLite, nil)
		runOnceOn(t, s, func(tx *sql.Tx) relay.OnceStore { return s.Within(tx) }, false)
	})
}

// runOnceOn: concurrent says that others can look while a transaction writes.
func runOnceOn[Tx any](t *testing.T, s onceStore[Tx], within func(Tx) relay.OnceStore, concurrent bool) {
	ctx := t.Context()
	must(t, s.Migrate(ctx))
	ob := outbox.New(s)
	must(t, ob.InTx(ctx, func(tx Tx) error {
		return ob.Emit(ctx, tx, outbox.Event{Topic: "t", Key: "a", Payload: 1}, outbox.Event{Topic: "t", Key: "a", Payload: 2},
			outbox.Event{Topic: "t", Payload: 3}, outbox.Event{Topic: "t", Key: "b", Payload: 4}, outbox.Event{Topic: "t", Key: "c", Payload: 5})
	}))
	var calls []string
	publish := func(ctx context.Context, m *outbox.Message) error {
		calls = append(calls, string(m.Payload))
		switch string(m.Payload) {
		case "3":
			if concurrent {
				other, err := relay.RunOnce(ctx, s, func(context.Context, *outbox.Message) error { return errNoLuck }, nil)
				if other != (relay.Result{}) || err != nil {
					t.Errorf("another run has %+v, %v", other, err)
				}
			}
		case "4":
			return outbox.Invalid(errNoLuck)
		case "5":
			return errNoLuck
		}
		return nil
	}
	undo := errors.New("undo")
	for _, end := range []error{undo, undo, nil} {
		calls = nil
		err := ob.InTx(ctx, func(tx Tx) error {
			result, err := relay.RunOnce(ctx, within(tx), publish, &relay.OnceConfig{Keep: true})
			if want := (relay.Result{Taken: 5, Sent: 3, Failed: 2, Dead: 1}); result != want || err != nil {
				t.Errorf("result %+v, %v, want %+v", result, err, want)
			}
			return end
		})
		if !errors.Is(err, end) || !slices.Equal(calls, []string{"1", "2", "3", "4", "5"}) {
			t.Errorf("ended with %v after the calls %q", err, calls)
		}
		stats, err := s.Stats(ctx)
		must(t, err)
		want := [3]int64{5, 0, 0}
		if end == nil {
			want = [3]int64{1, 1, 1}
		}
		if got := [3]int64{stats.Pending, stats.Waiting, stats.Dead}; got != want {
			t.Errorf("pending, waiting and dead are %v, want %v", got, want)
		}
	}
	kept, err := s.List(ctx, store.Query{State: store.Sent, Limit: 10})
	if err != nil || len(kept) != 3 {
		t.Errorf("%d in the history, %v", len(kept), err)
	}
	// What waits is left alone, also by a run of its own.
	if result, err := relay.RunOnce(ctx, s, publish, nil); result != (relay.Result{}) || err != nil {
		t.Errorf("then %+v, %v", result, err)
	}
}
