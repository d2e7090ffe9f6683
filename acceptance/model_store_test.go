package acceptance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// storeModel is what a store is to be like, as seen by its callers.
type storeModel struct {
	*subject
	rows    []*modelRow // pending and committed, in their order
	later   []*modelRow // scheduled
	dead    []*modelRow
	sent    []*modelRow // kept
	open    []*openTx
	order   int // given last
	lanes   map[string]*modelLane
	readers []*modelReader
}

// modelRow is a message.
type modelRow struct {
	message  outbox.Message
	order    int   // stands for the position
	position int64 // zero until it is known
	shard    uint8
	attempts int
	wait     time.Duration // as failed with
	reason   store.Reason
	parked   bool
	doubt    doubt
}

// doubt says whether a row's position may have been sent without an answer. The
// stores differ in what they say of rows that were not pending at that time.
type doubt int

const (
	sure doubt = iota
	either
	doubtful
)

func (r *modelRow) key() store.Key {
	return store.Key{Tenant: r.message.Tenant, Key: r.message.Key}
}

func (r *modelRow) ref() store.Ref { return store.Ref{Position: r.position, ID: r.message.ID} }

func (r *modelRow) String() string {
	return fmt.Sprintf("%s %q %q/%q at %d", r.message.ID[24:], r.message.Route, r.message.Tenant, r.message.Key, r.position)
}

type openTx struct {
	tx    modelTx
	rows  []*modelRow
	later []*modelRow
}

var modelRoutes = []string{"", "other"}

func newModel(s *subject) *storeModel {
	m := &storeModel{subject: s, lanes: map[string]*modelLane{}}
	for _, route := range modelRoutes {
		m.lanes[route] = newModelLane(s.shards)
	}
	m.readers = []*modelReader{{}, {}}
	return m
}

var never = context.Background()

func ok(t *rapid.T, err error, what string) {
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// pick draws some of a list, at least one, or skips the action if there is none.
func pick[T any](t *rapid.T, list []T, most int, what string) []T {
	if len(list) == 0 {
		t.Skip("no " + what)
	}
	chosen := rapid.Permutation(list).Draw(t, what)
	return chosen[:rapid.IntRange(1, min(most, len(list))).Draw(t, "number of "+what)]
}

// draw makes messages: with and without keys, of which those that begin with p are
// parked when they die, some scheduled.
func (m *storeModel) draw(t *rapid.T) (msgs []outbox.Message) {
	keys := rapid.SampledFrom([]string{"", "a", "b", "pa", "pa", "pa", "pb"})
	for range rapid.IntRange(1, 4).Draw(t, "messages") {
		msg := outbox.Message{
			ID: uuid.NewString(), Topic: rapid.SampledFrom([]string{"x.y", "z"}).Draw(t, "topic"), Key: keys.Draw(t, "key"),
			Tenant:      rapid.SampledFrom([]string{"", "", "t"}).Draw(t, "tenant"),
			Route:       rapid.SampledFrom([]string{"", "", "", "other"}).Draw(t, "route"),
			ContentType: "text/plain", CreatedAt: time.Now().UTC().Truncate(time.Microsecond),
			Payload: make([]byte, rapid.IntRange(1, 50).Draw(t, "size")),
		}
		switch rapid.IntRange(0, 7).Draw(t, "scheduled") {
		case 0: // due already, in any order
			msg.DeliverAt = time.Now().Add(-time.Duration(rapid.IntRange(1, 5).Draw(t, "due")) * time.Hour).UTC().Truncate(time.Hour)
		case 1:
			msg.DeliverAt = time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
		}
		msgs = append(msgs, msg)
	}
	return msgs
}

func (m *storeModel) insert(t *rapid.T) *openTx {
	tx, err := m.begin()
	ok(t, err, "begin")
	o := &openTx{tx: tx}
	msgs := m.draw(t)
	ok(t, tx.insert(msgs), "insert")
	for _, msg := range msgs {
		m.order++
		r := &modelRow{message: msg, order: m.order}
		if msg.DeliverAt.IsZero() {
			o.rows = append(o.rows, r)
		} else {
			o.later = append(o.later, r)
		}
	}
	return o
}

func (m *storeModel) end(t *rapid.T, o *openTx, commit bool) {
	if !commit {
		ok(t, o.tx.rollback(), "roll back")
		return
	}
	ok(t, o.tx.commit(), "commit")
	m.add(o.rows...)
	m.later = append(m.later, o.later...)
}

func (m *storeModel) add(rows ...*modelRow) {
	m.rows = append(m.rows, rows...)
	slices.SortStableFunc(m.rows, func(a, b *modelRow) int { return a.order - b.order })
}

func (m *storeModel) emit(t *rapid.T) {
	m.end(t, m.insert(t), rapid.IntRange(0, 9).Draw(t, "commit") > 0)
}

func (m *storeModel) leaveOpen(t *rapid.T) {
	if !m.manyTx || len(m.open) >= 3 {
		t.Skip("enough are open")
	}
	m.open = append(m.open, m.insert(t))
}

func (m *storeModel) endOne(t *rapid.T) {
	o := pick(t, m.open, 1, "open transactions")[0]
	m.open = slices.DeleteFunc(m.open, func(other *openTx) bool { return other == o })
	m.end(t, o, rapid.Bool().Draw(t, "commit"))
}

func (m *storeModel) rollbackAll() {
	for _, o := range m.open {
		_ = o.tx.rollback()
	}
}

func without(list []*modelRow, gone []*modelRow) []*modelRow {
	return slices.DeleteFunc(slices.Clone(list), func(r *modelRow) bool { return slices.Contains(gone, r) })
}

func (m *storeModel) settle(t *rapid.T) {
	rows := pick(t, m.rows, 4, "pending")
	keep := rapid.Bool().Draw(t, "keep")
	var refs []store.Ref
	var gone []*modelRow
	for _, r := range rows {
		ref := r.ref()
		if rapid.IntRange(0, 9).Draw(t, "wrong") == 0 {
			ref.ID = uuid.NewString() // another message has the position now
		} else {
			gone = append(gone, r)
		}
		refs = append(refs, ref)
	}
	ok(t, m.route(rapid.SampledFrom(modelRoutes).Draw(t, "view")).Settle(never, refs, keep), "settle")
	m.rows = without(m.rows, gone)
	if keep {
		m.sent = append(m.sent, gone...)
	}
}

// fail records refusals and deaths by an owner, of which some leases may be another's
// by now.
func (m *storeModel) fail(t *rapid.T) {
	route, owner := drawOwner(t)
	lane := m.lanes[route]
	var mine []*modelRow
	for _, r := range m.rows {
		if r.message.Route == route && lane.believes(owner, r.shard) != nil {
			mine = append(mine, r)
		}
	}
	var failures []store.Failure
	rows := pick(t, mine, 5, "pending of the owner")
	valid := true
	for _, r := range rows {
		lease := lane.believes(owner, r.shard)
		valid = valid && lane.valid(owner, *lease)
		failures = append(failures, m.failure(t, r, *lease))
	}
	err := m.route(route).Fail(never, failures)
	if !valid {
		if !errors.Is(err, store.ErrLeaseLost) {
			t.Fatalf("fail under a lost lease returned %v", err)
		}
		return
	}
	ok(t, err, "fail")
	for i, r := range rows {
		f := failures[i]
		r.attempts, r.wait, r.reason, r.parked = f.Attempts, f.RetryIn, f.Dead, f.Park
		if f.Dead != "" {
			m.rows = without(m.rows, rows[i:i+1])
			m.dead = append(m.dead, r)
		}
	}
}

func (m *storeModel) failure(t *rapid.T, r *modelRow, lease store.Lease) store.Failure {
	f := store.Failure{Ref: r.ref(), Lease: lease, Attempts: r.attempts + 1, Error: "no"}
	switch rapid.IntRange(0, 4).Draw(t, "becomes") {
	case 0:
		f.RetryIn = time.Hour
	case 1:
		f.RetryIn = store.Never
	default:
		f.Dead = rapid.SampledFrom([]store.Reason{store.Exhausted, store.Invalid}).Draw(t, "reason")
		f.Park = len(r.message.Key) > 1
	}
	return f
}

// withParked returns rows and, of the parked keys among them, all others.
func (m *storeModel) withParked(rows []*modelRow) (all []*modelRow) {
	for _, d := range m.dead {
		if slices.Contains(rows, d) || d.parked && slices.ContainsFunc(rows, func(r *modelRow) bool {
			return r.parked && r.key() == d.key() && r.message.Route == d.message.Route
		}) {
			all = append(all, d)
		}
	}
	return all
}

// places finds the dead letters' places.
func (m *storeModel) places(t *rapid.T, rows []*modelRow) (places []int64) {
	list, err := m.admin.List(never, store.Query{State: store.Dead, Limit: 10_000})
	ok(t, err, "list")
	for _, d := range list {
		if slices.ContainsFunc(rows, func(r *modelRow) bool { return r.is(d) }) {
			places = append(places, d.Place)
		}
	}
	return places
}

func (r *modelRow) is(s store.Stored) bool {
	return r.message.ID == s.ID && r.message.Route == s.Route
}

func (m *storeModel) redrive(t *rapid.T) {
	chosen := pick(t, m.dead, 2, "dead")
	all := m.withParked(chosen)
	n, err := m.admin.Redrive(never, append(m.places(t, chosen), 1<<40))
	ok(t, err, "redrive")
	if n != len(all) {
		t.Fatalf("%d messages were redriven, want %d", n, len(all))
	}
	m.dead = without(m.dead, all)
	for _, r := range all {
		r.attempts, r.wait, r.reason, r.parked = 0, 0, "", false
		m.lanes[r.message.Route].bump(r.shard, true)
		for _, reader := range m.readers {
			reader.optional(r)
		}
	}
	m.add(all...)
}

func (m *storeModel) discard(t *rapid.T) {
	chosen := pick(t, m.dead, 3, "dead")
	n, err := m.admin.Discard(never, m.places(t, chosen))
	ok(t, err, "discard")
	if n != len(chosen) {
		t.Fatalf("%d messages were discarded, want %d", n, len(chosen))
	}
	m.dead = without(m.dead, chosen)
	for _, r := range chosen {
		freed := r.parked && !m.isParked(r.message.Route, r.key())
		m.lanes[r.message.Route].bump(r.shard, freed)
	}
}

func (m *storeModel) isParked(route string, key store.Key) bool {
	return slices.ContainsFunc(m.dead, func(d *modelRow) bool { return d.parked && d.message.Route == route && d.key() == key })
}

func (m *storeModel) retry(t *rapid.T) {
	var refs []store.Ref
	rows := pick(t, m.rows, 3, "pending")
	want := 0
	for _, r := range rows {
		refs = append(refs, r.ref())
		if r.wait > 0 {
			want++
		}
	}
	n, err := m.admin.Retry(never, refs)
	ok(t, err, "retry")
	if n != want {
		t.Fatalf("%d messages were retried, want %d", n, want)
	}
	for _, r := range rows {
		if r.wait > 0 {
			r.attempts, r.wait = 0, 0
			m.lanes[r.message.Route].bump(r.shard, true)
		}
	}
}

func (m *storeModel) promote(t *rapid.T) {
	limit := rapid.IntRange(1, 5).Draw(t, "limit")
	due := slices.DeleteFunc(slices.Clone(m.later), func(r *modelRow) bool { return r.message.DeliverAt.After(time.Now()) })
	slices.SortStableFunc(due, func(a, b *modelRow) int {
		if c := a.message.DeliverAt.Compare(b.message.DeliverAt); c != 0 {
			return c
		}
		return a.order - b.order
	})
	p, err := m.route(rapid.SampledFrom(modelRoutes).Draw(t, "view")).Promote(never, limit)
	ok(t, err, "promote")
	moved := due[:min(limit, len(due))]
	rest := without(m.later, moved)
	if p.Moved != len(moved) {
		t.Fatalf("%d messages were promoted, want %d", p.Moved, len(moved))
	}
	if left := len(due) - len(moved); left > 0 != (p.Next <= 0) || (len(rest) == 0) != (p.Next == store.Never) {
		t.Fatalf("the next one is due in %v, where %d are due and %d are not", p.Next, left, len(rest)-left)
	}
	m.later = rest
	for _, r := range moved {
		m.order++
		r.order = m.order
	}
	m.add(moved...)
}

func (m *storeModel) dispatch(t *rapid.T) {
	var plain []*modelRow
	for _, r := range m.rows {
		if r.message.Route == "" && !m.has(r.message.ID, "other") {
			plain = append(plain, r)
		}
	}
	rows := pick(t, plain, 3, "pending without a route")
	slices.SortFunc(rows, func(a, b *modelRow) int { return a.order - b.order })
	var dispatches []store.Dispatch
	var copies []*modelRow
	for _, r := range rows {
		routes := rapid.SampledFrom([][]string{{"other"}, {"", "other"}, {"other", ""}}).Draw(t, "routes")
		dispatches = append(dispatches, store.Dispatch{Ref: r.ref(), Routes: routes})
		for _, route := range routes {
			m.order++
			c := &modelRow{message: r.message, order: m.order}
			c.message.Route = route
			copies = append(copies, c)
		}
	}
	ok(t, m.route("").Dispatch(never, dispatches), "dispatch")
	m.rows = without(m.rows, rows)
	m.add(copies...)
}

// has tells whether there is a message of an id and route in any state.
func (m *storeModel) has(id, route string) bool {
	is := func(r *modelRow) bool { return r.message.ID == id && r.message.Route == route }
	return slices.ContainsFunc(m.rows, is) || slices.ContainsFunc(m.dead, is) || slices.ContainsFunc(m.sent, is)
}

func (m *storeModel) purge(t *rapid.T) {
	limit := rapid.IntRange(1, 4).Draw(t, "limit")
	time.Sleep(time.Millisecond) // older than no time at all
	n, err := m.route("").PurgeSent(never, 0, limit)
	ok(t, err, "purge")
	if want := min(limit, len(m.sent)); n != want {
		t.Fatalf("%d messages were purged, want %d", n, want)
	}
	kept, err := m.admin.List(never, store.Query{State: store.Sent, Limit: 10_000})
	ok(t, err, "list")
	m.sent = slices.DeleteFunc(m.sent, func(r *modelRow) bool {
		return !slices.ContainsFunc(kept, func(s store.Stored) bool { return r.is(s) })
	})
}
