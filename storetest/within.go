package storetest

import (
	"errors"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func withinCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Within/CommitDoesAll", run: withinCommit[Tx], unless: noWithin[Tx]},
		{name: "Within/RollbackLeavesNothing", run: withinRollback[Tx], unless: noWithin[Tx]},
		{name: "Within/SeesWhatItDid", run: withinSees[Tx], unless: noWithin[Tx]},
		{name: "Within/RelaysKeepWhatTheyHave", run: withinRelays[Tx], unless: noWithin[Tx]},
		{name: "Within/RelaysDoNotGetWhatItHas", run: withinTakes[Tx], unless: noWithin[Tx]},
		{name: "Within/LocksOutliveTheLease", run: withinExpired[Tx], unless: noWithinOrSingleWriter[Tx]},
		{name: "Within/TwoAtTheSameTime", run: withinTwo[Tx], unless: noWithinOrSingleWriter[Tx]},
		{name: "Within/StaleToken", run: withinStale[Tx], unless: noWithin[Tx]},
		{name: "Within/History", run: withinHistory[Tx], unless: noWithin[Tx]},
	}
}

func noWithin[Tx any](h *Harness[Tx]) string {
	if h.Within == nil {
		return "no draining in a transaction of the user's"
	}
	return ""
}

func noWithinOrSingleWriter[Tx any](h *Harness[Tx]) string {
	if reason := noWithin(h); reason != "" {
		return reason
	}
	return singleWriter(h)
}

// take claims all shards within tx.
func (e *env[Tx]) take(tx Tx, owner string) (Once, store.Claim) {
	e.t.Helper()
	return e.takeFor(tx, owner, time.Minute)
}

func (e *env[Tx]) takeFor(tx Tx, owner string, ttl time.Duration) (Once, store.Claim) {
	e.t.Helper()
	v := e.Within(tx)
	if n := v.Shards(); n != e.Features.Shards {
		e.t.Fatalf("%d shards, want %d", n, e.Features.Shards)
	}
	c, err := v.Claim(e.ctx, store.ClaimRequest{Owner: owner, Name: "test " + owner, TTL: ttl, Guest: true})
	e.ok(err, "claim within a transaction")
	return v, c
}

// readIn returns all that v reads from the start.
func (e *env[Tx]) readIn(v Once) []store.Row {
	e.t.Helper()
	pages, err := v.Read(e.ctx, e.from(store.Cursor{}))
	e.ok(err, "read within a transaction")
	return pages[0].Rows
}

// half begins a transaction that has settled the first, failed the second and
// buried the third of four messages, and has written a row of its own.
func (e *env[Tx]) half() (Tx, Once) {
	e.t.Helper()
	events := numbered(4)
	events[2].Key = "k"
	e.emit(events...)
	tx := e.begin()
	v, c := e.take(tx, "once")
	if len(c.Leases) != e.Features.Shards || c.Relays != 0 {
		e.t.Fatalf("%d leases and %d relays, want all shards and none", len(c.Leases), c.Relays)
	}
	rows := e.readIn(v)
	e.wantTopics(rows, "t.0", "t.1", "t.2", "t.3")
	dead := e.failure(c, &rows[2])
	dead.Dead, dead.Park = store.Exhausted, true
	e.ok(v.Settle(e.ctx, refsOf(rows[:1]), false), "settle within a transaction")
	e.ok(v.Fail(e.ctx, []store.Failure{e.failure(c, &rows[1]), dead}), "fail within a transaction")
	e.ok(e.Insert(e.ctx, tx, "business"), "insert")
	return tx, v
}

func withinCommit[Tx any](e *env[Tx]) {
	tx, v := e.half()
	e.wantPending("t.0", "t.1", "t.2", "t.3")
	e.wantListed(store.Dead)
	e.ok(v.Leave(e.ctx, "once", nil), "leave within a transaction")
	e.commit(tx)
	rows := e.pending()
	e.wantTopics(rows, "t.1", "t.3")
	if rows[0].Attempts != 1 || rows[0].RetryIn <= 0 || rows[1].Attempts != 0 {
		e.t.Fatalf("attempts %d and %d, retry in %v, want 1 and 0, an hour", rows[0].Attempts, rows[1].Attempts, rows[0].RetryIn)
	}
	e.wantListed(store.Dead, "t.2")
	e.wantParked(store.Key{Key: "k"})
	e.wantBusiness(1)
	if c := e.claim(store.ClaimRequest{Owner: "relay"}); len(c.Leases) != e.Features.Shards || c.Relays != 1 {
		e.t.Fatalf("a relay has %d shards of %d relays, want all and 1", len(c.Leases), c.Relays)
	}
}

func withinRollback[Tx any](e *env[Tx]) {
	tx, _ := e.half()
	e.rollback(tx)
	rows := e.pending()
	e.wantTopics(rows, "t.0", "t.1", "t.2", "t.3")
	for i := range rows {
		if rows[i].Attempts != 0 || rows[i].RetryIn > 0 {
			e.t.Fatalf("%s has %d attempts and waits for %v, want none", rows[i].Topic, rows[i].Attempts, rows[i].RetryIn)
		}
	}
	e.wantListed(store.Dead)
	e.wantParked()
	e.wantBusiness(0)
	if c := e.claim(store.ClaimRequest{Owner: "relay"}); len(c.Leases) != e.Features.Shards || c.Relays != 1 {
		e.t.Fatalf("a relay has %d shards of %d relays, want all and 1", len(c.Leases), c.Relays)
	}
}

func withinSees[Tx any](e *env[Tx]) {
	tx, v := e.half()
	rows := e.readIn(v)
	e.wantTopics(rows, "t.1", "t.3")
	if rows[0].Attempts != 1 {
		e.t.Fatalf("attempts %d, want 1", rows[0].Attempts)
	}
	keys, err := v.Parked(e.ctx, e.all())
	e.ok(err, "parked within a transaction")
	if len(keys) != 1 || keys[0] != (store.Key{Key: "k"}) {
		e.t.Fatalf("the keys %v are parked, want k", keys)
	}
	e.rollback(tx)
}

func withinRelays[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a"})
	before := e.claim(store.ClaimRequest{Owner: "relay"})
	tx := e.begin()
	if _, c := e.take(tx, "once"); len(c.Leases) != 0 {
		e.t.Fatalf("a transaction got %d shards of a relay that is alive", len(c.Leases))
	}
	e.commit(tx)
	after := e.claim(store.ClaimRequest{Owner: "relay"})
	e.sameLeases(after, before)
	if after.Target != e.Features.Shards || after.Relays != 1 {
		e.t.Fatalf("target %d of %d relays, want all and 1", after.Target, after.Relays)
	}
}

// withinTakes: a relay that claims meanwhile gets nothing of it, be it that it is
// told at once or that it has to wait.
func withinTakes[Tx any](e *env[Tx]) {
	tx := e.begin()
	if _, c := e.take(tx, "once"); len(c.Leases) != e.Features.Shards {
		e.t.Fatalf("%d leases, want all", len(c.Leases))
	}
	other := e.Open(e.t)
	claimed := make(chan store.Claim, 1)
	failed := make(chan error, 1)
	go func() {
		c, err := other.Claim(e.ctx, store.ClaimRequest{Owner: "relay", Name: "relay", TTL: time.Minute})
		claimed <- c
		failed <- err
	}()
	if !e.Features.SingleWriter {
		e.ok(<-failed, "claim")
		failed <- nil
	}
	e.commit(tx)
	e.ok(<-failed, "claim")
	if c := <-claimed; len(c.Leases) != 0 {
		e.t.Fatalf("a relay got %d shards that a transaction has", len(c.Leases))
	}
	e.ok(e.Store.Leave(e.ctx, "once", nil), "leave")
	if c := e.claim(store.ClaimRequest{Owner: "relay"}); len(c.Leases) != e.Features.Shards {
		e.t.Fatalf("a relay has %d shards afterwards, want all", len(c.Leases))
	}
}

// withinExpired: what a transaction has taken is its own for as long as it runs.
func withinExpired[Tx any](e *env[Tx]) {
	const ttl = 50 * time.Millisecond
	e.emit(outbox.Event{Topic: "a", Key: "k"})
	tx := e.begin()
	v, c := e.takeFor(tx, "once", ttl)
	rows := e.readIn(v)
	time.Sleep(3 * ttl) // by the database's clock, which no test can set
	if c := e.claim(store.ClaimRequest{Owner: "relay"}); len(c.Leases) != 0 {
		e.t.Fatalf("a relay got %d shards that a transaction has", len(c.Leases))
	}
	e.ok(v.Fail(e.ctx, []store.Failure{e.failure(c, &rows[0])}), "fail within a transaction")
	e.ok(v.Leave(e.ctx, "once", nil), "leave within a transaction")
	e.commit(tx)
	if row := e.pending()[0]; row.Attempts != 1 {
		e.t.Fatalf("attempts %d, want 1", row.Attempts)
	}
	if c := e.claim(store.ClaimRequest{Owner: "relay"}); len(c.Leases) != e.Features.Shards {
		e.t.Fatalf("a relay has %d shards afterwards, want all", len(c.Leases))
	}
}

func withinTwo[Tx any](e *env[Tx]) {
	first, second := e.begin(), e.begin()
	v, c := e.take(first, "first")
	if len(c.Leases) != e.Features.Shards {
		e.t.Fatalf("%d leases, want all", len(c.Leases))
	}
	if _, c := e.take(second, "second"); len(c.Leases) != 0 {
		e.t.Fatalf("the second transaction got %d shards that the first has", len(c.Leases))
	}
	e.ok(v.Leave(e.ctx, "first", nil), "leave within a transaction")
	if _, c := e.take(second, "second"); len(c.Leases) != 0 {
		e.t.Fatalf("the second transaction got %d shards before the first has ended", len(c.Leases))
	}
	e.rollback(first)
	if _, c := e.take(second, "second"); len(c.Leases) != e.Features.Shards {
		e.t.Fatalf("the second transaction got %d shards, want all", len(c.Leases))
	}
	e.rollback(second)
}

func withinStale[Tx any](e *env[Tx]) {
	e.emit(numbered(2)...)
	tx := e.begin()
	v, c := e.take(tx, "once")
	rows := e.readIn(v)
	wrong := e.failure(c, &rows[0])
	wrong.Lease.Token++
	if err := v.Fail(e.ctx, []store.Failure{e.failure(c, &rows[1]), wrong}); !errors.Is(err, store.ErrLeaseLost) {
		e.t.Fatalf("fail returned %v, want ErrLeaseLost", err)
	}
	e.commit(tx)
	for _, row := range e.pending() {
		if row.Attempts != 0 {
			e.t.Fatalf("%s has %d attempts, want none", row.Topic, row.Attempts)
		}
	}
}

func withinHistory[Tx any](e *env[Tx]) {
	e.emit(numbered(2)...)
	for _, keep := range []bool{true, false} {
		tx := e.begin()
		v, _ := e.take(tx, "once")
		rows := e.readIn(v)
		e.ok(v.Settle(e.ctx, refsOf(rows[:1]), keep), "settle within a transaction")
		e.ok(v.Leave(e.ctx, "once", nil), "leave within a transaction")
		e.commit(tx)
	}
	e.wantPending()
	e.wantListed(store.Sent, "t.0")
}
