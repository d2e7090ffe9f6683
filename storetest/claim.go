package storetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/outbox-go/outbox/store"
)

func claimCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Claim/OneRelayGetsAll", run: claimAll[Tx]},
		{name: "Claim/RenewalKeepsTokens", run: claimRenews[Tx]},
		{name: "Claim/TakesOverExpired", run: claimExpired[Tx]},
		{name: "Claim/RenewsExpiredIfUntaken", run: claimUntaken[Tx]},
		{name: "Claim/HeldLeasesAreNotTaken", run: claimHeld[Tx]},
		{name: "Claim/LeaveHandsOverAtOnce", run: claimLeave[Tx]},
		{name: "Claim/ReleaseOfAnothersShards", run: claimReleaseForeign[Tx]},
		{name: "Claim/AtTheSameTime", run: claimConcurrently[Tx]},
		{name: "Claim/CancelledContext", run: claimCancelled[Tx]},
	}
}

func claimAll[Tx any](e *env[Tx]) {
	c := e.claim(store.ClaimRequest{Owner: "first"})
	if shardsOf(c.Leases) != e.all() || len(c.Leases) != e.Features.Shards || c.Target != e.Features.Shards || c.Relays != 1 {
		e.t.Fatalf("%d leases, target %d, %d relays, want all %d shards for one relay", len(c.Leases), c.Target, c.Relays, e.Features.Shards)
	}
}

func claimRenews[Tx any](e *env[Tx]) {
	before := e.claim(store.ClaimRequest{Owner: "first"})
	e.Store = e.Open(e.t)
	e.sameLeases(e.claim(store.ClaimRequest{Owner: "first"}), before)
}

// sameLeases fails the test unless both claims have the same shards under the same
// tokens.
func (e *env[Tx]) sameLeases(got, want store.Claim) {
	e.t.Helper()
	if len(got.Leases) != len(want.Leases) {
		e.t.Fatalf("%d leases, want %d", len(got.Leases), len(want.Leases))
	}
	for _, l := range want.Leases {
		if now, ok := leaseOf(got, l.Shard); !ok || now.Token != l.Token {
			e.t.Fatalf("the lease of shard %d is %+v, want the token %d", l.Shard, now, l.Token)
		}
	}
}

// differentTokens fails the test if a shard has the same token in both claims.
func (e *env[Tx]) differentTokens(a, b store.Claim) {
	e.t.Helper()
	for _, l := range a.Leases {
		if other, ok := leaseOf(b, l.Shard); ok && other.Token == l.Token {
			e.t.Fatalf("shard %d changed hands and kept the token %d", l.Shard, l.Token)
		}
	}
}

func claimExpired[Tx any](e *env[Tx]) {
	dead := e.claim(store.ClaimRequest{Owner: "dead", TTL: 300 * time.Millisecond})
	var c store.Claim
	e.eventually("another relay takes over what was not renewed", func() bool {
		c = e.claim(store.ClaimRequest{Owner: "heir"})
		return len(c.Leases) == e.Features.Shards && c.Relays == 1
	})
	e.differentTokens(dead, c)
	// The one that was only paused comes back: it holds nothing any more.
	back := e.claim(store.ClaimRequest{Owner: "dead"})
	if len(back.Leases) != 0 || back.Relays != 2 {
		e.t.Fatalf("%d leases and %d relays for one whose leases were taken, want 0 and 2", len(back.Leases), back.Relays)
	}
}

func claimUntaken[Tx any](e *env[Tx]) {
	const ttl = 100 * time.Millisecond
	before := e.claim(store.ClaimRequest{Owner: "paused", TTL: ttl})
	time.Sleep(3 * ttl) // by the database's clock, which no test can set
	e.sameLeases(e.claim(store.ClaimRequest{Owner: "paused"}), before)
}

func claimHeld[Tx any](e *env[Tx]) {
	before := e.claim(store.ClaimRequest{Owner: "first"})
	c := e.claim(store.ClaimRequest{Owner: "second"})
	if len(c.Leases) != 0 || c.Relays != 2 {
		e.t.Fatalf("%d leases and %d relays for the second, want 0 and 2", len(c.Leases), c.Relays)
	}
	e.sameLeases(e.claim(store.ClaimRequest{Owner: "first"}), before)
}

func claimLeave[Tx any](e *env[Tx]) {
	before := e.claim(store.ClaimRequest{Owner: "first"})
	e.ok(e.Store.Leave(e.ctx, "first", nil), "leave")
	e.Store = e.Open(e.t)
	c := e.claim(store.ClaimRequest{Owner: "second"})
	if len(c.Leases) != e.Features.Shards || c.Relays != 1 {
		e.t.Fatalf("%d leases and %d relays after the first left, want all and 1", len(c.Leases), c.Relays)
	}
	e.differentTokens(before, c)
	e.ok(e.Store.Leave(e.ctx, "first", nil), "leave again")
	e.ok(e.Store.Leave(e.ctx, "nobody", nil), "leave of one who never came")
	e.sameLeases(e.claim(store.ClaimRequest{Owner: "second"}), c)
}

func claimReleaseForeign[Tx any](e *env[Tx]) {
	before := e.claim(store.ClaimRequest{Owner: "first"})
	e.claim(store.ClaimRequest{Owner: "second", Release: e.all()})
	e.sameLeases(e.claim(store.ClaimRequest{Owner: "first"}), before)
}

func claimCancelled[Tx any](e *env[Tx]) {
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	if _, err := e.Store.Claim(ctx, store.ClaimRequest{Owner: "first", TTL: time.Minute}); !errors.Is(err, context.Canceled) {
		e.t.Fatalf("claim with a cancelled context returned %v, want context.Canceled", err)
	}
	if c := e.claim(store.ClaimRequest{Owner: "second"}); len(c.Leases) != e.Features.Shards {
		e.t.Fatalf("%d leases, want all: the cancelled claim must have taken none", len(c.Leases))
	}
}

// ledger is who holds which shard, as far as the holders know.
type ledger struct {
	mu     sync.Mutex
	holder map[uint8]string
	tokens map[store.Lease]string
	fault  string
}

// claimConcurrently: several relays claim and release at the same time, and no
// shard ever has two owners.
func claimConcurrently[Tx any](e *env[Tx]) {
	l := &ledger{holder: map[uint8]string{}, tokens: map[store.Lease]string{}}
	stores := []Store[Tx]{e.Store, e.Open(e.t)}
	const relays, rounds = 8, 15
	errs := make([]error, relays)
	var group sync.WaitGroup
	for i := range relays {
		group.Go(func() {
			owner := string(rune('a' + i))
			var held store.ShardSet
			for range rounds {
				release := held & store.ShardSet(rand.Uint64()&rand.Uint64()) //nolint:gosec // no secret
				l.drop(release)
				c, err := stores[i%2].Claim(e.ctx, store.ClaimRequest{Owner: owner, Name: owner, TTL: time.Minute, Release: release})
				if err != nil {
					errs[i] = err
					return
				}
				l.note(owner, c.Leases, held.Without(release))
				held = shardsOf(c.Leases)
			}
		})
	}
	group.Wait()
	e.ok(errors.Join(errs...), "claim")
	if l.fault != "" {
		e.t.Fatal(l.fault)
	}
}

func (l *ledger) drop(shards store.ShardSet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, shard := range shards.Slice() {
		delete(l.holder, uint8(shard)) //nolint:gosec // below 64
	}
}

// note enters what owner holds now, of which it held some before.
func (l *ledger) note(owner string, leases []store.Lease, before store.ShardSet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lost := before.Without(shardsOf(leases)); lost != 0 {
		l.fault = owner + " lost a lease that had not expired"
	}
	for _, lease := range leases {
		if holder := l.holder[lease.Shard]; holder != "" && holder != owner {
			l.fault = "a shard went to " + owner + " while it was " + holder + "'s"
		}
		if first := l.tokens[lease]; first != "" && first != owner {
			l.fault = owner + " got a lease under the token that was " + first + "'s"
		}
		l.holder[lease.Shard], l.tokens[lease] = owner, owner
	}
}
