package storetest

import (
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func discardCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Discard/ExactlyThese", run: discardThese[Tx]},
	}
}

func retryCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Retry/MakesDue", run: retryDue[Tx]},
		{name: "Retry/NewTokens", run: retryTokens[Tx]},
		{name: "Retry/LeavesTheOthers", run: retryOthers[Tx]},
	}
}

func discardThese[Tx any](e *env[Tx]) {
	e.emit(numbered(4)...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.bury(c, store.Invalid, false, rows[:3]...)
	dead := e.wantListed(store.Dead, "t.0", "t.1", "t.2")
	e.discard(2, dead[0].Place, dead[2].Place, dead[2].Place)
	e.wantListed(store.Dead, "t.1")
	e.wantPending("t.3")
	e.redrive(1, placesOf(dead)...)
	e.wantPending("t.1", "t.3")
}

// hold has the first rows wait and be blocked.
func (e *env[Tx]) hold(c store.Claim, waits, blocked *store.Row) {
	e.t.Helper()
	never := e.failure(c, blocked)
	never.RetryIn = store.Never
	e.fail(e.failure(c, waits), never)
}

func (e *env[Tx]) retry(want int, refs ...store.Ref) {
	e.t.Helper()
	n, err := e.Store.Retry(e.ctx, refs)
	e.ok(err, "retry")
	if n != want {
		e.t.Fatalf("%d messages are to be retried, want %d", n, want)
	}
}

func retryDue[Tx any](e *env[Tx]) {
	e.emit(numbered(3)...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.hold(c, &rows[0], &rows[1])
	e.retry(2, refsOf(rows)...)
	again := e.pending()
	e.wantTopics(again, "t.0", "t.1", "t.2")
	for i := range again {
		if again[i].RetryIn > 0 || again[i].Attempts != 0 || again[i].Position != rows[i].Position {
			e.t.Fatalf("row %d: retry in %v, attempts %d, position %d, want it due, no attempts, and the position %d",
				i, again[i].RetryIn, again[i].Attempts, again[i].Position, rows[i].Position)
		}
	}
	e.retry(0, refsOf(rows)...)
}

func retryTokens[Tx any](e *env[Tx]) {
	e.emit(keyed(60)...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.hold(c, &rows[0], &rows[1])
	e.retry(1, refsOf(rows[1:2])...)
	e.wantLeaseLost(e.failure(c, &rows[1]))
	e.wantNewTokens("first", c, shardsOfRows(rows[1:2]))
	if other := e.claim(store.ClaimRequest{Owner: "second"}); len(other.Leases) != 0 {
		e.t.Fatalf("another relay got %d shards of the one that is alive", len(other.Leases))
	}
}

func retryOthers[Tx any](e *env[Tx]) {
	e.emit(numbered(3)...)
	e.emitTo("side", outbox.Event{Topic: "side"})
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.hold(c, &rows[0], &rows[1])
	e.retry(0)
	e.retry(0, store.Ref{Position: rows[0].Position, ID: otherID}, store.Ref{Position: rows[2].Position + 1000, ID: rows[0].ID}, refsOf(rows)[2])
	again := e.pending()
	if again[0].RetryIn <= 59*time.Minute || again[0].Attempts != 1 || again[1].RetryIn != store.Never {
		e.t.Fatalf("retry in %v and %v, want what it was", again[0].RetryIn, again[1].RetryIn)
	}
	e.sameLeases(e.claim(store.ClaimRequest{Owner: "first"}), c)
}
