package storetest

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func deadCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Dead/IsPendingNoLonger", run: deadGone[Tx]},
		{name: "Dead/KeepsEveryField", run: deadKeeps[Tx]},
		{name: "Dead/PlacesInTheOrderOfDying", run: deadPlaces[Tx]},
		{name: "Dead/WaitingAndBlockedBeside", run: deadBeside[Tx]},
		{name: "Dead/StaleToken", run: deadStale[Tx]},
		{name: "Dead/GoneMeanwhile", run: deadMeanwhile[Tx]},
		{name: "Dead/LongError", run: deadLongError[Tx]},
		{name: "Blocked/NeverDue", run: blockedNever[Tx]},
	}
}

func deadGone[Tx any](e *env[Tx]) {
	e.emit(numbered(3)...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	_, cursor := e.readAll(e.from(store.Cursor{}))
	e.bury(c, store.Invalid, false, rows[1])
	e.wantPending("t.0", "t.2")
	again, _ := e.readAll(e.from(cursor))
	e.wantTopics(again)
	e.Store = e.Open(e.t)
	e.wantListed(store.Dead, "t.1")
	e.wantListed(store.Pending, "t.0", "t.2")
	e.wantListed(store.Sent)
}

// deadKeeps: what was emitted stays as it was, and is so again when it is redriven.
func deadKeeps[Tx any](e *env[Tx]) {
	want := fieldSamples()
	e.insert(want...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	before := e.pending()
	e.bury(c, store.Exhausted, false, before...)
	dead := e.list(store.Query{State: store.Dead})
	if len(dead) != len(want) {
		e.t.Fatalf("%d dead letters, want %d", len(dead), len(want))
	}
	for i := range dead {
		got := &dead[i]
		if fault := messageFault(&got.Message, &want[i]); fault != "" {
			e.t.Errorf("dead letter %d: %s", i, fault)
		}
		if got.Attempts != 1 || got.LastError != "no route «x»" || got.Reason != store.Exhausted || got.Parked || got.State != store.Dead {
			e.t.Errorf("dead letter %d has attempts %d, last error %q, reason %q, parked %t, state %q",
				i, got.Attempts, got.LastError, got.Reason, got.Parked, got.State)
		}
		if got.Shard != before[i].Shard || time.Since(got.At).Abs() > 5*time.Minute || got.At.Location() != time.UTC {
			e.t.Errorf("dead letter %d is of shard %d since %v, want %d and now, in UTC", i, got.Shard, got.At, before[i].Shard)
		}
	}
	e.redrive(len(want), placesOf(dead)...)
	after := e.pending()
	for i := range after {
		after[i].LastError = ""
	}
	e.sameRows(after, before)
	e.wantListed(store.Dead)
}

func deadPlaces[Tx any](e *env[Tx]) {
	e.emit(numbered(4)...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.bury(c, store.Invalid, false, rows[2])
	e.bury(c, store.Unrouted, false, rows[0], rows[3])
	e.bury(c, store.Expired, false, rows[1])
	dead := e.wantListed(store.Dead, "t.2", "t.0", "t.3", "t.1")
	var reasons []store.Reason
	for i := range dead {
		reasons = append(reasons, dead[i].Reason)
		if i > 0 && dead[i].Place <= dead[i-1].Place {
			e.t.Fatalf("place %d is listed behind %d", dead[i].Place, dead[i-1].Place)
		}
	}
	if want := []store.Reason{store.Invalid, store.Unrouted, store.Unrouted, store.Expired}; !slices.Equal(reasons, want) {
		e.t.Fatalf("the reasons are %q, want %q", reasons, want)
	}
}

// deadBeside: one call has some wait, some blocked and some dead.
func deadBeside[Tx any](e *env[Tx]) {
	e.emit(numbered(4)...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	waits, blocked, dead := e.failure(c, &rows[0]), e.failure(c, &rows[1]), e.failure(c, &rows[2])
	blocked.RetryIn = store.Never
	dead.Dead = store.Exhausted
	e.fail(waits, blocked, dead)
	left := e.pending()
	e.wantTopics(left, "t.0", "t.1", "t.3")
	if left[0].RetryIn <= 0 || left[0].RetryIn > time.Hour || left[1].RetryIn != store.Never || left[2].RetryIn > 0 {
		e.t.Fatalf("retry in %v, %v and %v, want an hour at most, never, and at once", left[0].RetryIn, left[1].RetryIn, left[2].RetryIn)
	}
	e.wantListed(store.Dead, "t.2")
}

func deadStale[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "t.0", Key: "k"}, outbox.Event{Topic: "t.1", Key: "k"})
	stale := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.ok(e.Store.Leave(e.ctx, "first", nil), "leave")
	fresh := e.claim(store.ClaimRequest{Owner: "second"})
	died, waits := e.failure(stale, &rows[0]), e.failure(fresh, &rows[1])
	died.Dead, died.Park = store.Exhausted, true
	e.wantLeaseLost(waits, died)
	e.wantListed(store.Dead)
	e.wantParked()
}

// deadMeanwhile: what is gone does not come back as a dead letter.
func deadMeanwhile[Tx any](e *env[Tx]) {
	e.emit(numbered(3)...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	gone, foreign, there := e.failure(c, &rows[0]), e.failure(c, &rows[1]), e.failure(c, &rows[2])
	foreign.Ref.ID = otherID
	gone.Dead, foreign.Dead, there.Dead = store.Invalid, store.Invalid, store.Invalid
	e.ok(e.Store.Settle(e.ctx, refsOf(rows[:1]), false), "settle")
	e.fail(gone, foreign, there)
	e.fail(there)
	e.wantListed(store.Dead, "t.2")
	e.wantPending("t.1")
	if err := e.Store.Settle(e.ctx, refsOf(rows), true); err != nil {
		e.t.Fatalf("settle: %v", err)
	}
	e.wantListed(store.Dead, "t.2")
	e.wantListed(store.Sent, "t.1")
}

func deadLongError[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a"})
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	f := e.failure(c, &rows[0])
	f.Error, f.Dead = "x"+strings.Repeat("ü", 5000), store.Exhausted
	e.fail(f)
	got := e.wantListed(store.Dead, "a")[0].LastError
	if len(got) < 1900 || !strings.HasPrefix(f.Error, got) || strings.ContainsRune(got, '\uFFFD') {
		e.t.Fatalf("the last error has %d bytes, want 2,000 or more of the given one, in whole characters", len(got))
	}
}

// blockedNever: nothing but another Fail, or a person, ends it.
func blockedNever[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a", Key: "k"})
	c := e.claim(store.ClaimRequest{Owner: "first"})
	row := e.pending()[0]
	f := e.failure(c, &row)
	f.RetryIn = store.Never
	e.fail(f)
	e.ok(e.Store.Leave(e.ctx, "first", nil), "leave")
	e.Store = e.Open(e.t)
	if row := e.pending()[0]; row.RetryIn != store.Never || row.Attempts != 1 || row.LastError != f.Error {
		e.t.Fatalf("retry in %v, attempts %d, last error %q, want never, 1 and the error", row.RetryIn, row.Attempts, row.LastError)
	}
	if got := e.wantListed(store.Pending, "a")[0]; got.RetryIn != store.Never {
		e.t.Fatalf("it is listed with retry in %v, want never", got.RetryIn)
	}
	if err := e.Store.Fail(e.ctx, []store.Failure{f}); !errors.Is(err, store.ErrLeaseLost) {
		e.t.Fatalf("fail returned %v, want ErrLeaseLost", err)
	}
	c = e.claim(store.ClaimRequest{Owner: "second"})
	e.fail(e.failure(c, &row))
	if row := e.pending()[0]; row.RetryIn <= 0 || row.RetryIn > time.Hour {
		e.t.Fatalf("retry in %v, want an hour at most", row.RetryIn)
	}
}
