package pgxstore_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
)

// TestPromoteDoesNotOvertake what somebody is withdrawing.
func TestPromoteDoesNotOvertake(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	due := time.Now().Add(-time.Hour)
	must(t, s.InTx(t.Context(), func(tx pgx.Tx) error {
		return outbox.New(s).Emit(t.Context(), tx, outbox.Event{Topic: "first", Key: "k", DeliverAt: due},
			outbox.Event{Topic: "second", Key: "k", DeliverAt: due.Add(time.Minute)})
	}))
	tx := begin(t, pool)
	_, err := tx.Exec(t.Context(), `SELECT FROM `+pgx.Identifier{schema, "scheduled"}.Sanitize()+` WHERE topic = 'first' FOR UPDATE`)
	must(t, err)
	p, err := s.Promote(t.Context(), 10)
	must(t, err)
	if p.Moved != 0 || p.Next < 50*time.Millisecond {
		t.Fatalf("%d messages were promoted, the next one in %v, want none, and 50 ms or more", p.Moved, p.Next)
	}
	must(t, tx.Rollback(t.Context()))
	if p, err = s.Promote(t.Context(), 10); err != nil || p.Moved != 2 {
		t.Fatalf("%d messages were promoted, %v, want both", p.Moved, err)
	}
	f := follow(t, s)
	f.want("first", "second")
	if f.order[0] != "first" {
		t.Fatalf("the order is %v, want the first one first", f.order)
	}
}
