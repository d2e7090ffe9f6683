package sqlite

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

const someID = "0190a1b2-c3d4-7e5f-8a9b-000000000001"

func insert(t testing.TB, s *Store, msgs ...outbox.Message) {
	t.Helper()
	if err := s.InTx(t.Context(), func(tx *sql.Tx) error { return s.Insert(t.Context(), tx, msgs) }); err != nil {
		t.Fatal(err)
	}
}

// TestNewPositionsWake: the relays of this process hear at once of what became
// pending in a way that is not InTx.
func TestNewPositionsWake(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	insert(t, s, outbox.Message{ID: someID, Topic: "a"}, outbox.Message{ID: someID, Topic: "b", DeliverAt: time.Unix(1, 0)})
	ear, remove := addEar(s.db)
	defer remove()
	for name, do := range map[string]func(ctx context.Context) error{
		"promote": func(ctx context.Context) error { _, err := s.Promote(ctx, 10); return err },
		"dispatch": func(ctx context.Context) error {
			return s.Dispatch(ctx, []store.Dispatch{{Ref: store.Ref{Position: 1, ID: someID}, Routes: []string{"x"}}})
		},
		"an emit by a view in Once": func(ctx context.Context) error {
			_, err := s.Once(ctx, "c", "1", func(ctx context.Context, tx *sql.Tx) error {
				return s.Route("x").Insert(ctx, tx, []outbox.Message{{ID: someID, Topic: "c"}})
			})
			return err
		},
	} {
		if err := do(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ear:
		default:
			t.Errorf("%s woke nobody", name)
		}
	}
	if p, err := s.Promote(t.Context(), 10); err != nil || p.Moved > 0 || len(ear) > 0 {
		t.Errorf("promoting nothing: %+v, %v, %d calls", p, err, len(ear))
	}
}

// TestWithdrawOfWhatHasMoved: between the look and the lock the message was promoted,
// sent or buried. Nothing is decided then by what was seen.
func TestWithdrawOfWhatHasMoved(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	insert(t, s, outbox.Message{ID: someID, Topic: "a"})
	for _, before := range [][]standing{
		{{store.Scheduled, 1, ""}},
		{{store.Pending, 2, ""}},
		{{store.Pending, 1, ""}, {store.Pending, 2, "x"}},
		{{store.Dead, 1, ""}, {store.Pending, 1, ""}},
	} {
		err := s.write(t.Context(), func(c runner) error {
			w, err := s.withdraw(t.Context(), c, someID, "me", before)
			if w != store.Asked {
				t.Errorf("seen as %+v: %s, want asked", before, w)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if w, err := s.Withdraw(t.Context(), someID, "me"); w != store.Withdrawn || err != nil {
		t.Fatalf("%s, %v, want withdrawn", w, err)
	}
}

// TestTimesBeyondDurations: a time in a far year neither wraps around nor comes.
func TestTimesBeyondDurations(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	far := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	insert(t, s, outbox.Message{ID: someID, Topic: "a", ExpiresAt: far}, outbox.Message{ID: someID, Topic: "b", DeliverAt: far},
		outbox.Message{ID: someID, Topic: "c", ExpiresAt: time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC)})
	pages, err := s.Read(t.Context(), store.ReadRequest{Shards: 1, Limit: 10, MaxBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	rows := pages[0].Rows
	if len(rows) != 2 || rows[0].ExpiresIn != store.Never || !rows[0].ExpiresAt.Equal(far) || rows[1].ExpiresIn >= 0 {
		t.Errorf("the rows are %+v, want one that never expires and one that has", rows)
	}
	if p, err := s.Promote(t.Context(), 10); err != nil || p.Moved != 0 || p.Next < 250*365*24*time.Hour {
		t.Errorf("promoted %+v, %v, want nothing for centuries", p, err)
	}
}
