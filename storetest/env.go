package storetest

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// env is a harness within one test.
type env[Tx any] struct {
	Harness[Tx]
	t   *testing.T
	ctx context.Context //nolint:containedctx // it lives as long as the test
	ob  *outbox.Outbox[Tx]

	handled int // messages, by handle
}

func newEnv[Tx any](t *testing.T, h Harness[Tx]) *env[Tx] {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return &env[Tx]{Harness: h, t: t, ctx: ctx, ob: outbox.New(h.Store)}
}

func (e *env[Tx]) ok(err error, doing string) {
	e.t.Helper()
	if err != nil {
		e.t.Fatalf("%s: %v", doing, err)
	}
}

func (e *env[Tx]) begin() Tx {
	e.t.Helper()
	tx, err := e.Begin(e.ctx)
	e.ok(err, "begin")
	// A test that fails before it ends its transaction must not keep the harness from
	// closing what it has opened.
	e.t.Cleanup(func() { _ = e.Rollback(context.WithoutCancel(e.ctx), tx) })
	return tx
}

func (e *env[Tx]) commit(tx Tx) {
	e.t.Helper()
	e.ok(e.Commit(e.ctx, tx), "commit")
}

func (e *env[Tx]) rollback(tx Tx) {
	e.t.Helper()
	e.ok(e.Rollback(e.ctx, tx), "rollback")
}

func (e *env[Tx]) emitIn(tx Tx, events ...outbox.Event) {
	e.t.Helper()
	e.ok(e.ob.Emit(e.ctx, tx, events...), "emit")
}

// emit commits events in a transaction of their own.
func (e *env[Tx]) emit(events ...outbox.Event) {
	e.t.Helper()
	tx := e.begin()
	e.emitIn(tx, events...)
	e.commit(tx)
}

// insert commits messages as they are in a transaction of their own.
func (e *env[Tx]) insert(msgs ...outbox.Message) {
	e.t.Helper()
	tx := e.begin()
	e.ok(e.Store.Insert(e.ctx, tx, msgs), "insert")
	e.commit(tx)
}

// business returns the number of committed rows of business data.
func (e *env[Tx]) business() int {
	e.t.Helper()
	n, err := e.Count(e.ctx)
	e.ok(err, "count business rows")
	return n
}

// from returns a request for all shards behind c, in pages of 100.
func (e *env[Tx]) from(c store.Cursor) store.ReadRequest {
	return store.ReadRequest{Cursor: c, Shards: e.all(), Limit: 100, MaxBytes: 1 << 20}
}

func (e *env[Tx]) read(requests ...store.ReadRequest) []store.Page {
	e.t.Helper()
	pages, err := e.Store.Read(e.ctx, requests...)
	e.ok(err, "read")
	if len(pages) != len(requests) {
		e.t.Fatalf("read of %d requests returned %d pages", len(requests), len(pages))
	}
	return pages
}

// readAll follows r until there is no more and returns the rows and the cursor
// behind them.
func (e *env[Tx]) readAll(r store.ReadRequest) ([]store.Row, store.Cursor) {
	e.t.Helper()
	var rows []store.Row
	for range 100_000 {
		page := e.read(r)[0]
		rows = append(rows, page.Rows...)
		r.Cursor = page.Cursor
		if !page.More {
			return rows, r.Cursor
		}
	}
	e.t.Fatal("the pages do not come to an end")
	return nil, r.Cursor
}

// pending returns all that a relay that begins now would read.
func (e *env[Tx]) pending() []store.Row {
	e.t.Helper()
	rows, _ := e.readAll(e.from(store.Cursor{}))
	return rows
}

// wantPending fails the test unless the topics of all pending rows are these, in
// this order.
func (e *env[Tx]) wantPending(topics ...string) {
	e.t.Helper()
	e.wantTopics(e.pending(), topics...)
}

func (e *env[Tx]) wantTopics(rows []store.Row, topics ...string) {
	e.t.Helper()
	if got := topicsOf(rows); !slices.Equal(got, topics) {
		e.t.Fatalf("rows of the topics %v, want %v", got, topics)
	}
}

func (e *env[Tx]) claim(r store.ClaimRequest) store.Claim {
	e.t.Helper()
	if r.TTL == 0 {
		r.TTL = time.Minute
	}
	if r.Name == "" {
		r.Name = "test " + r.Owner
	}
	c, err := e.Store.Claim(e.ctx, r)
	e.ok(err, "claim for "+r.Owner)
	return c
}

// eventually asks until is true, and fails the test if it never is.
func (e *env[Tx]) eventually(what string, is func() bool) {
	e.t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func topicsOf(rows []store.Row) []string {
	topics := make([]string, len(rows))
	for i := range rows {
		topics[i] = rows[i].Topic
	}
	return topics
}

func refsOf(rows []store.Row) []store.Ref {
	refs := make([]store.Ref, len(rows))
	for i := range rows {
		refs[i] = store.Ref{Position: rows[i].Position, ID: rows[i].ID}
	}
	return refs
}

// numbered returns n events with the topics "t.0" and so on, without a key.
func numbered(n int) []outbox.Event {
	events := make([]outbox.Event, n)
	for i := range events {
		events[i] = outbox.Event{Topic: fmt.Sprintf("t.%d", i), Payload: []byte{byte(i)}}
	}
	return events
}

func topics(events []outbox.Event) []string {
	list := make([]string, len(events))
	for i := range events {
		list[i] = events[i].Topic
	}
	return list
}

// leaseOf returns the claim's lease of shard.
func leaseOf(c store.Claim, shard uint8) (store.Lease, bool) {
	i := slices.IndexFunc(c.Leases, func(l store.Lease) bool { return l.Shard == shard })
	if i < 0 {
		return store.Lease{}, false
	}
	return c.Leases[i], true
}

func shardsOf(leases []store.Lease) store.ShardSet {
	var set store.ShardSet
	for _, l := range leases {
		set = set.With(l.Shard)
	}
	return set
}

// sameRows fails the test unless both have the same contents, waiting times
// aside.
func (e *env[Tx]) sameRows(got, want []store.Row) {
	e.t.Helper()
	if len(got) != len(want) {
		e.t.Fatalf("%d rows, want %d", len(got), len(want))
	}
	for i := range got {
		a, b := got[i], want[i]
		a.RetryIn, b.RetryIn, a.ExpiresIn, b.ExpiresIn = 0, 0, 0, 0
		if !reflect.DeepEqual(a, b) {
			e.t.Fatalf("row %d is\n%+v, want\n%+v", i, a, b)
		}
	}
}
