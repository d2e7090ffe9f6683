package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func emitCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Emit/CommittedIsRead", run: emitCommitted[Tx]},
		{name: "Emit/RolledBackIsNotRead", run: emitRolledBack[Tx]},
		{name: "Emit/FirstStatementRolledBack", run: emitFirstStatement[Tx]},
		{name: "Emit/BusinessFailsAfterwards", run: emitThenFail[Tx]},
		{name: "Emit/UncommittedIsNotRead", run: emitUncommitted[Tx]},
		{name: "Emit/SavepointRolledBack", run: emitSavepoint[Tx], unless: noSavepoints[Tx]},
		{name: "Emit/NoTransaction", run: emitNilTx[Tx]},
		{name: "Emit/EveryFieldRoundTrips", run: emitFields[Tx]},
		{name: "Emit/MessageIsCopied", run: emitCopies[Tx]},
		{name: "Emit/NothingToInsert", run: emitNothing[Tx]},
		{name: "Emit/ManyInOneCall", run: emitMany[Tx]},
		{name: "Emit/CancelledContext", run: emitCancelled[Tx]},
	}
}

func emitCommitted[Tx any](e *env[Tx]) {
	tx := e.begin()
	e.ok(e.Insert(e.ctx, tx, "user-1"), "insert business row")
	e.emitIn(tx, outbox.Event{Topic: "user.created"})
	e.commit(tx)
	e.wantPending("user.created")
	if n := e.business(); n != 1 {
		e.t.Fatalf("%d business rows, want 1", n)
	}
}

func emitRolledBack[Tx any](e *env[Tx]) {
	tx := e.begin()
	e.ok(e.Insert(e.ctx, tx, "user-1"), "insert business row")
	e.emitIn(tx, outbox.Event{Topic: "rolled.back"})
	e.rollback(tx)
	e.emit(outbox.Event{Topic: "committed"})
	e.wantPending("committed")
	if n := e.business(); n != 0 {
		e.t.Fatalf("%d business rows, want none", n)
	}
}

// emitFirstStatement: an emit that is the transaction's very first statement is
// in the transaction too.
func emitFirstStatement[Tx any](e *env[Tx]) {
	tx := e.begin()
	e.emitIn(tx, outbox.Event{Topic: "rolled.back"})
	e.rollback(tx)
	e.wantPending()

	tx = e.begin()
	e.emitIn(tx, outbox.Event{Topic: "rolled.back"})
	e.ok(e.Insert(e.ctx, tx, "user-1"), "insert business row")
	e.rollback(tx)
	e.wantPending()
	if n := e.business(); n != 0 {
		e.t.Fatalf("%d business rows, want none", n)
	}
}

func emitThenFail[Tx any](e *env[Tx]) {
	tx := e.begin()
	e.ok(e.Insert(e.ctx, tx, "user-1"), "insert business row")
	e.commit(tx)

	tx = e.begin()
	e.emitIn(tx, outbox.Event{Topic: "too.early"})
	if err := e.Insert(e.ctx, tx, "user-1"); err == nil {
		e.t.Fatal("the harness's Insert took the same id twice")
	}
	e.rollback(tx)
	e.wantPending()
	if n := e.business(); n != 1 {
		e.t.Fatalf("%d business rows, want 1", n)
	}
}

func emitUncommitted[Tx any](e *env[Tx]) {
	tx := e.begin()
	e.emitIn(tx, outbox.Event{Topic: "open"})
	e.wantPending()
	other := e.Open(e.t)
	pages, err := other.Read(e.ctx, e.from(store.Cursor{}))
	e.ok(err, "read by the second instance")
	e.wantTopics(pages[0].Rows)
	e.commit(tx)
	e.wantPending("open")
}

func emitSavepoint[Tx any](e *env[Tx]) {
	undo := errors.New("undo this part")
	tx := e.begin()
	e.emitIn(tx, outbox.Event{Topic: "before"})
	err := e.Savepoint(e.ctx, tx, func(tx Tx) error {
		e.emitIn(tx, outbox.Event{Topic: "undone"})
		return undo
	})
	if !errors.Is(err, undo) {
		e.t.Fatalf("the harness's Savepoint returned %v, want the function's error", err)
	}
	e.ok(e.Savepoint(e.ctx, tx, func(tx Tx) error {
		return e.ob.Emit(e.ctx, tx, outbox.Event{Topic: "kept"})
	}), "savepoint")
	e.emitIn(tx, outbox.Event{Topic: "after"})
	e.commit(tx)
	e.wantPending("before", "kept", "after")
}

func emitNilTx[Tx any](e *env[Tx]) {
	var none Tx
	if err := e.ob.Emit(e.ctx, none, outbox.Event{Topic: "a"}); !errors.Is(err, outbox.ErrNilTx) {
		e.t.Fatalf("emit without a transaction returned %v, want ErrNilTx", err)
	}
	e.wantPending()
}

// fieldSamples are messages with something peculiar in each field.
func fieldSamples() []outbox.Message {
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	tricky := "Käse'\"\\ \t%_?$1:name{}\u2028☃𝄞"
	created := time.Date(2024, 2, 29, 23, 59, 59, 123_456_000, time.UTC)
	return []outbox.Message{
		{ID: "0190a1b2-c3d4-7e5f-8a9b-000000000001", Topic: "minimal", Payload: []byte{}, ContentType: "application/json", CreatedAt: created},
		{
			ID: "0190a1b2-c3d4-7e5f-8a9b-000000000002", Topic: "a.b☃.c", Key: tricky, Tenant: tricky, Type: tricky, Version: tricky,
			ContentType: `application/vnd.x+json; charset="utf-8"`, Payload: binary, CreatedAt: created.Add(time.Microsecond),
			Headers: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x": tricky, "empty": ""},
		},
		{
			ID: "f47ac10b-58cc-4372-a567-0e02b2c3d479", Topic: strings.Repeat("t", outbox.MaxTopic), Key: strings.Repeat("k", 512),
			Tenant: strings.Repeat("n", 512), Type: strings.Repeat("y", 512), Version: strings.Repeat("v", 512),
			ContentType: "application/octet-stream", Payload: []byte(strings.Repeat("\x00\xff", 1<<19)),
			Headers: map[string]string{"long": strings.Repeat("ü", 4<<10)}, CreatedAt: time.Date(2150, 1, 1, 0, 0, 0, 0, time.UTC),
			ExpiresAt: time.Date(2151, 1, 1, 0, 0, 0, 123_456_000, time.UTC),
		},
		{ID: "00000000-0000-0000-0000-000000000000", Topic: "key.only", Key: "k", Payload: []byte("null"), CreatedAt: time.UnixMicro(1).UTC()},
		{ID: "ffffffff-ffff-ffff-ffff-ffffffffffff", Topic: "tenant.only", Tenant: "t", Payload: []byte(`{"a":1}`), CreatedAt: time.Now()},
	}
}

func emitFields[Tx any](e *env[Tx]) {
	want := fieldSamples()
	e.insert(want...)
	rows := e.pending()
	if len(rows) != len(want) {
		e.t.Fatalf("%d rows, want %d", len(rows), len(want))
	}
	for i := range rows {
		got := &rows[i]
		if fault := messageFault(&got.Message, &want[i]); fault != "" {
			e.t.Errorf("message %d: %s", i, fault)
		}
		if got.Position <= 0 || got.Attempts != 0 || got.LastError != "" || got.RetryIn > 0 {
			e.t.Errorf("message %d: position %d, attempts %d, last error %q, retry in %v; want one that was never tried",
				i, got.Position, got.Attempts, got.LastError, got.RetryIn)
		}
	}
}

// messageFault tells how got differs from what was inserted.
func messageFault(got, want *outbox.Message) string {
	for _, f := range [...]struct{ name, got, want string }{
		{"ID", got.ID, want.ID},
		{"Topic", got.Topic, want.Topic},
		{"Key", got.Key, want.Key},
		{"Tenant", got.Tenant, want.Tenant},
		{"Type", got.Type, want.Type},
		{"Version", got.Version, want.Version},
		{"ContentType", got.ContentType, want.ContentType},
		{"Route", got.Route, want.Route},
		{"Payload", string(got.Payload), string(want.Payload)},
		{"Headers", fmt.Sprintf("%d %q", len(got.Headers), sortedPairs(got.Headers)), fmt.Sprintf("%d %q", len(want.Headers), sortedPairs(want.Headers))},
	} {
		if f.got != f.want {
			return fmt.Sprintf("%s is %.300q, want %.300q", f.name, f.got, f.want)
		}
	}
	for _, f := range [...]struct {
		name      string
		got, want time.Time
	}{{"CreatedAt", got.CreatedAt, want.CreatedAt}, {"DeliverAt", got.DeliverAt, want.DeliverAt}, {"ExpiresAt", got.ExpiresAt, want.ExpiresAt}} {
		if d := f.got.Sub(f.want).Abs(); d >= time.Microsecond {
			return fmt.Sprintf("%s is %v, want %v to the microsecond", f.name, f.got, f.want)
		}
		if f.got.Location() != time.UTC {
			return fmt.Sprintf("%s is in %v, want UTC", f.name, f.got.Location())
		}
	}
	return ""
}

func sortedPairs(headers map[string]string) []string {
	pairs := make([]string, 0, len(headers))
	for name, value := range headers {
		pairs = append(pairs, name+"="+value)
	}
	slices.Sort(pairs)
	return pairs
}

// emitCopies: the caller may use its slices and maps again after the call.
func emitCopies[Tx any](e *env[Tx]) {
	payload, headers := []byte("before"), map[string]string{"x": "before"}
	tx := e.begin()
	e.emitIn(tx, outbox.Event{Topic: "a", Payload: payload, Headers: headers})
	copy(payload, "after!")
	headers["x"] = "after"
	e.commit(tx)
	row := e.pending()[0]
	if string(row.Payload) != "before" || row.Headers["x"] != "before" {
		e.t.Fatalf("payload %q and header %q, want those at the time of the emit", row.Payload, row.Headers["x"])
	}
}

func emitNothing[Tx any](e *env[Tx]) {
	tx := e.begin()
	e.ok(e.Store.Insert(e.ctx, tx, nil), "insert of no messages")
	e.commit(tx)
	e.wantPending()
}

// emitMany inserts more values than any database takes parameters in one
// statement.
func emitMany[Tx any](e *env[Tx]) {
	const n = 7000
	events := numbered(n)
	e.emit(events...)
	r := e.from(store.Cursor{})
	r.Limit = 1000
	rows, _ := e.readAll(r)
	e.wantTopics(rows, topics(events)...)
	e.ok(e.Store.Settle(e.ctx, refsOf(rows), false), "settle all")
	e.wantPending()
}

func emitCancelled[Tx any](e *env[Tx]) {
	ctx, cancel := context.WithCancel(e.ctx)
	tx := e.begin()
	cancel()
	if err := e.ob.Emit(ctx, tx, outbox.Event{Topic: "a"}); !errors.Is(err, context.Canceled) {
		e.t.Fatalf("emit with a cancelled context returned %v, want context.Canceled", err)
	}
	_ = e.Rollback(e.ctx, tx) // a driver may have closed it by now
	e.wantPending()
}
