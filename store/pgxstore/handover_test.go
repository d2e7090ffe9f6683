package pgxstore_test

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// TestWhatIsHandedOverIsWhatIsRead, field by field.
func TestWhatIsHandedOverIsWhatIsRead(t *testing.T) {
	t.Parallel()
	s, _, _ := openStore(t, nil)
	var commits []store.Commit
	defer s.Follow(func(c store.Commit) bool {
		commits = append(commits, c)
		return true
	})()
	ob := outbox.New(s)
	payload := []byte("some bytes")
	before := page(t, s, store.ReadRequest{Shards: store.FirstShards(64), Limit: 10}).Cursor
	must(t, ob.InTx(t.Context(), func(tx pgx.Tx) error {
		return errors.Join(
			ob.Emit(t.Context(), tx, outbox.Event{
				Topic: "a.b", Key: "k", Tenant: "t", Type: "T", Version: "2", ContentType: "application/octet-stream",
				Headers: map[string]string{"x-y": `"é"`}, Payload: payload,
			}),
			ob.Emit(t.Context(), tx, outbox.Event{Topic: "b", Payload: 1}, outbox.Event{Topic: "c", Payload: nil}, outbox.Event{Topic: "d"}),
		)
	}))
	copy(payload, "changed...")
	if len(commits) != 1 || len(commits[0].Rows) != 4 {
		t.Fatalf("handed over: %+v, want one commit of four messages", commits)
	}
	p := page(t, s, store.ReadRequest{Shards: store.FirstShards(64), Limit: 10, Cursor: before})
	for i := range p.Rows {
		if read, handed := p.Rows[i], commits[0].Rows[i]; !reflect.DeepEqual(read, handed) {
			t.Errorf("read and handed over differ:\n%+v\n%+v", read, handed)
		}
	}
	if s.Saw(before, commits[0].Mark) || !s.Saw(p.Cursor, commits[0].Mark) {
		t.Errorf("a reader saw the commit before it: %v, after it: %v", s.Saw(before, commits[0].Mark), s.Saw(p.Cursor, commits[0].Mark))
	}
}

// TestOnlyWhatIsKnownWholeIsHandedOver: what may be undone alone is not, nor what may
// stand behind a message of its transaction that this process does not know.
func TestOnlyWhatIsKnownWholeIsHandedOver(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	var handed int
	defer s.Follow(func(c store.Commit) bool {
		handed += len(c.Rows)
		return true
	})()
	ob := outbox.New(s, outbox.WithRoutes(func(m *outbox.Message) []string {
		if m.Topic == "routed" {
			return []string{"", "audit"}
		}
		return nil
	}))
	ctx := t.Context()
	emit := func(tx pgx.Tx, topic string, payload any) error {
		return ob.Emit(ctx, tx, outbox.Event{Topic: topic, Key: "k", Payload: payload})
	}
	run := func(tx pgx.Tx, sql string) error { _, err := tx.Exec(ctx, sql); return err }
	insert := `INSERT INTO ` + pgx.Identifier{schema, "message"}.Sanitize() + ` (topic, key, payload) VALUES ('plain', 'k', '1')`
	for name, tc := range map[string]struct {
		want int
		fn   func(tx pgx.Tx) error
	}{
		"two statements": {2, func(tx pgx.Tx) error { return errors.Join(emit(tx, "a", 1), emit(tx, "a", 2)) }},
		"rolled back":    {0, func(tx pgx.Tx) error { return errors.Join(emit(tx, "a", 1), errors.New("no")) }},
		"in a savepoint of pgx": {0, func(tx pgx.Tx) error {
			return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return emit(tx, "a", 1) })
		}},
		"behind one of pgx": {0, func(tx pgx.Tx) error {
			return errors.Join(pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return emit(tx, "a", 1) }), emit(tx, "a", 2))
		}},
		"in a savepoint by SQL": {0, func(tx pgx.Tx) error {
			return errors.Join(run(tx, "SAVEPOINT a"), emit(tx, "a", 1), run(tx, "ROLLBACK TO a"))
		}},
		"before one": {1, func(tx pgx.Tx) error {
			return errors.Join(emit(tx, "a", 1), run(tx, "SAVEPOINT a"), run(tx, "ROLLBACK TO a"))
		}},
		"behind a plain INSERT": {0, func(tx pgx.Tx) error { return errors.Join(run(tx, insert), emit(tx, "a", 2)) }},
		"before a plain INSERT": {1, func(tx pgx.Tx) error { return errors.Join(emit(tx, "a", 1), run(tx, insert)) }},
		"between":               {0, func(tx pgx.Tx) error { return errors.Join(emit(tx, "a", 1), run(tx, insert), emit(tx, "a", 3)) }},
		"behind a batch": {0, func(tx pgx.Tx) error {
			msgs, err := ob.Prepare(ctx, outbox.Event{Topic: "a", Key: "k"})
			var batch pgx.Batch
			return errors.Join(err, s.Queue(&batch, msgs), tx.SendBatch(ctx, &batch).Close(), emit(tx, "a", 2))
		}},
		"later": {0, func(tx pgx.Tx) error {
			return ob.Emit(ctx, tx, outbox.Event{Topic: "a", DeliverAt: time.Now().Add(time.Hour)})
		}},
		"routed": {0, func(tx pgx.Tx) error { return errors.Join(emit(tx, "a", 1), emit(tx, "routed", 1)) }},
		"large": {0, func(tx pgx.Tx) error {
			return errors.Join(emit(tx, "a", 1), emit(tx, "a", strings.Repeat("x", 20_000)))
		}},
		"too many":     {0, func(tx pgx.Tx) error { return ob.Emit(ctx, tx, make65()...) }},
		"ended by fn":  {0, func(tx pgx.Tx) error { return errors.Join(emit(tx, "a", 1), run(tx, "ROLLBACK")) }},
		"switched off": {0, func(tx pgx.Tx) error { return errors.Join(run(tx, "SET LOCAL outbox.wake = 'off'"), emit(tx, "a", 1)) }},
	} {
		handed = 0
		err := ob.InTx(ctx, tc.fn)
		if (err != nil) != (name == "rolled back") {
			t.Errorf("%s: %v", name, err)
		}
		if handed != tc.want {
			t.Errorf("%s: %d messages handed over, want %d", name, handed, tc.want)
		}
	}
	// Of another's transaction nobody knows when it ends.
	handed = 0
	tx := begin(t, pool)
	must(t, emit(tx, "a", 1))
	must(t, tx.Commit(ctx))
	if handed != 0 {
		t.Errorf("a transaction of the caller's own: %d messages handed over, want none", handed)
	}
}

func make65() []outbox.Event {
	events := make([]outbox.Event, 65)
	for i := range events {
		events[i] = outbox.Event{Topic: "a"}
	}
	return events
}

// TestRoutesTakeNothingOver: what is handed over takes none.
func TestRoutesTakeNothingOver(t *testing.T) {
	t.Parallel()
	s, _, _ := openStore(t, nil)
	var route, main int
	defer s.Route("audit").Follow(func(store.Commit) bool { route++; return true })()
	defer s.Follow(func(store.Commit) bool { main++; return true })()
	ob := outbox.New(s)
	must(t, ob.InTx(t.Context(), func(tx pgx.Tx) error { return ob.Emit(t.Context(), tx, outbox.Event{Topic: "a"}) }))
	if route != 0 || main != 1 {
		t.Errorf("handed over: %d to the route, %d to the main one; want 0 and 1", route, main)
	}
}

// traced is a transaction of a type that is no map's key.
type traced struct {
	pgx.Tx
	_ []int
}

// TestHandoverLeavesOddTransactionsAlone: wrapped by value, and with ids in capitals.
func TestHandoverLeavesOddTransactionsAlone(t *testing.T) {
	t.Parallel()
	s, pool, _ := openStore(t, nil)
	var commits []store.Commit
	defer s.Follow(func(c store.Commit) bool { commits = append(commits, c); return true })()
	ob := outbox.New(s)
	tx := begin(t, pool)
	must(t, ob.Emit(t.Context(), traced{Tx: tx}, outbox.Event{Topic: "a"}))
	const id = "0198F2A4-3C5E-7D61-9B1C-2F6A8E0D4C73"
	must(t, s.InTx(t.Context(), func(tx pgx.Tx) error {
		return s.Insert(t.Context(), traced{Tx: tx}, []outbox.Message{{ID: id, Topic: "a", CreatedAt: time.Now()}})
	}))
	if len(commits) != 1 || commits[0].Rows[0].ID != strings.ToLower(id) {
		t.Errorf("handed over: %+v, want the id as it is stored", commits)
	}
}

// TestRightsOfAnEmitterBesideARelay: to see where its messages stand, or to insert
// alone without handing over.
func TestRightsOfAnEmitterBesideARelay(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		rights     string
		noHandover bool
		want       int
	}{{"INSERT, SELECT (position, shard, xmin)", false, 1}, {"INSERT", true, 0}} {
		s, pool, schema := openStore(t, &pgxstore.Config{NoHandover: tc.noHandover})
		role := pgx.Identifier{"emitter of " + schema}.Sanitize()
		name := pgx.Identifier{schema}.Sanitize()
		exec(t, pool, `CREATE ROLE `+role)
		t.Cleanup(func() { _, _ = pool.Exec(context.Background(), `DROP OWNED BY `+role+`; DROP ROLE `+role) })
		exec(t, pool, `GRANT USAGE ON SCHEMA `+name+` TO `+role)
		exec(t, pool, `GRANT `+tc.rights+` ON `+name+`.message TO `+role)
		handed := 0
		defer s.Follow(func(store.Commit) bool { handed++; return true })()
		ob := outbox.New(s)
		must(t, ob.InTx(t.Context(), func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `SET LOCAL ROLE `+role)
			return errors.Join(err, ob.Emit(t.Context(), tx, outbox.Event{Topic: "a"}))
		}))
		if handed != tc.want {
			t.Errorf("with %s %d commits were handed over, want %d", tc.rights, handed, tc.want)
		}
	}
}
