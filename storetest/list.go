package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func listCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "List/PagesOfEachState", run: listPages[Tx]},
		{name: "List/Filters", run: listFilters[Tx]},
		{name: "List/Reason", run: listReason[Tx]},
		{name: "List/Waiting", run: listWaiting[Tx]},
		{name: "List/NoPayload", run: listNoPayload[Tx]},
		{name: "List/PendingAsRead", run: listPending[Tx]},
		{name: "Admin/CancelledContext", run: adminCancelled[Tx]},
	}
}

// fillStates has n messages in each state, of two tenants, three keys and two
// routes, with topics that begin with the state.
func (e *env[Tx]) fillStates(n int) {
	e.t.Helper()
	var c [2]store.Claim
	views := []*env[Tx]{e, e.route("side")}
	for i, v := range views {
		c[i] = v.claim(store.ClaimRequest{Owner: fmt.Sprint("fill", i)})
	}
	for _, state := range []store.State{store.Dead, store.Sent, store.Scheduled, store.Pending} {
		for i := range n {
			event := outbox.Event{
				Topic: fmt.Sprintf("%s.%d", state, i), Tenant: []string{"", "x"}[i%2], Key: []string{"", "k", "j"}[i%3], Payload: []byte("payload"),
			}
			if state == store.Scheduled {
				event.DeliverAt = time.Now().Add(time.Duration(n-i) * time.Hour)
			}
			e.emitTo([]string{"", "side"}[i/2%2], event)
		}
		for i, v := range views {
			switch rows := v.pending(); state {
			case store.Dead:
				v.bury(c[i], store.Exhausted, false, rows...)
			case store.Sent:
				e.ok(e.Store.Settle(e.ctx, refsOf(rows), true), "settle")
			}
		}
	}
}

var allStates = []store.State{store.Pending, store.Scheduled, store.Dead, store.Sent}

func listPages[Tx any](e *env[Tx]) {
	for _, state := range allStates {
		e.wantListed(state)
	}
	const n = 13
	e.fillStates(n)
	for _, state := range allStates {
		all := e.list(store.Query{State: state})
		if len(all) != n {
			e.t.Fatalf("%d messages are %s, want %d", len(all), state, n)
		}
		var paged []string
		q := store.Query{State: state, Limit: 4}
		for range n {
			page := e.list(q)
			if len(page) > q.Limit {
				e.t.Fatalf("a page of %d messages, want %d at most", len(page), q.Limit)
			}
			for i := range page {
				if page[i].Place <= q.After || page[i].State != state {
					e.t.Fatalf("behind place %d of %s follows %d of %s", q.After, state, page[i].Place, page[i].State)
				}
				q.After = page[i].Place
			}
			paged = append(paged, storedTopics(page)...)
			if len(page) < q.Limit {
				break
			}
		}
		if !slices.Equal(paged, storedTopics(all)) {
			e.t.Fatalf("the pages of %s have %v, want %v", state, paged, storedTopics(all))
		}
	}
}

func listFilters[Tx any](e *env[Tx]) {
	const n = 12
	e.fillStates(n)
	text := func(s string) *string { return &s }
	for _, state := range allStates {
		all := e.list(store.Query{State: state})
		ids := []string{all[3].ID, all[7].ID, otherID}
		for name, c := range map[string]struct {
			query store.Query
			wants func(m *store.Stored) bool
		}{
			"id":        {store.Query{IDs: ids}, func(m *store.Stored) bool { return slices.Contains(ids, m.ID) }},
			"tenant":    {store.Query{Tenant: text("x")}, func(m *store.Stored) bool { return m.Tenant == "x" }},
			"no tenant": {store.Query{Tenant: text("")}, func(m *store.Stored) bool { return m.Tenant == "" }},
			"key":       {store.Query{Key: text("k")}, func(m *store.Stored) bool { return m.Key == "k" }},
			"no key":    {store.Query{Key: text("")}, func(m *store.Stored) bool { return m.Key == "" }},
			"route":     {store.Query{Route: text("side")}, func(m *store.Stored) bool { return m.Route == "side" }},
			"no route":  {store.Query{Route: text("")}, func(m *store.Stored) bool { return m.Route == "" }},
			"several": {
				store.Query{Tenant: text("x"), Key: text("k"), Route: text("")},
				func(m *store.Stored) bool { return m.Tenant == "x" && m.Key == "k" && m.Route == "" },
			},
			"after": {store.Query{Tenant: text("x"), After: all[5].Place}, func(m *store.Stored) bool { return m.Tenant == "x" && m.Place > all[5].Place }},
			"none":  {store.Query{Tenant: text("nobody")}, func(*store.Stored) bool { return false }},
		} {
			var want []string
			for i := range all {
				if c.wants(&all[i]) {
					want = append(want, all[i].Topic)
				}
			}
			c.query.State = state
			if got := storedTopics(e.list(c.query)); !slices.Equal(got, want) {
				e.t.Errorf("%s by %s: %v, want %v", state, name, got, want)
			}
		}
	}
}

func listReason[Tx any](e *env[Tx]) {
	reasons := []store.Reason{store.Exhausted, store.Invalid, store.Expired, store.Parked, store.Unrouted}
	e.emit(numbered(len(reasons))...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	for i, reason := range reasons {
		e.bury(c, reason, false, rows[i])
	}
	for i, reason := range reasons {
		found := e.list(store.Query{State: store.Dead, Reason: reason})
		if len(found) != 1 || found[0].ID != rows[i].ID || found[0].Reason != reason {
			e.t.Fatalf("%d dead letters are %s, want one", len(found), reason)
		}
	}
}

func listWaiting[Tx any](e *env[Tx]) {
	e.emit(numbered(4)...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.hold(c, &rows[0], &rows[1])
	due := e.failure(c, &rows[2])
	due.RetryIn = 0
	e.fail(due)
	found := e.list(store.Query{State: store.Pending, Waiting: true})
	if got := storedTopics(found); !slices.Equal(got, []string{"t.0", "t.1"}) {
		e.t.Fatalf("waiting are %v, want t.0 and t.1", got)
	}
	if found[0].RetryIn <= 50*time.Minute || found[0].RetryIn > time.Hour || found[1].RetryIn != store.Never {
		e.t.Fatalf("retry in %v and %v, want an hour and never", found[0].RetryIn, found[1].RetryIn)
	}
}

func listNoPayload[Tx any](e *env[Tx]) {
	e.fillStates(4)
	for _, state := range allStates {
		for _, m := range e.list(store.Query{State: state, NoPayload: true}) {
			if len(m.Payload) != 0 {
				e.t.Fatalf("%s has a payload of %d bytes, want none", m.Topic, len(m.Payload))
			}
		}
		for _, m := range e.list(store.Query{State: state}) {
			if string(m.Payload) != "payload" {
				e.t.Fatalf("%s has the payload %q", m.Topic, m.Payload)
			}
		}
	}
}

func listPending[Tx any](e *env[Tx]) {
	e.insert(fieldSamples()...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.hold(c, &rows[0], &rows[1])
	rows = e.pending()
	e.sameRows(e.listedRows(), rows)
	for i, m := range e.list(store.Query{State: store.Pending}) {
		if m.Place != rows[i].Position || !m.At.IsZero() || m.Reason != "" || m.Parked {
			e.t.Fatalf("message %d has place %d, at %v, reason %q, parked %t, want the position and nothing else", i, m.Place, m.At, m.Reason, m.Parked)
		}
	}
}

func adminCancelled[Tx any](e *env[Tx]) {
	e.fillStates(2)
	before := e.list(store.Query{State: store.Dead})
	pending := e.list(store.Query{State: store.Pending})
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	s := e.Store
	refs := []store.Ref{{Position: pending[0].Position, ID: pending[0].ID}}
	for doing, err := range map[string]error{
		"list":     second(s.List(ctx, store.Query{State: store.Dead, Limit: 1})),
		"redrive":  second(s.Redrive(ctx, placesOf(before))),
		"discard":  second(s.Discard(ctx, placesOf(before))),
		"retry":    second(s.Retry(ctx, refs)),
		"withdraw": second(s.Withdraw(ctx, pending[0].ID, "me")),
		"let go":   s.LetGo(ctx, "me"),
		"pause":    second(s.Pause(ctx, store.Pause{})),
		"resume":   second(s.Resume(ctx, store.Pause{})),
		"pauses":   second(s.Pauses(ctx)),
		"purge":    second(s.PurgeSent(ctx, 0, 10)),
		"count":    second(s.CountSent(ctx, 0)),
		"stats":    second(s.Stats(ctx)),
		"promote":  second(s.Promote(ctx, 10)),
		"dispatch": s.Dispatch(ctx, []store.Dispatch{{Ref: refs[0], Routes: []string{"a"}}}),
		"parked":   second(s.Parked(ctx, e.all())),
	} {
		if !errors.Is(err, context.Canceled) {
			e.t.Errorf("%s with a cancelled context returned %v, want context.Canceled", doing, err)
		}
	}
	for _, state := range allStates {
		if n := len(e.list(store.Query{State: state})); n != 2 {
			e.t.Errorf("%d messages are %s, want 2", n, state)
		}
	}
	e.wantPauses()
}

func second[T any](_ T, err error) error { return err }
