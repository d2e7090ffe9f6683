package storetest

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func failCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Fail/IsFoundByTheNextOwner", run: failFound[Tx]},
		{name: "Fail/BecomesDue", run: failDue[Tx]},
		{name: "Fail/KeepsEverythingElse", run: failKeeps[Tx]},
		{name: "Fail/StaleToken", run: failStale[Tx]},
		{name: "Fail/OneStaleTokenOfMany", run: failOneStale[Tx], unless: oneShard[Tx]},
		{name: "Fail/ReleasedShard", run: failReleased[Tx]},
		{name: "Fail/SettledMeanwhile", run: failSettled[Tx]},
		{name: "Fail/LongError", run: failLongError[Tx]},
		{name: "Fail/CancelledContext", run: failCancelled[Tx]},
	}
}

// failure is row refused for the first time under its lease in c.
func (e *env[Tx]) failure(c store.Claim, row *store.Row) store.Failure {
	e.t.Helper()
	lease, ok := leaseOf(c, row.Shard)
	if !ok {
		e.t.Fatalf("the claim has no lease of shard %d", row.Shard)
	}
	return store.Failure{
		Ref: store.Ref{Position: row.Position, ID: row.ID}, Lease: lease,
		Attempts: row.Attempts + 1, Error: "no route «x»", RetryIn: time.Hour,
	}
}

func (e *env[Tx]) fail(failures ...store.Failure) {
	e.t.Helper()
	e.ok(e.Store.Fail(e.ctx, failures), "fail")
}

func failFound[Tx any](e *env[Tx]) {
	e.emit(numbered(3)...)
	claim := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.fail(e.failure(claim, &rows[1]))
	e.ok(e.Store.Leave(e.ctx, "first", nil), "leave")
	e.Store = e.Open(e.t)
	claim = e.claim(store.ClaimRequest{Owner: "second"})
	rows = e.pending()
	e.wantTopics(rows, "t.0", "t.1", "t.2")
	got := rows[1]
	if got.Attempts != 1 || got.LastError != "no route «x»" || got.RetryIn <= 59*time.Minute || got.RetryIn > time.Hour {
		e.t.Fatalf("attempts %d, last error %q, retry in %v, want 1, the error, and an hour at most", got.Attempts, got.LastError, got.RetryIn)
	}
	if rows[0].Attempts != 0 || rows[0].RetryIn > 0 || rows[2].Attempts != 0 || rows[2].RetryIn > 0 {
		e.t.Fatal("the neighbours of the message that failed have changed")
	}
	e.fail(e.failure(claim, &got))
	if n := e.pending()[1].Attempts; n != 2 {
		e.t.Fatalf("attempts %d after the second failure, want 2", n)
	}
}

func failDue[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a"})
	claim := e.claim(store.ClaimRequest{Owner: "first"})
	row := e.pending()[0]
	f := e.failure(claim, &row)
	f.RetryIn = 300 * time.Millisecond
	e.fail(f)
	e.eventually("the message is due", func() bool { return e.pending()[0].RetryIn <= 0 })
	f.RetryIn, f.Attempts = 0, 2
	e.fail(f)
	if row := e.pending()[0]; row.RetryIn > 0 || row.Attempts != 2 {
		e.t.Fatalf("retry in %v, attempts %d, want a message that is due and was tried twice", row.RetryIn, row.Attempts)
	}
}

// failKeeps: what was emitted stays as it was, its place in the order included.
func failKeeps[Tx any](e *env[Tx]) {
	e.insert(fieldSamples()...)
	claim := e.claim(store.ClaimRequest{Owner: "first"})
	before := e.pending()
	failures := make([]store.Failure, len(before))
	for i := range before {
		failures[i] = e.failure(claim, &before[i])
		before[i].Attempts, before[i].LastError = 1, failures[i].Error
	}
	e.fail(failures...)
	e.sameRows(e.pending(), before)
}

// wantLeaseLost fails the test unless Fail is refused and changes nothing.
func (e *env[Tx]) wantLeaseLost(failures ...store.Failure) {
	e.t.Helper()
	before := e.pending()
	if err := e.Store.Fail(e.ctx, failures); !errors.Is(err, store.ErrLeaseLost) {
		e.t.Fatalf("fail returned %v, want ErrLeaseLost", err)
	}
	e.sameRows(e.pending(), before)
}

func failStale[Tx any](e *env[Tx]) {
	e.emit(numbered(2)...)
	stale := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.ok(e.Store.Leave(e.ctx, "first", nil), "leave")
	fresh := e.claim(store.ClaimRequest{Owner: "second"})
	e.wantLeaseLost(e.failure(stale, &rows[0]))

	wrong := e.failure(fresh, &rows[0])
	wrong.Lease.Token++
	e.wantLeaseLost(wrong)
	e.fail(e.failure(fresh, &rows[0]))
}

func failOneStale[Tx any](e *env[Tx]) {
	e.emit(keyed(100)...)
	claim := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	var failures []store.Failure
	var shards store.ShardSet
	for i := range rows {
		if !shards.Has(rows[i].Shard) {
			shards = shards.With(rows[i].Shard)
			failures = append(failures, e.failure(claim, &rows[i]))
		}
	}
	last := failures[len(failures)-1].Lease.Shard
	e.claim(store.ClaimRequest{Owner: "first", Release: store.ShardSet(0).With(last), Most: e.Features.Shards - 1})
	e.wantLeaseLost(failures...)
	if e.Features.Shards > 1 {
		e.fail(failures[:len(failures)-1]...)
	}
}

func failReleased[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a"})
	claim := e.claim(store.ClaimRequest{Owner: "first"})
	row := e.pending()[0]
	e.ok(e.Store.Leave(e.ctx, "first", nil), "leave")
	e.wantLeaseLost(e.failure(claim, &row))
}

// failSettled: what is gone stays gone, and does not hinder the others.
func failSettled[Tx any](e *env[Tx]) {
	e.emit(numbered(3)...)
	claim := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	gone, foreign, there := e.failure(claim, &rows[0]), e.failure(claim, &rows[1]), e.failure(claim, &rows[2])
	foreign.Ref.ID = otherID
	e.ok(e.Store.Settle(e.ctx, refsOf(rows[:1]), false), "settle")
	e.fail(gone, foreign, there)
	rows = e.pending()
	e.wantTopics(rows, "t.1", "t.2")
	if rows[0].Attempts != 0 || rows[1].Attempts != 1 {
		e.t.Fatalf("attempts %d and %d, want 0 for the id that does not match and 1", rows[0].Attempts, rows[1].Attempts)
	}
	e.fail()
}

func failLongError[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a"})
	claim := e.claim(store.ClaimRequest{Owner: "first"})
	row := e.pending()[0]
	f := e.failure(claim, &row)
	f.Error = "x" + strings.Repeat("ü", 5000)
	e.fail(f)
	got := e.pending()[0].LastError
	if len(got) < 1900 || !strings.HasPrefix(f.Error, got) || !utf8.ValidString(got) {
		e.t.Fatalf("the last error has %d bytes, want 2,000 or more of the given one, in whole characters", len(got))
	}
}

func failCancelled[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a"})
	claim := e.claim(store.ClaimRequest{Owner: "first"})
	row := e.pending()[0]
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	if err := e.Store.Fail(ctx, []store.Failure{e.failure(claim, &row)}); !errors.Is(err, context.Canceled) {
		e.t.Fatalf("fail with a cancelled context returned %v, want context.Canceled", err)
	}
	if n := e.pending()[0].Attempts; n != 0 {
		e.t.Fatalf("attempts %d, want 0", n)
	}
}
