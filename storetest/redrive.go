package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func redriveCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Redrive/WhereItWas", run: redriveWhere[Tx]},
		{name: "Redrive/BeforeWhatWasCommittedLater", run: redriveBefore[Tx]},
		{name: "Redrive/WholeParkedKey", run: redriveWhole[Tx]},
		{name: "Redrive/OneOfAKeyThatIsNotParked", run: redriveOne[Tx]},
		{name: "Redrive/NewTokens", run: redriveTokens[Tx]},
		{name: "Redrive/NewTokensOnTheRouteAlone", run: redriveRouteToken[Tx]},
		{name: "Redrive/OwnerStays", run: redriveOwner[Tx]},
		{name: "Redrive/ExpiryThatHasPassed", run: redriveExpired[Tx]},
		{name: "Redrive/UnknownPlaces", run: redriveUnknown[Tx]},
		{name: "Redrive/AtTheSameTime", run: redriveConcurrently[Tx]},
	}
}

func redriveWhere[Tx any](e *env[Tx]) {
	for i := range 4 {
		e.emit(outbox.Event{Topic: fmt.Sprintf("t.%d", i), Key: "k"})
	}
	c := e.claim(store.ClaimRequest{Owner: "first"})
	before := e.pending()
	e.bury(c, store.Exhausted, false, before[0], before[2])
	e.wantPending("t.1", "t.3")
	e.redrive(2, placesOf(e.wantListed(store.Dead, "t.0", "t.2"))...)
	e.Store = e.Open(e.t)
	after := e.pending()
	for i := range after {
		if after[i].RetryIn > 0 {
			e.t.Fatalf("%s waits for %v, want it due", after[i].Topic, after[i].RetryIn)
		}
		after[i].LastError = ""
	}
	e.sameRows(after, before)
}

// redriveBefore: however many commits came later, all is read in the order of
// positions.
func redriveBefore[Tx any](e *env[Tx]) {
	const commits, each = 3, 700
	for range commits {
		e.emit(numbered(each)...)
	}
	c := e.claim(store.ClaimRequest{Owner: "first"})
	r := e.from(store.Cursor{})
	r.Limit = 1000
	rows, _ := e.readAll(r)
	e.bury(c, store.Exhausted, false, rows[0], rows[each], rows[2*each+1], rows[3*each-1])
	e.redrive(4, placesOf(e.list(store.Query{State: store.Dead}))...)
	again, _ := e.readAll(r)
	if len(again) != commits*each {
		e.t.Fatalf("%d rows, want %d", len(again), commits*each)
	}
	for i := 1; i < len(again); i++ {
		if again[i].Position <= again[i-1].Position {
			e.t.Fatalf("position %d follows %d", again[i].Position, again[i-1].Position)
		}
	}
}

func redriveWhole[Tx any](e *env[Tx]) {
	const n = 1200
	var events []outbox.Event
	for i := range n {
		events = append(events, outbox.Event{Topic: fmt.Sprintf("t.%d", i), Key: "k"})
	}
	e.emit(events...)
	e.emit(outbox.Event{Topic: "x", Key: "k", Tenant: "x"}, outbox.Event{Topic: "none"}, outbox.Event{Topic: "newer", Key: "k"})
	c := e.claim(store.ClaimRequest{Owner: "first"})
	r := e.from(store.Cursor{})
	r.Limit = 1000
	rows, _ := e.readAll(r)
	e.bury(c, store.Exhausted, true, rows[0])
	e.bury(c, store.Parked, true, rows[1:n]...)
	e.bury(c, store.Exhausted, true, rows[n])
	e.bury(c, store.Invalid, false, rows[n+1])
	e.wantPending("newer")
	dead := e.list(store.Query{State: store.Dead, Limit: 10})
	e.redrive(n, dead[7].Place, dead[3].Place)
	e.wantListed(store.Dead, "x", "none")
	e.wantParked(store.Key{Tenant: "x", Key: "k"})
	e.wantPending(append(topics(events), "newer")...)
}

func redriveOne[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a", Key: "k"}, outbox.Event{Topic: "b", Key: "k"})
	c := e.claim(store.ClaimRequest{Owner: "first"})
	e.bury(c, store.Exhausted, false, e.pending()...)
	dead := e.wantListed(store.Dead, "a", "b")
	e.redrive(1, dead[1].Place)
	e.wantPending("b")
	e.wantListed(store.Dead, "a")
}

// redriveTokens: what an owner knows of the shard is true no longer, so that it can
// write nothing more under what it had.
func redriveTokens[Tx any](e *env[Tx]) {
	e.emit(keyed(60)...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	dead, alive := rows[0], rows[1]
	for i := range rows {
		if rows[i].Shard == dead.Shard && i > 0 {
			alive = rows[i]
		}
	}
	e.bury(c, store.Exhausted, false, dead)
	e.sameLeases(e.claim(store.ClaimRequest{Owner: "first"}), c)
	e.redrive(1, e.wantListed(store.Dead, dead.Topic)[0].Place)
	if alive.Shard == dead.Shard {
		e.wantLeaseLost(e.failure(c, &alive))
	}
	e.wantLeaseLost(e.failure(c, &dead))
	e.wantNewTokens("first", c, store.ShardSet(0).With(dead.Shard))
	e.fail(e.failure(e.claim(store.ClaimRequest{Owner: "first"}), &dead))
}

func redriveRouteToken[Tx any](e *env[Tx]) {
	side := e.route("side")
	e.emitTo("side", outbox.Event{Topic: "a", Key: "k"})
	mine, theirs := e.claim(store.ClaimRequest{Owner: "m"}), side.claim(store.ClaimRequest{Owner: "s"})
	rows := side.pending()
	side.bury(theirs, store.Exhausted, false, rows...)
	e.redrive(1, e.wantListed(store.Dead, "a")[0].Place)
	e.wantNewTokens("m", mine, 0)
	side.wantNewTokens("s", theirs, shardsOfRows(rows))
	e.wantPending()
	side.wantPending("a")
}

func redriveOwner[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a"})
	c := e.claim(store.ClaimRequest{Owner: "first"})
	e.bury(c, store.Exhausted, false, e.pending()...)
	e.redrive(1, e.wantListed(store.Dead, "a")[0].Place)
	if other := e.claim(store.ClaimRequest{Owner: "second"}); len(other.Leases) != 0 {
		e.t.Fatalf("another relay got %d shards of the one that is alive", len(other.Leases))
	}
}

func redriveExpired[Tx any](e *env[Tx]) {
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour).Truncate(time.Microsecond).UTC()
	e.emit(outbox.Event{Topic: "past", ExpiresAt: past}, outbox.Event{Topic: "future", ExpiresAt: future})
	c := e.claim(store.ClaimRequest{Owner: "first"})
	e.bury(c, store.Expired, false, e.pending()...)
	e.redrive(2, placesOf(e.wantListed(store.Dead, "past", "future"))...)
	rows := e.pending()
	e.wantTopics(rows, "past", "future")
	if !rows[0].ExpiresAt.IsZero() || !rows[1].ExpiresAt.Equal(future) || rows[1].ExpiresIn <= 0 {
		e.t.Fatalf("they expire at %v and %v, want never and %v", rows[0].ExpiresAt, rows[1].ExpiresAt, future)
	}
}

func redriveUnknown[Tx any](e *env[Tx]) {
	e.emit(numbered(3)...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.redrive(0)
	e.redrive(0, 0, -1, rows[0].Position, rows[2].Position+1000)
	e.discard(0, 0, -1, rows[0].Position, rows[2].Position+1000)
	e.bury(c, store.Invalid, false, rows[1])
	place := e.wantListed(store.Dead, "t.1")[0].Place
	e.redrive(1, place, place, place+1000)
	e.redrive(0, place)
	e.discard(0, place)
	e.wantPending("t.0", "t.1", "t.2")
}

func redriveConcurrently[Tx any](e *env[Tx]) {
	const n = 40
	var events []outbox.Event
	for i := range n {
		events = append(events, outbox.Event{Topic: fmt.Sprintf("t.%d", i), Key: fmt.Sprint("key-", i%4)})
	}
	e.emit(events...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	e.bury(c, store.Exhausted, true, e.pending()...)
	places := placesOf(e.list(store.Query{State: store.Dead}))
	stores := []Store[Tx]{e.Store, e.Open(e.t)}
	var redriven atomic.Int64
	errs := make([]error, 4)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			for j := range places {
				moved, err := stores[i%2].Redrive(e.ctx, places[(j+i*10)%n:][:1])
				redriven.Add(int64(moved))
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	group.Wait()
	e.ok(errors.Join(errs...), "redrive")
	if redriven.Load() != n {
		e.t.Fatalf("%d messages were redriven, want %d", redriven.Load(), n)
	}
	e.wantPending(topics(events)...)
	e.wantParked()
}
