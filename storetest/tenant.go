package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func tenantCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Tenant/Only", run: tenantOnly[Tx]},
		{name: "Tenant/Except", run: tenantExcept[Tx]},
		{name: "Tenant/WithKeys", run: tenantKeys[Tx]},
		{name: "Tenant/ManyExcepted", run: tenantMany[Tx]},
		{name: "Tenant/CursorsMeet", run: tenantCursors[Tx]},
	}
}

// tenants returns n events of each of the tenants "", "x", "y" and "it's".
func tenants(n int) []outbox.Event {
	var events []outbox.Event
	for i := range n {
		for j, tenant := range []string{"", "x", "y", "it's"} {
			events = append(events, outbox.Event{
				Topic: fmt.Sprintf("t.%d.%d", j, i), Tenant: tenant, Key: []string{"", "k", "j"}[i%3],
			})
		}
	}
	return events
}

func tenantOnly[Tx any](e *env[Tx]) {
	events := tenants(9)
	e.emit(events...)
	for _, tenant := range []string{"", "x", "it's", "nobody"} {
		r := e.from(store.Cursor{})
		r.OnlyTenant, r.Limit = &tenant, 4
		rows, _ := e.readAll(r)
		e.wantTopics(rows, where(events, func(k store.Key) bool { return k.Tenant == tenant })...)
	}
}

func tenantExcept[Tx any](e *env[Tx]) {
	events := tenants(9)
	e.emit(events...)
	for _, except := range [][]string{{"x"}, {""}, {"it's", "x"}, {"", "x", "y", "it's"}, {"nobody"}} {
		r := e.from(store.Cursor{})
		r.ExceptTenants, r.Limit = except, 5
		rows, _ := e.readAll(r)
		e.wantTopics(rows, where(events, func(k store.Key) bool { return !slices.Contains(except, k.Tenant) })...)
	}
}

func tenantKeys[Tx any](e *env[Tx]) {
	events := tenants(9)
	e.emit(events...)
	x, key := "x", store.Key{Tenant: "x", Key: "k"}
	r := e.from(store.Cursor{})
	r.OnlyTenant, r.Except = &x, []store.Key{key}
	rows, _ := e.readAll(r)
	e.wantTopics(rows, where(events, func(k store.Key) bool { return k.Tenant == "x" && k != key })...)

	r = e.from(store.Cursor{})
	r.ExceptTenants, r.Except = []string{"y"}, []store.Key{key, {Key: "j"}}
	rows, _ = e.readAll(r)
	e.wantTopics(rows, where(events, func(k store.Key) bool { return k.Tenant != "y" && !slices.Contains(r.Except, k) })...)

	r.Except, r.Only = nil, &key
	rows, _ = e.readAll(r)
	e.wantTopics(rows, where(events, func(k store.Key) bool { return k == key })...)
	r.ExceptTenants = []string{"x"}
	rows, _ = e.readAll(r)
	e.wantTopics(rows)
}

func tenantMany[Tx any](e *env[Tx]) {
	const n = 200
	var events []outbox.Event
	var except []string
	for i := range n {
		tenant := fmt.Sprintf("tenant {%d}, \"q\"", i)
		events = append(events, outbox.Event{Topic: fmt.Sprintf("t.%d", i), Tenant: tenant})
		if i%40 != 0 {
			except = append(except, tenant)
		}
	}
	e.emit(events...)
	r := e.from(store.Cursor{})
	r.ExceptTenants = except
	rows, _ := e.readAll(r)
	e.wantTopics(rows, where(events, func(k store.Key) bool { return !slices.Contains(except, k.Tenant) })...)
}

// tenantCursors: a tenant that is read apart is joined to the others again.
func tenantCursors[Tx any](e *env[Tx]) {
	events := tenants(20)
	e.emit(events[:40]...)
	start := e.from(store.Cursor{})
	start.Limit = 10
	page := e.read(start)[0]
	e.wantTopics(page.Rows, topics(events[:10])...)
	x := "x"
	only, except := e.from(page.Cursor), e.from(page.Cursor)
	only.OnlyTenant, only.Limit = &x, 3
	except.ExceptTenants, except.Limit = []string{x}, 7
	var own, others []string
	for i := range 100 {
		pages := e.read(only, except)
		own, others = append(own, topicsOf(pages[0].Rows)...), append(others, topicsOf(pages[1].Rows)...)
		only.Cursor, except.Cursor = pages[0].Cursor, pages[1].Cursor
		if i == 1 {
			e.emit(events[40:]...)
		}
		if i > 1 && !pages[0].More && !pages[1].More {
			break
		}
	}
	if only.Cursor != except.Cursor {
		e.t.Fatalf("at their ends the cursors are %+v and %+v, want one", only.Cursor, except.Cursor)
	}
	if want := where(events[10:], func(k store.Key) bool { return k.Tenant == x }); !slices.Equal(own, want) {
		e.t.Fatalf("the tenant's are %v, want %v", own, want)
	}
	if want := where(events[10:], func(k store.Key) bool { return k.Tenant != x }); !slices.Equal(others, want) {
		e.t.Fatalf("the others are %v, want %v", others, want)
	}
}

func expiryCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Expiry/TimeLeft", run: expiryLeft[Tx]},
		{name: "Expiry/Passes", run: expiryPasses[Tx]},
	}
}

func expiryLeft[Tx any](e *env[Tx]) {
	now := time.Now().Truncate(time.Microsecond).UTC()
	e.emit(
		outbox.Event{Topic: "never"}, outbox.Event{Topic: "hour", ExpiresAt: now.Add(time.Hour)},
		outbox.Event{Topic: "past", ExpiresAt: now.Add(-time.Hour)}, outbox.Event{Topic: "far", ExpiresAt: now.AddDate(300, 0, 0)},
	)
	for _, rows := range [][]store.Row{e.pending(), e.listedRows()} {
		e.wantTopics(rows, "never", "hour", "past", "far")
		if !rows[0].ExpiresAt.IsZero() || !rows[1].ExpiresAt.Equal(now.Add(time.Hour)) {
			e.t.Fatalf("they expire at %v and %v, want never and in an hour", rows[0].ExpiresAt, rows[1].ExpiresAt)
		}
		if left := rows[1].ExpiresIn; left <= 50*time.Minute || left > time.Hour+time.Minute {
			e.t.Fatalf("it expires in %v, want an hour", left)
		}
		if left := rows[2].ExpiresIn; left > -50*time.Minute {
			e.t.Fatalf("it expires in %v, want an hour ago", left)
		}
		if left := rows[3].ExpiresIn; left < 200*365*24*time.Hour {
			e.t.Fatalf("it expires in %v, want 300 years or as much as can be said", left)
		}
	}
}

// listedRows returns what List says of the pending messages.
func (e *env[Tx]) listedRows() []store.Row {
	e.t.Helper()
	var rows []store.Row
	for _, m := range e.list(store.Query{State: store.Pending}) {
		rows = append(rows, m.Row)
	}
	return rows
}

func expiryPasses[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a", ExpiresAt: time.Now().Add(400 * time.Millisecond)})
	e.eventually("the message expires", func() bool { return e.pending()[0].ExpiresIn <= 0 })
}
