package storetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func readCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Read/OrderOfPositions", run: readOrder[Tx]},
		{name: "Read/NothingThere", run: readEmpty[Tx]},
		{name: "Read/NoRequests", run: readNoRequests[Tx]},
		{name: "Read/OnlyWhatIsNew", run: readNew[Tx]},
		{name: "Read/SecondInstanceGoesOn", run: readSecondInstance[Tx]},
		{name: "Read/SettledIsGone", run: readSettled[Tx]},
		{name: "Read/ShardsAreDisjointAndComplete", run: readShards[Tx]},
		{name: "Read/KeyHasOneShard", run: readKeyShard[Tx]},
		{name: "Read/RequestsShareOneSnapshot", run: readOneSnapshot[Tx]},
		{name: "Read/CursorsMeet", run: readCursorsMeet[Tx]},
		{name: "Read/CancelledContext", run: readCancelled[Tx]},
		{name: "Read/Horizon", run: readHorizon[Tx], unless: noSnapshots[Tx]},
	}
}

func readOrder[Tx any](e *env[Tx]) {
	events := numbered(30)
	e.emit(events[:10]...)
	tx := e.begin()
	e.emitIn(tx, events[10:12]...)
	e.emitIn(tx, events[12])
	e.emitIn(tx, events[13:20]...)
	e.commit(tx)
	for _, event := range events[20:] {
		e.emit(event)
	}
	rows := e.pending()
	e.wantTopics(rows, topics(events)...)
	for i := 1; i < len(rows); i++ {
		if rows[i].Position <= rows[i-1].Position {
			e.t.Fatalf("position %d follows %d", rows[i].Position, rows[i-1].Position)
		}
	}
}

func readEmpty[Tx any](e *env[Tx]) {
	page := e.read(e.from(store.Cursor{}))[0]
	if len(page.Rows) != 0 || page.More {
		e.t.Fatalf("an empty outbox has %d rows, more: %v", len(page.Rows), page.More)
	}
	e.emit(outbox.Event{Topic: "first"})
	rows, _ := e.readAll(e.from(page.Cursor))
	e.wantTopics(rows, "first")
}

func readNoRequests[Tx any](e *env[Tx]) { e.read() }

func readNew[Tx any](e *env[Tx]) {
	var cursor store.Cursor
	for i := range 5 {
		events := numbered(i + 1)
		e.emit(events...)
		rows, next := e.readAll(e.from(cursor))
		e.wantTopics(rows, topics(events)...)
		again, next := e.readAll(e.from(next))
		e.wantTopics(again)
		cursor = next
	}
}

// readSecondInstance: a cursor is good for whoever reads the same data.
func readSecondInstance[Tx any](e *env[Tx]) {
	events := numbered(10)
	e.emit(events...)
	r := e.from(store.Cursor{})
	r.Limit = 4
	page := e.read(r)[0]
	e.wantTopics(page.Rows, topics(events[:4])...)
	e.Store = e.Open(e.t)
	rows, _ := e.readAll(e.from(page.Cursor))
	e.wantTopics(rows, topics(events[4:])...)
}

func readSettled[Tx any](e *env[Tx]) {
	events := numbered(10)
	e.emit(events...)
	r := e.from(store.Cursor{})
	r.Limit = 4
	page := e.read(r)[0]
	e.ok(e.Store.Settle(e.ctx, refsOf(page.Rows), false), "settle")
	e.wantPending(topics(events[4:])...)
	rows, _ := e.readAll(e.from(page.Cursor))
	e.wantTopics(rows, topics(events[4:])...)
}

// keyed returns n events: a third without a key, the others of many keys.
func keyed(n int) []outbox.Event {
	events := numbered(n)
	for i := range events {
		if i%3 != 0 {
			events[i].Key = fmt.Sprintf("key-%d", i/4)
		}
	}
	return events
}

func readShards[Tx any](e *env[Tx]) {
	if n := e.Store.Shards(); n != e.Features.Shards || n < 1 || n > store.MaxShards {
		e.t.Fatalf("%d shards, want the declared %d", n, e.Features.Shards)
	}
	events := keyed(400)
	e.emit(events...)
	shardOf := map[string]uint8{}
	var used store.ShardSet
	for _, row := range e.pending() {
		shardOf[row.ID] = row.Shard
		used = used.With(row.Shard)
	}
	if len(shardOf) != len(events) || e.Features.Shards > 1 && used.Len() < e.Features.Shards/2 {
		e.t.Fatalf("%d messages in %d shards, want %d spread over %d", len(shardOf), used.Len(), len(events), e.Features.Shards)
	}
	found := 0
	for shard := range uint8(e.Features.Shards) { //nolint:gosec // at most 64
		r := e.from(store.Cursor{})
		r.Shards = store.ShardSet(0).With(shard)
		rows, _ := e.readAll(r)
		for _, row := range rows {
			if row.Shard != shard || shardOf[row.ID] != shard {
				e.t.Fatalf("a read of shard %d returned a row of shard %d, which was in %d before", shard, row.Shard, shardOf[row.ID])
			}
		}
		found += len(rows)
	}
	if found != len(events) {
		e.t.Fatalf("the shards have %d rows together, want %d", found, len(events))
	}
}

func readKeyShard[Tx any](e *env[Tx]) {
	events := keyed(100)
	for range 3 {
		e.emit(events...)
	}
	shardOf := map[store.Key]uint8{}
	for _, row := range e.pending() {
		if row.Key == "" {
			continue
		}
		key := store.Key{Tenant: row.Tenant, Key: row.Key}
		if shard, ok := shardOf[key]; ok && shard != row.Shard {
			e.t.Fatalf("the key %q is in the shards %d and %d", row.Key, shard, row.Shard)
		}
		shardOf[key] = row.Shard
	}
}

// readOneSnapshot: each transaction writes one message of each of two keys, so
// that two requests of one read must find as many of one as of the other.
func readOneSnapshot[Tx any](e *env[Tx]) {
	const transactions = 150
	written := make(chan error, 1)
	go func() {
		var err error
		for range transactions {
			err = errors.Join(err, e.Store.InTx(e.ctx, func(tx Tx) error {
				return e.ob.Emit(e.ctx, tx, outbox.Event{Topic: "a", Key: "a"}, outbox.Event{Topic: "b", Key: "b"})
			}))
		}
		written <- err
	}()
	requests := make([]store.ReadRequest, 2)
	for i, key := range []string{"a", "b"} {
		requests[i] = e.from(store.Cursor{})
		requests[i].Only = &store.Key{Key: key}
		requests[i].Limit = 2 * transactions
	}
	for deadline := time.Now().Add(patience); ; {
		pages := e.read(requests...)
		if a, b := len(pages[0].Rows), len(pages[1].Rows); a != b {
			e.t.Fatalf("one read found %d messages of one key and %d of the other", a, b)
		}
		if len(pages[0].Rows) == transactions {
			break
		}
		if time.Now().After(deadline) {
			e.t.Fatalf("only %d transactions within %v", len(pages[0].Rows), patience)
		}
	}
	e.ok(<-written, "write")
}

// readCursorsMeet: cursors of different histories become equal when each is at
// its end, and one of them then stands for all.
func readCursorsMeet[Tx any](e *env[Tx]) {
	events := keyed(60)
	e.emit(events[:20]...)
	r := e.from(store.Cursor{})
	r.Limit = 7
	behind := e.read(r)[0].Cursor
	e.emit(events[20:40]...)
	_, ahead := e.readAll(e.from(store.Cursor{}))

	only, except, all := e.from(behind), e.from(ahead), e.from(behind)
	only.Only = &store.Key{Key: events[10].Key} // it has rows behind both
	except.Except = []store.Key{{Key: events[10].Key}}
	requests := []store.ReadRequest{only, except, all, e.from(store.Cursor{})}
	var pages []store.Page
	for range 1000 {
		pages = e.read(requests...)
		more := false
		for i := range pages {
			requests[i].Cursor = pages[i].Cursor
			more = more || pages[i].More
		}
		if !more {
			break
		}
	}
	for i := range pages {
		if pages[i].More || pages[i].Cursor != pages[0].Cursor {
			e.t.Fatalf("more: %v, cursor %d is %+v, want that of the others, %+v", pages[i].More, i, pages[i].Cursor, pages[0].Cursor)
		}
	}
	e.emit(events[40:]...)
	rows, _ := e.readAll(e.from(pages[0].Cursor))
	e.wantTopics(rows, topics(events[40:])...)
}

func readCancelled[Tx any](e *env[Tx]) {
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	if _, err := e.Store.Read(ctx, e.from(store.Cursor{})); !errors.Is(err, context.Canceled) {
		e.t.Fatalf("read with a cancelled context returned %v, want context.Canceled", err)
	}
	e.emit(outbox.Event{Topic: "a"})
	e.wantPending("a")
}

// readHorizon: a transaction that runs holds the horizon back; when it has ended,
// the horizon passes the Next of that time.
func readHorizon[Tx any](e *env[Tx]) {
	tx := e.begin()
	e.emitIn(tx, outbox.Event{Topic: "open"})
	page := e.read(e.from(store.Cursor{}))[0]
	if page.Next == 0 || page.Horizon == 0 || page.Horizon >= page.Next {
		e.t.Fatalf("horizon %d and next %d while a transaction runs, want 0 < horizon < next", page.Horizon, page.Next)
	}
	next := page.Next
	e.commit(tx)
	// Other transactions of the server may hold it back for a while.
	e.eventually("the horizon passes the transaction that has ended", func() bool {
		e.emit(outbox.Event{Topic: "later"})
		return e.read(e.from(store.Cursor{}))[0].Horizon >= next
	})
}
