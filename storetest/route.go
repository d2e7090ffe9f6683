package storetest

import (
	"errors"
	"slices"
	"sync"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func routeCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Route/ReadsItsOwn", run: routeReads[Tx]},
		{name: "Route/LeasesApart", run: routeLeases[Tx]},
		{name: "Route/FailsItsOwn", run: routeFails[Tx]},
		{name: "Route/SettlesAll", run: routeSettles[Tx]},
		{name: "Route/FirstClaimsAtTheSameTime", run: routeFirstClaims[Tx]},
		{name: "Route/ViewOfAView", run: routeViews[Tx]},
		{name: "Route/EmitsAnything", run: routeEmits[Tx]},
	}
}

func routeReads[Tx any](e *env[Tx]) {
	a, b := e.route("a"), e.route("b-1.x_Y")
	e.emitTo("", numbered(2)...)
	e.emitTo("a", outbox.Event{Topic: "a.0", Key: "k"}, outbox.Event{Topic: "a.1"})
	_, cursor := a.readAll(a.from(store.Cursor{}))
	e.emitTo("b-1.x_Y", outbox.Event{Topic: "b.0", Key: "k"})
	e.emitTo("a", outbox.Event{Topic: "a.2"})
	e.wantPending("t.0", "t.1")
	rows := a.pending()
	e.wantTopics(rows, "a.0", "a.1", "a.2")
	if rows[0].Route != "a" {
		e.t.Fatalf("its route is %q, want a", rows[0].Route)
	}
	b.wantPending("b.0")
	e.route("nobody").wantPending()
	rows, _ = a.readAll(a.from(cursor))
	e.wantTopics(rows, "a.2")
	only := a.from(store.Cursor{})
	only.Only = &store.Key{Key: "k"}
	rows, _ = a.readAll(only)
	e.wantTopics(rows, "a.0")
}

// routeLeases: who drains one route neither takes nor gives anything of another.
func routeLeases[Tx any](e *env[Tx]) {
	a := e.route("a")
	main := e.claim(store.ClaimRequest{Owner: "m"})
	side := a.claim(store.ClaimRequest{Owner: "s"})
	for name, c := range map[string]store.Claim{"the first": main, "the second": side} {
		if len(c.Leases) != e.Features.Shards || c.Relays != 1 || c.Target != e.Features.Shards {
			e.t.Fatalf("%s route's relay has %d shards, target %d, %d relays, want all for one", name, len(c.Leases), c.Target, c.Relays)
		}
	}
	other := a.claim(store.ClaimRequest{Owner: "s2"})
	if len(other.Leases) != 0 || other.Relays != 2 {
		e.t.Fatalf("the second of a route has %d shards of %d relays, want 0 of 2", len(other.Leases), other.Relays)
	}
	e.ok(a.Store.Leave(e.ctx, "s", nil), "leave")
	e.sameLeases(e.claim(store.ClaimRequest{Owner: "m"}), main)
	if c := a.claim(store.ClaimRequest{Owner: "s2"}); len(c.Leases) != e.Features.Shards {
		e.t.Fatalf("the one that stays has %d shards, want all", len(c.Leases))
	}
	e.ok(e.Store.Leave(e.ctx, "m", nil), "leave")
	if c := a.claim(store.ClaimRequest{Owner: "s2"}); len(c.Leases) != e.Features.Shards || c.Relays != 1 {
		e.t.Fatalf("%d shards and %d relays after another route's left, want all and 1", len(c.Leases), c.Relays)
	}
}

func routeFails[Tx any](e *env[Tx]) {
	a := e.route("a")
	e.emitTo("a", outbox.Event{Topic: "a", Key: "k"})
	rows := a.pending()
	c := a.claim(store.ClaimRequest{Owner: "s"})
	a.fail(a.failure(c, &rows[0]))
	if row := a.pending()[0]; row.Attempts != 1 {
		e.t.Fatalf("attempts %d, want 1", row.Attempts)
	}
	e.ok(a.Store.Leave(e.ctx, "s", nil), "leave")
	e.claim(store.ClaimRequest{Owner: "s"}) // has the shard on another route alone
	a.wantLeaseLost(a.failure(c, &rows[0]))
	a.bury(a.claim(store.ClaimRequest{Owner: "s2"}), store.Invalid, false, rows[0])
	dead := e.wantListed(store.Dead, "a")
	if dead[0].Route != "a" {
		e.t.Fatalf("the dead letter's route is %q, want a", dead[0].Route)
	}
	e.redrive(1, dead[0].Place)
	a.wantPending("a")
	e.wantPending()
}

func routeSettles[Tx any](e *env[Tx]) {
	a := e.route("a")
	e.emitTo("", outbox.Event{Topic: "main"})
	e.emitTo("a", numbered(2)...)
	rows := a.pending()
	e.ok(e.Store.Settle(e.ctx, refsOf(rows[:1]), true), "settle")
	e.ok(e.route("b").Store.Settle(e.ctx, refsOf(e.pending()), true), "settle")
	a.wantPending("t.1")
	e.wantPending()
	var found []string
	for _, m := range e.list(store.Query{State: store.Sent}) {
		found = append(found, m.Topic+" on "+m.Route)
	}
	slices.Sort(found)
	if want := []string{"main on ", "t.0 on a"}; !slices.Equal(found, want) {
		e.t.Fatalf("in the history are %q, want %q", found, want)
	}
}

// routeFirstClaims: the leases of a route that nobody has drained yet come into
// being once.
func routeFirstClaims[Tx any](e *env[Tx]) {
	views := []*env[Tx]{e.route("new"), nil}
	second := *e
	second.Store = e.Open(e.t)
	views[1] = second.route("new")
	claims := make([]store.Claim, 6)
	errs := make([]error, len(claims))
	var group sync.WaitGroup
	for i := range claims {
		group.Go(func() {
			owner := string(rune('a' + i))
			claims[i], errs[i] = views[i%2].Store.Claim(e.ctx, store.ClaimRequest{Owner: owner, Name: owner, TTL: patience})
		})
	}
	group.Wait()
	e.ok(errors.Join(errs...), "claim")
	all, n := store.ShardSet(0), 0
	for _, c := range claims {
		all |= shardsOf(c.Leases)
		n += len(c.Leases)
	}
	if n != all.Len() || n == 0 {
		e.t.Fatalf("%d leases of %d shards were given out", n, all.Len())
	}
	v := views[0]
	for i := range claims {
		e.ok(v.Store.Leave(e.ctx, string(rune('a'+i)), nil), "leave")
	}
	if c := v.claim(store.ClaimRequest{Owner: "last"}); len(c.Leases) != e.Features.Shards {
		e.t.Fatalf("%d leases, want one for each of %d shards", len(c.Leases), e.Features.Shards)
	}
}

func routeViews[Tx any](e *env[Tx]) {
	e.emitTo("a", outbox.Event{Topic: "a"})
	e.emitTo("", outbox.Event{Topic: "main"})
	a := e.route("b").route("a")
	a.wantPending("a")
	a.route("").wantPending("main")
	if n := a.Store.Shards(); n != e.Features.Shards {
		e.t.Fatalf("a view has %d shards, want %d", n, e.Features.Shards)
	}
	e.ok(a.Store.Check(e.ctx), "check of a view")
}

// routeEmits: where a message goes is its own affair, whatever view writes it.
func routeEmits[Tx any](e *env[Tx]) {
	a := e.route("a")
	a.emitTo("", outbox.Event{Topic: "main"})
	a.emitTo("b", outbox.Event{Topic: "b"})
	ob := outbox.New(a.Store, outbox.WithRoutes(func(*outbox.Message) []string { return []string{"a", "b", ""} }))
	e.ok(ob.InTx(e.ctx, func(tx Tx) error { return ob.Emit(e.ctx, tx, outbox.Event{Topic: "each"}) }), "in tx")
	a.wantPending("each")
	e.wantPending("main", "each")
	b := e.route("b").pending()
	e.wantTopics(b, "b", "each")
	if id := a.pending()[0].ID; b[1].ID != id {
		e.t.Fatalf("the ids of the copies are %s and %s, want one", id, b[1].ID)
	}
	if all := e.list(store.Query{State: store.Pending}); len(all) != 5 {
		e.t.Fatalf("%d messages are pending, want 5 on all routes", len(all))
	}
}
