package storetest

import (
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func doubtCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Doubt/UpToAPosition", run: doubtUpTo[Tx]},
		{name: "Doubt/OfAClaim", run: doubtClaim[Tx]},
		{name: "Doubt/IsKept", run: doubtKept[Tx]},
		{name: "Doubt/OfWhoHoldsTheShard", run: doubtForeign[Tx]},
		{name: "Doubt/ExpiredLease", run: doubtExpired[Tx]},
		{name: "Doubt/ExpiredLeaseWasTakenOver", run: doubtTakenOver[Tx]},
		{name: "Doubt/RoutesApart", run: doubtRoutes[Tx]},
	}
}

// three emits messages of one key and returns them as rows.
func (e *env[Tx]) three() []store.Row {
	e.t.Helper()
	events := numbered(3)
	for i := range events {
		events[i].Key = "k"
	}
	e.emit(events...)
	return e.pending()
}

// doubtUpTo: what is behind the position was never sent.
func doubtUpTo[Tx any](e *env[Tx]) {
	rows := e.three()
	e.claim(store.ClaimRequest{Owner: "relay"})
	e.ok(e.Store.Leave(e.ctx, "relay", map[uint8]int64{rows[0].Shard: rows[1].Position}), "leave")
	e.wantWithdrawal(rows[0].ID, "me", store.TooLate)
	e.wantWithdrawal(rows[1].ID, "me", store.TooLate)
	e.wantWithdrawal(rows[2].ID, "me", store.Withdrawn)
	e.wantPending("t.0", "t.1")
}

func doubtClaim[Tx any](e *env[Tx]) {
	rows := e.three()
	doubt := map[uint8]int64{rows[0].Shard: rows[0].Position}
	e.claim(store.ClaimRequest{Owner: "relay"})
	e.wantWithdrawal(rows[0].ID, "me", store.Asked)
	e.claim(store.ClaimRequest{Owner: "relay", Release: shardsOfRows(rows), Doubt: doubt})
	e.wantWithdrawal(rows[0].ID, "me", store.TooLate)
	e.wantWithdrawal(rows[1].ID, "me", store.Withdrawn)
}

// doubtKept: the greatest is kept, also when the shard changes hands.
func doubtKept[Tx any](e *env[Tx]) {
	rows := e.three()
	shard := rows[0].Shard
	e.claim(store.ClaimRequest{Owner: "a"})
	e.claim(store.ClaimRequest{Owner: "a", Doubt: map[uint8]int64{shard: rows[1].Position}})
	e.claim(store.ClaimRequest{Owner: "a", Doubt: map[uint8]int64{shard: rows[0].Position}})
	e.claim(store.ClaimRequest{Owner: "a"})
	e.ok(e.Store.Leave(e.ctx, "a", map[uint8]int64{shard: 0}), "leave")
	e.claim(store.ClaimRequest{Owner: "b"})
	e.ok(e.Store.Leave(e.ctx, "b", nil), "leave")
	e.wantWithdrawal(rows[1].ID, "me", store.TooLate)
	e.wantWithdrawal(rows[2].ID, "me", store.Withdrawn)
}

// doubtForeign: who has lost a shard, or never had it, says nothing of it.
func doubtForeign[Tx any](e *env[Tx]) {
	rows := e.three()
	doubt := map[uint8]int64{rows[0].Shard: rows[2].Position}
	e.claim(store.ClaimRequest{Owner: "relay"})
	e.claim(store.ClaimRequest{Owner: "other", Doubt: doubt})
	e.ok(e.Store.Leave(e.ctx, "other", doubt), "leave")
	e.ok(e.Store.Leave(e.ctx, "relay", nil), "leave")
	e.wantWithdrawal(rows[2].ID, "me", store.Withdrawn)
}

// expire has a relay claim all and die.
func (e *env[Tx]) expire() {
	e.t.Helper()
	const ttl = 100 * time.Millisecond
	e.claim(store.ClaimRequest{Owner: "dead", TTL: ttl})
	time.Sleep(3 * ttl) // by the database's clock, which no test can set
}

// doubtExpired: nobody knows what an owner sent that died.
func doubtExpired[Tx any](e *env[Tx]) {
	rows := e.three()
	e.expire()
	e.wantWithdrawal(rows[2].ID, "me", store.TooLate)
	e.wantWithdrawal(rows[0].ID, "me", store.TooLate)
	later := e.emitTo("", outbox.Event{Topic: "later", Key: "k"})
	e.wantWithdrawal(later[0].ID, "me", store.Withdrawn)
	e.letGo("me")
	e.claim(store.ClaimRequest{Owner: "heir"})
	e.ok(e.Store.Leave(e.ctx, "heir", nil), "leave")
	e.wantWithdrawal(rows[2].ID, "me", store.TooLate)
	e.wantPending("t.0", "t.1", "t.2")
}

func doubtTakenOver[Tx any](e *env[Tx]) {
	rows := e.three()
	e.expire()
	e.eventually("another relay takes over what was not renewed", func() bool {
		return len(e.claim(store.ClaimRequest{Owner: "heir"}).Leases) == e.Features.Shards
	})
	later := e.emitTo("", outbox.Event{Topic: "later", Key: "k"})
	e.ok(e.Store.Leave(e.ctx, "heir", nil), "leave")
	e.wantWithdrawal(rows[2].ID, "me", store.TooLate)
	e.wantWithdrawal(later[0].ID, "me", store.Withdrawn)
	e.wantPending("t.0", "t.1", "t.2")
}

func doubtRoutes[Tx any](e *env[Tx]) {
	rows := e.three()
	side := e.route("side")
	side.claim(store.ClaimRequest{Owner: "s"})
	e.ok(side.Store.Leave(e.ctx, "s", map[uint8]int64{rows[0].Shard: rows[2].Position}), "leave")
	e.wantWithdrawal(rows[0].ID, "me", store.Withdrawn)
	side.expire()
	e.wantWithdrawal(rows[1].ID, "me", store.Withdrawn)
}
