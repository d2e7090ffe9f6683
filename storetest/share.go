package storetest

import (
	"time"

	"github.com/outbox-go/outbox/store"
)

func shareCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Share/TwoRelays", run: func(e *env[Tx]) { e.wantEven(e.settleShares(nil, "a", "b")) }},
		{name: "Share/FourRelays", run: func(e *env[Tx]) { e.wantEven(e.settleShares(nil, "d", "a", "c", "b")) }},
		{name: "Share/ComeAndGo", run: shareComeAndGo[Tx]},
		{name: "Share/ReleaseHandsOver", run: shareRelease[Tx]},
		{name: "Share/Most", run: shareMost[Tx], unless: oneShard[Tx]},
		{name: "Share/RestOfALimitedRelay", run: shareRest[Tx], unless: oneShard[Tx]},
		{name: "Share/DeadRelayDoesNotCount", run: shareDead[Tx]},
	}
}

// settleShares lets owners claim in turns, each giving back what exceeds its
// target, until nothing changes any more. most are limits of owners, by name.
func (e *env[Tx]) settleShares(most map[string]int, owners ...string) map[string]store.Claim {
	e.t.Helper()
	claims := map[string]store.Claim{}
	for range 20 {
		changed := false
		for _, owner := range owners {
			before := claims[owner]
			c := e.claim(store.ClaimRequest{Owner: owner, Most: most[owner], Release: surplus(before)})
			changed = changed || shardsOf(c.Leases) != shardsOf(before.Leases) || c.Target != before.Target
			claims[owner] = c
		}
		if !changed {
			return claims
		}
	}
	e.t.Fatalf("the shares of %v do not come to rest", owners)
	return nil
}

// surplus returns the shards beyond the claim's target, its last ones.
func surplus(c store.Claim) store.ShardSet {
	if len(c.Leases) <= c.Target {
		return 0
	}
	return shardsOf(c.Leases[c.Target:])
}

// wantEven fails the test unless the claims have all shards, none twice, in shares
// that differ by one at most.
func (e *env[Tx]) wantEven(claims map[string]store.Claim) {
	e.t.Helper()
	e.wantWhole(claims)
	least, greatest := store.MaxShards, 0
	for owner, c := range claims {
		least, greatest = min(least, len(c.Leases)), max(greatest, len(c.Leases))
		if c.Relays != len(claims) || len(c.Leases) > c.Target {
			e.t.Fatalf("%s has %d leases, target %d, %d relays, want %d relays", owner, len(c.Leases), c.Target, c.Relays, len(claims))
		}
	}
	if greatest-least > 1 {
		e.t.Fatalf("the shares are between %d and %d, want a difference of one at most", least, greatest)
	}
}

// wantWhole fails the test unless the claims have all shards, none twice.
func (e *env[Tx]) wantWhole(claims map[string]store.Claim) {
	e.t.Helper()
	var all store.ShardSet
	n := 0
	for _, c := range claims {
		all |= shardsOf(c.Leases)
		n += len(c.Leases)
	}
	if all != e.all() || n != e.Features.Shards {
		e.t.Fatalf("%d leases of %d shards, want one for each of %d", n, all.Len(), e.Features.Shards)
	}
}

func shareComeAndGo[Tx any](e *env[Tx]) {
	e.wantEven(e.settleShares(nil, "b"))
	e.wantEven(e.settleShares(nil, "b", "a", "c"))
	e.ok(e.Store.Leave(e.ctx, "b", nil), "leave")
	e.wantEven(e.settleShares(nil, "a", "c"))
	e.ok(e.Store.Leave(e.ctx, "a", nil), "leave")
	e.wantEven(e.settleShares(nil, "c"))
}

// shareRelease: what is given back can be had by another at once, and comes with
// another token.
func shareRelease[Tx any](e *env[Tx]) {
	first := e.claim(store.ClaimRequest{Owner: "first"})
	e.claim(store.ClaimRequest{Owner: "second"})
	renewed := e.claim(store.ClaimRequest{Owner: "first"})
	given := surplus(renewed)
	rest := e.claim(store.ClaimRequest{Owner: "first", Release: given})
	if shardsOf(rest.Leases) != shardsOf(first.Leases).Without(given) {
		e.t.Fatalf("after giving back %d of %d shards the first has %d", given.Len(), len(first.Leases), len(rest.Leases))
	}
	second := e.claim(store.ClaimRequest{Owner: "second"})
	if shardsOf(second.Leases) != given {
		e.t.Fatalf("the second has %d shards, want the %d that were given back", len(second.Leases), given.Len())
	}
	e.differentTokens(first, second)
}

func shareMost[Tx any](e *env[Tx]) {
	c := e.claim(store.ClaimRequest{Owner: "small", Most: 1})
	if len(c.Leases) != 1 || c.Target != 1 {
		e.t.Fatalf("%d leases, target %d, want the 1 that it wants at most", len(c.Leases), c.Target)
	}
	c = e.claim(store.ClaimRequest{Owner: "small", Most: e.Features.Shards + 5})
	if len(c.Leases) != e.Features.Shards || c.Target != e.Features.Shards {
		e.t.Fatalf("%d leases, target %d, want all %d", len(c.Leases), c.Target, e.Features.Shards)
	}
}

// shareRest: what a relay does not want goes to the others. Nobody would drain it
// otherwise.
func shareRest[Tx any](e *env[Tx]) {
	claims := e.settleShares(map[string]int{"small": 1}, "small", "large")
	e.wantWhole(claims)
	if n := len(claims["small"].Leases); n != 1 {
		e.t.Fatalf("the limited relay has %d shards, want 1", n)
	}
}

func shareDead[Tx any](e *env[Tx]) {
	e.claim(store.ClaimRequest{Owner: "dead", TTL: 200 * time.Millisecond})
	e.eventually("the two that live have all", func() bool {
		claims := map[string]store.Claim{}
		for _, owner := range []string{"a", "b", "a", "b"} {
			claims[owner] = e.claim(store.ClaimRequest{Owner: owner, Release: surplus(claims[owner])})
		}
		return len(claims["a"].Leases)+len(claims["b"].Leases) == e.Features.Shards && claims["a"].Relays == 2
	})
	e.wantEven(e.settleShares(nil, "a", "b"))
}
