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
		outbox.Message{ID: someID, Topic: "c", ExpiresAt: time.Date(1000, 1, 1, 0, 0, 0, 0, time.UTC)})
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

// TestRenewalOfAWantedLease: its owner keeps it until it has answers for all that it
// has sent, and says how fast it is.
func TestRenewalOfAWantedLease(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	insert(t, s, outbox.Message{ID: someID, Topic: "a"})
	claim := func(ttl time.Duration, rate float64) store.Claim {
		t.Helper()
		c, err := s.Claim(t.Context(), store.ClaimRequest{Owner: "relay", TTL: ttl, Rate: rate})
		if err != nil || len(c.Leases) != 1 {
			t.Fatalf("claim: %+v, %v", c, err)
		}
		return c
	}
	claim(time.Hour, 5)
	if w, err := s.Withdraw(t.Context(), someID, "me"); w != store.Asked || err != nil {
		t.Fatalf("%s, %v, want asked", w, err)
	}
	if c := claim(3*time.Hour, 7); !c.Wanted.Has(0) {
		t.Error("the owner does not hear that its shard is wanted")
	}
	var hours float64
	if err := s.db.QueryRowContext(t.Context(), s.names.sql(`SELECT (expires_at - {now}) / 3600e6 FROM {lease}`)).Scan(&hours); err != nil || hours < 2 {
		t.Errorf("the lease ends in %v hours, %v, want 3", hours, err)
	}
	if stats, err := s.Stats(t.Context()); err != nil || len(stats.Relays) != 1 || stats.Relays[0].Rate != 7 || stats.Relays[0].Left < 2*time.Hour {
		t.Errorf("the relays are %+v, %v, want one at the rate 7 for 3 hours", stats.Relays, err)
	}
}

// TestParkWithoutAKey: there is nothing to hold back.
func TestParkWithoutAKey(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	execute(t, s.db, s.names.sql(`INSERT INTO {message} (id, topic, key, payload) VALUES ('`+someID+`', 'a', NULL, ''), ('`+someID+`', 'b', '', '')`))
	claim, err := s.Claim(t.Context(), store.ClaimRequest{Owner: "relay", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	var failures []store.Failure
	for position := range int64(2) {
		failures = append(failures, store.Failure{
			Ref: store.Ref{Position: position + 1, ID: someID}, Lease: claim.Leases[0], Dead: store.Exhausted, Park: true,
		})
	}
	if err := s.Fail(t.Context(), failures); err != nil {
		t.Fatal(err)
	}
	keys, parkedErr := s.Parked(t.Context(), 1)
	stats, statsErr := s.Stats(t.Context())
	if parkedErr != nil || statsErr != nil || len(keys) > 0 || stats.ParkedKeys > 0 || stats.Dead != 2 {
		t.Fatalf("parked are %v of %d dead, %v, %v, want none of 2", keys, stats.Dead, parkedErr, statsErr)
	}
}
