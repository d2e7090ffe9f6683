package storetest

import (
	"cmp"
	"slices"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// route returns e as those see it who drain a route.
func (e *env[Tx]) route(name string) *env[Tx] {
	e.t.Helper()
	if e.Route == nil {
		e.t.Fatal("the harness has no Route")
	}
	view := *e
	view.Store = e.Route(e.Store, name)
	return &view
}

// emitTo commits events for a route and returns them as messages.
func (e *env[Tx]) emitTo(route string, events ...outbox.Event) []outbox.Message {
	e.t.Helper()
	msgs, err := e.ob.Prepare(e.ctx, events...)
	e.ok(err, "prepare")
	for i := range msgs {
		msgs[i].Route = route
	}
	e.insert(msgs...)
	return msgs
}

func (e *env[Tx]) list(q store.Query) []store.Stored {
	e.t.Helper()
	if q.Limit == 0 {
		q.Limit = 10_000
	}
	found, err := e.Store.List(e.ctx, q)
	e.ok(err, "list "+string(q.State))
	return found
}

// wantListed fails the test unless the topics of all messages of a state are these,
// in the order of places.
func (e *env[Tx]) wantListed(state store.State, topics ...string) []store.Stored {
	e.t.Helper()
	found := e.list(store.Query{State: state})
	if got := storedTopics(found); !slices.Equal(got, topics) {
		e.t.Fatalf("%s are messages of the topics %v, want %v", state, got, topics)
	}
	return found
}

func storedTopics(found []store.Stored) []string {
	list := make([]string, len(found))
	for i := range found {
		list[i] = found[i].Topic
	}
	return list
}

func placesOf(found []store.Stored) []int64 {
	list := make([]int64, len(found))
	for i := range found {
		list[i] = found[i].Place
	}
	return list
}

// bury makes dead letters of rows, with their keys parked if park is set.
func (e *env[Tx]) bury(c store.Claim, reason store.Reason, park bool, rows ...store.Row) {
	e.t.Helper()
	failures := make([]store.Failure, len(rows))
	for i := range rows {
		failures[i] = e.failure(c, &rows[i])
		failures[i].Dead, failures[i].Park = reason, park
	}
	e.fail(failures...)
}

// parked returns the keys that are parked, sorted.
func (e *env[Tx]) parked() []store.Key {
	e.t.Helper()
	return e.parkedIn(e.all())
}

func (e *env[Tx]) parkedIn(shards store.ShardSet) []store.Key {
	e.t.Helper()
	keys, err := e.Store.Parked(e.ctx, shards)
	e.ok(err, "parked")
	return sortedKeys(keys)
}

func sortedKeys(keys []store.Key) []store.Key {
	slices.SortFunc(keys, func(a, b store.Key) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Key, b.Key))
	})
	return keys
}

func (e *env[Tx]) wantParked(want ...store.Key) {
	e.t.Helper()
	if got := e.parked(); !slices.Equal(got, sortedKeys(want)) {
		e.t.Fatalf("the keys %v are parked, want %v", got, want)
	}
}

func (e *env[Tx]) redrive(want int, places ...int64) {
	e.t.Helper()
	n, err := e.Store.Redrive(e.ctx, places)
	e.ok(err, "redrive")
	if n != want {
		e.t.Fatalf("%d messages were redriven, want %d", n, want)
	}
}

func (e *env[Tx]) discard(want int, places ...int64) {
	e.t.Helper()
	n, err := e.Store.Discard(e.ctx, places)
	e.ok(err, "discard")
	if n != want {
		e.t.Fatalf("%d messages were discarded, want %d", n, want)
	}
}

// wantNewTokens fails the test unless the owner of before has the same shards now,
// those of shards under new tokens and the others under the same ones.
func (e *env[Tx]) wantNewTokens(owner string, before store.Claim, shards store.ShardSet) {
	e.t.Helper()
	now := e.claim(store.ClaimRequest{Owner: owner})
	if shardsOf(now.Leases) != shardsOf(before.Leases) {
		e.t.Fatalf("%s has %d leases, want the %d that it had", owner, len(now.Leases), len(before.Leases))
	}
	for _, l := range before.Leases {
		after, _ := leaseOf(now, l.Shard)
		if changed := after.Token != l.Token; changed != shards.Has(l.Shard) {
			e.t.Fatalf("the token of shard %d went from %d to %d, want another one: %t", l.Shard, l.Token, after.Token, shards.Has(l.Shard))
		}
	}
}

func shardsOfRows(rows []store.Row) store.ShardSet {
	var set store.ShardSet
	for i := range rows {
		set = set.With(rows[i].Shard)
	}
	return set
}
