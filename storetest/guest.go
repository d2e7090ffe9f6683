package storetest

import (
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func guestCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Guest/TakesWhatIsFree", run: guestFree[Tx]},
		{name: "Guest/HasNoShare", run: guestShare[Tx]},
		{name: "Guest/KeepsWhatItHas", run: guestKeeps[Tx]},
		{name: "Guest/TakesOverExpired", run: guestExpired[Tx]},
		{name: "Guest/Most", run: guestMost[Tx], unless: oneShard[Tx]},
		{name: "Guest/Fails", run: guestFails[Tx]},
	}
}

func (e *env[Tx]) guest(owner string) store.Claim {
	e.t.Helper()
	return e.claim(store.ClaimRequest{Owner: owner, Guest: true})
}

func guestFree[Tx any](e *env[Tx]) {
	c := e.guest("g")
	if shardsOf(c.Leases) != e.all() || c.Target != e.Features.Shards || c.Relays != 0 {
		e.t.Fatalf("%d leases, target %d, %d relays, want all %d shards and no relay", len(c.Leases), c.Target, c.Relays, e.Features.Shards)
	}
	e.sameLeases(e.guest("g"), c)
	e.ok(e.Store.Leave(e.ctx, "g", nil), "leave")
	other := e.guest("h")
	if shardsOf(other.Leases) != e.all() {
		e.t.Fatalf("%d leases after the first left, want all", len(other.Leases))
	}
	e.differentTokens(c, other)
}

// guestShare: relays make no room for a guest.
func guestShare[Tx any](e *env[Tx]) {
	before := e.claim(store.ClaimRequest{Owner: "relay"})
	g := e.guest("g")
	if len(g.Leases) != 0 || g.Target != 0 || g.Relays != 1 {
		e.t.Fatalf("%d leases, target %d, %d relays beside a relay that has all, want 0, 0 and 1", len(g.Leases), g.Target, g.Relays)
	}
	after := e.claim(store.ClaimRequest{Owner: "relay"})
	if after.Target != e.Features.Shards || after.Relays != 1 {
		e.t.Fatalf("target %d of %d relays, want all and 1", after.Target, after.Relays)
	}
	e.sameLeases(after, before)
	if relays := e.stats().Relays; len(relays) != 1 || relays[0].ID != "relay" {
		e.t.Fatalf("the relays are %+v, want one", relays)
	}
}

// guestKeeps: what a guest has, a relay waits for.
func guestKeeps[Tx any](e *env[Tx]) {
	g := e.guest("g")
	c := e.claim(store.ClaimRequest{Owner: "relay"})
	if len(c.Leases) != 0 || c.Target != e.Features.Shards || c.Relays != 1 {
		e.t.Fatalf("%d leases, target %d, %d relays beside a guest that has all, want 0, all and 1", len(c.Leases), c.Target, c.Relays)
	}
	e.sameLeases(e.guest("g"), g)
	half := store.FirstShards(e.Features.Shards / 2)
	e.claim(store.ClaimRequest{Owner: "g", Guest: true, Release: half, Most: e.Features.Shards - half.Len()})
	if c := e.claim(store.ClaimRequest{Owner: "relay"}); shardsOf(c.Leases) != half {
		e.t.Fatalf("the relay has %d shards, want the %d that were given back", len(c.Leases), half.Len())
	}
	e.ok(e.Store.Leave(e.ctx, "g", nil), "leave")
	if c := e.claim(store.ClaimRequest{Owner: "relay"}); len(c.Leases) != e.Features.Shards {
		e.t.Fatalf("the relay has %d shards after the guest left, want all", len(c.Leases))
	}
}

func guestExpired[Tx any](e *env[Tx]) {
	const ttl = 200 * time.Millisecond
	dead := e.claim(store.ClaimRequest{Owner: "dead", TTL: ttl})
	var c store.Claim
	e.eventually("a guest takes over what was not renewed", func() bool {
		c = e.claim(store.ClaimRequest{Owner: "g", Guest: true, TTL: ttl})
		return len(c.Leases) == e.Features.Shards
	})
	e.differentTokens(dead, c)
	e.eventually("a relay takes over from a guest that did not come back", func() bool {
		return len(e.claim(store.ClaimRequest{Owner: "relay"}).Leases) == e.Features.Shards
	})
}

func guestMost[Tx any](e *env[Tx]) {
	c := e.claim(store.ClaimRequest{Owner: "g", Guest: true, Most: 1})
	if len(c.Leases) != 1 || c.Target != 1 {
		e.t.Fatalf("%d leases, target %d, want the 1 that it wants at most", len(c.Leases), c.Target)
	}
	again := e.claim(store.ClaimRequest{Owner: "g", Guest: true, Most: 1})
	e.sameLeases(again, c)
	rest := e.guest("h")
	if shardsOf(rest.Leases) != e.all().Without(shardsOf(c.Leases)) {
		e.t.Fatalf("the second guest has %d shards, want the rest", len(rest.Leases))
	}
}

func guestFails[Tx any](e *env[Tx]) {
	e.emit(numbered(2)...)
	c := e.guest("g")
	rows := e.pending()
	e.fail(e.failure(c, &rows[0]))
	e.bury(c, store.Invalid, false, rows[1])
	if row := e.pending()[0]; row.Attempts != 1 {
		e.t.Fatalf("attempts %d, want 1", row.Attempts)
	}
	e.wantListed(store.Dead, "t.1")
	e.emit(outbox.Event{Topic: "next"})
	e.wantPending("t.0", "next")
}
