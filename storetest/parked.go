package storetest

import (
	"fmt"
	"slices"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func parkedCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Parked/KeysOfTheseShards", run: parkedShards[Tx]},
		{name: "Parked/OnlyWhatWasParked", run: parkedOnly[Tx]},
		{name: "Parked/TenantsApart", run: parkedTenants[Tx]},
		{name: "Parked/UntilRedriven", run: parkedRedriven[Tx]},
		{name: "Parked/UntilTheLastIsDiscarded", run: parkedDiscarded[Tx]},
		{name: "Parked/RoutesApart", run: parkedRoutes[Tx]},
		{name: "Parked/AgainAfterRedriving", run: parkedAgain[Tx]},
	}
}

func parkedShards[Tx any](e *env[Tx]) {
	const n = 300
	events := make([]outbox.Event, n)
	var want []store.Key
	for i := range events {
		key := store.Key{Tenant: []string{"", "x"}[i%2], Key: fmt.Sprintf("key '%d' ü", i)}
		events[i] = outbox.Event{Topic: "a", Key: key.Key, Tenant: key.Tenant}
		want = append(want, key)
	}
	e.wantParked()
	e.emit(events...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.bury(c, store.Exhausted, true, rows...)
	e.Store = e.Open(e.t)
	e.wantParked(want...)
	if keys := e.parkedIn(0); len(keys) != 0 {
		e.t.Fatalf("%d keys of no shards", len(keys))
	}
	shardOf := map[store.Key]uint8{}
	for i := range rows {
		shardOf[store.Key{Tenant: rows[i].Tenant, Key: rows[i].Key}] = rows[i].Shard
	}
	found := 0
	for shard := range uint8(e.Features.Shards) { //nolint:gosec // at most 64
		keys := e.parkedIn(store.ShardSet(0).With(shard))
		found += len(keys)
		if i := slices.IndexFunc(keys, func(k store.Key) bool { return shardOf[k] != shard }); i >= 0 {
			e.t.Fatalf("%v of shard %d is said to be parked in %d", keys[i], shardOf[keys[i]], shard)
		}
	}
	if found != n {
		e.t.Fatalf("the shards have %d parked keys together, want %d", found, n)
	}
}

func parkedOnly[Tx any](e *env[Tx]) {
	e.emit(
		outbox.Event{Topic: "skipped", Key: "a"}, outbox.Event{Topic: "waits", Key: "b"},
		outbox.Event{Topic: "blocked", Key: "c"}, outbox.Event{Topic: "parked", Key: "d"},
	)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	blocked := e.failure(c, &rows[2])
	blocked.RetryIn = store.Never
	e.fail(e.failure(c, &rows[1]), blocked)
	e.bury(c, store.Exhausted, false, rows[0])
	e.bury(c, store.Exhausted, true, rows[3])
	e.wantParked(store.Key{Key: "d"})
	dead := e.wantListed(store.Dead, "skipped", "parked")
	if dead[0].Parked || !dead[1].Parked {
		e.t.Fatalf("they are listed as parked: %t and %t, want only the second", dead[0].Parked, dead[1].Parked)
	}
}

func parkedTenants[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "none", Key: "k"}, outbox.Event{Topic: "x", Key: "k", Tenant: "x"}, outbox.Event{Topic: "y", Key: "k", Tenant: "y"})
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.bury(c, store.Invalid, true, rows[0], rows[1])
	e.wantParked(store.Key{Key: "k"}, store.Key{Tenant: "x", Key: "k"})
	dead := e.wantListed(store.Dead, "none", "x")
	e.redrive(1, dead[0].Place)
	e.wantParked(store.Key{Tenant: "x", Key: "k"})
	e.wantListed(store.Dead, "x")
}

func (e *env[Tx]) parkThree() (store.Claim, []store.Stored) {
	e.t.Helper()
	for i := range 4 {
		e.emit(outbox.Event{Topic: fmt.Sprintf("k.%d", i), Key: "k"}, outbox.Event{Topic: fmt.Sprintf("other.%d", i), Key: "other"})
	}
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.bury(c, store.Exhausted, true, rows[0])
	e.bury(c, store.Parked, true, rows[2], rows[4])
	return c, e.wantListed(store.Dead, "k.0", "k.1", "k.2")
}

func parkedRedriven[Tx any](e *env[Tx]) {
	_, dead := e.parkThree()
	e.wantParked(store.Key{Key: "k"})
	e.redrive(3, dead[1].Place)
	e.wantParked()
	e.wantListed(store.Dead)
	e.wantPending("k.0", "other.0", "k.1", "other.1", "k.2", "other.2", "k.3", "other.3")
}

func parkedDiscarded[Tx any](e *env[Tx]) {
	c, dead := e.parkThree()
	e.discard(2, dead[0].Place, dead[2].Place)
	e.wantParked(store.Key{Key: "k"})
	e.discard(1, dead[1].Place)
	e.wantParked()
	e.wantListed(store.Dead)
	e.wantPending("other.0", "other.1", "other.2", "k.3", "other.3")
	e.wantNewTokens("first", c, store.ShardSet(0).With(dead[0].Shard))
}

func parkedRoutes[Tx any](e *env[Tx]) {
	side := e.route("side")
	e.emitTo("", outbox.Event{Topic: "main", Key: "k"})
	e.emitTo("side", outbox.Event{Topic: "side", Key: "k"}, outbox.Event{Topic: "side", Key: "j"})
	rows := side.pending()
	side.bury(side.claim(store.ClaimRequest{Owner: "s"}), store.Exhausted, true, rows...)
	e.wantParked()
	side.wantParked(store.Key{Key: "j"}, store.Key{Key: "k"})
	e.bury(e.claim(store.ClaimRequest{Owner: "m"}), store.Exhausted, true, e.pending()...)
	dead := e.wantListed(store.Dead, "side", "side", "main")
	e.redrive(1, dead[2].Place)
	e.wantParked()
	side.wantParked(store.Key{Key: "j"}, store.Key{Key: "k"})
	e.wantListed(store.Dead, "side", "side")
}

func parkedAgain[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a", Key: "k"})
	for range 3 {
		c := e.claim(store.ClaimRequest{Owner: "first"})
		e.bury(c, store.Exhausted, true, e.pending()...)
		e.wantParked(store.Key{Key: "k"})
		e.redrive(1, e.wantListed(store.Dead, "a")[0].Place)
		e.wantParked()
	}
	e.wantPending("a")
}
