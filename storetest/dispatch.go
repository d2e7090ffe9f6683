package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func dispatchCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Dispatch/CopyForEachRoute", run: dispatchCopies[Tx]},
		{name: "Dispatch/InTheirOrder", run: dispatchOrder[Tx]},
		{name: "Dispatch/GoneIsLeftOut", run: dispatchGone[Tx]},
		{name: "Dispatch/ReaderFollows", run: dispatchFollowed[Tx]},
		{name: "Dispatch/AtTheSameTime", run: dispatchConcurrently[Tx]},
	}
}

func (e *env[Tx]) dispatch(rows []store.Row, routes ...string) {
	e.t.Helper()
	dispatches := make([]store.Dispatch, len(rows))
	for i, ref := range refsOf(rows) {
		dispatches[i] = store.Dispatch{Ref: ref, Routes: routes}
	}
	e.ok(e.Store.Dispatch(e.ctx, dispatches), "dispatch")
}

func dispatchCopies[Tx any](e *env[Tx]) {
	want := fieldSamples()
	e.insert(want...)
	before := e.pending()
	e.dispatch(before[:3], "a", "b")
	e.wantTopics(e.pending(), topicsOf(before[3:])...)
	last := before[len(before)-1].Position
	positions := map[int64]bool{}
	for _, route := range []string{"a", "b"} {
		rows := e.route(route).pending()
		e.wantTopics(rows, topicsOf(before[:3])...)
		for i := range rows {
			expected := want[i]
			expected.Route = route
			if fault := messageFault(&rows[i].Message, &expected); fault != "" {
				e.t.Errorf("message %d on the route %s: %s", i, route, fault)
			}
			if rows[i].Position <= last || positions[rows[i].Position] || rows[i].RetryIn > 0 {
				e.t.Errorf("message %d on the route %s has the position %d, retry in %v, want a new position and that it is due",
					i, route, rows[i].Position, rows[i].RetryIn)
			}
			positions[rows[i].Position] = true
			if want[i].Key != "" && rows[i].Shard != before[i].Shard {
				e.t.Errorf("message %d moved from shard %d to %d", i, before[i].Shard, rows[i].Shard)
			}
		}
	}
	e.wantListed(store.Sent)
	e.wantListed(store.Dead)
}

// dispatchOrder: on each route the order is what it was, and a message's copies are
// in the order of its routes.
func dispatchOrder[Tx any](e *env[Tx]) {
	var events []outbox.Event
	for i := range 50 {
		events = append(events, outbox.Event{Topic: fmt.Sprintf("t.%d", i), Key: "k"})
	}
	e.emit(events...)
	rows := e.pending()
	e.dispatch(rows[:20], "a", "b")
	e.dispatch(rows[20:], "b", "a")
	for _, route := range []string{"a", "b"} {
		e.wantTopics(e.route(route).pending(), topics(events)...)
	}
	all := e.list(store.Query{State: store.Pending, Limit: 1000})
	if len(all) != 100 || all[0].Route != "a" || all[1].Route != "b" || all[98].Route != "b" || all[99].Route != "a" {
		e.t.Fatalf("%d copies, the first on %q and %q, the last on %q and %q, want 100 in the order of their routes",
			len(all), all[0].Route, all[1].Route, all[98].Route, all[99].Route)
	}
}

func dispatchGone[Tx any](e *env[Tx]) {
	e.emit(numbered(4)...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.ok(e.Store.Settle(e.ctx, refsOf(rows[:1]), true), "settle")
	e.bury(c, store.Invalid, false, rows[1])
	foreign := rows[2]
	foreign.ID = otherID
	e.dispatch([]store.Row{rows[0], rows[1], foreign, rows[3]}, "a")
	e.dispatch(rows[3:], "a", "b")
	e.dispatch(nil)
	e.wantPending("t.2")
	e.wantTopics(e.route("a").pending(), "t.3")
	e.wantTopics(e.route("b").pending())
}

func dispatchFollowed[Tx any](e *env[Tx]) {
	a := e.route("a")
	e.emit(numbered(6)...)
	rows, cursor := e.readAll(e.from(store.Cursor{}))
	_, behind := a.readAll(a.from(store.Cursor{}))
	for i := range 3 {
		e.dispatch(rows[2*i:2*i+2], "a")
		var got []store.Row
		got, behind = a.readAll(a.from(behind))
		e.wantTopics(got, topicsOf(rows[2*i:2*i+2])...)
	}
	rest, _ := e.readAll(e.from(cursor))
	e.wantTopics(rest)
}

func dispatchConcurrently[Tx any](e *env[Tx]) {
	events := numbered(100)
	e.emit(events...)
	rows := e.pending()
	stores := []Store[Tx]{e.Store, e.Open(e.t)}
	errs := make([]error, 4)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			for part := range slices.Chunk(refsOf(rows), 10) {
				var dispatches []store.Dispatch
				for _, ref := range part {
					dispatches = append(dispatches, store.Dispatch{Ref: ref, Routes: []string{"a"}})
				}
				errs[i] = errors.Join(errs[i], stores[i%2].Dispatch(e.ctx, dispatches))
			}
		})
	}
	group.Wait()
	e.ok(errors.Join(errs...), "dispatch")
	e.wantPending()
	got := map[string]int{}
	for _, row := range e.route("a").pending() {
		got[row.ID]++
	}
	for _, row := range rows {
		if got[row.ID] != 1 {
			e.t.Fatalf("%s has %d copies, want 1", row.Topic, got[row.ID])
		}
	}
}
