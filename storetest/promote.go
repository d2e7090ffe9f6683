package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func promoteCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Promote/NotBefore", run: promoteNotBefore[Tx]},
		{name: "Promote/BecomesDue", run: promoteDue[Tx]},
		{name: "Promote/InTheOrderOfTime", run: promoteOrder[Tx]},
		{name: "Promote/NewPositions", run: promotePositions[Tx]},
		{name: "Promote/Limit", run: promoteLimit[Tx]},
		{name: "Promote/KeepsEveryField", run: promoteKeeps[Tx]},
		{name: "Promote/ReaderFollows", run: promoteFollowed[Tx]},
		{name: "Promote/AtTheSameTime", run: promoteConcurrently[Tx]},
		{name: "Promote/RolledBackEmit", run: promoteRolledBack[Tx]},
		{name: "Promote/ManyInOneEmit", run: promoteMany[Tx]},
	}
}

func (e *env[Tx]) promote(limit, moved int) store.Promotion {
	e.t.Helper()
	p, err := e.Store.Promote(e.ctx, limit)
	e.ok(err, "promote")
	if p.Moved != moved {
		e.t.Fatalf("%d messages were promoted, want %d", p.Moved, moved)
	}
	return p
}

func promoteNotBefore[Tx any](e *env[Tx]) {
	if p := e.promote(10, 0); p.Next != store.Never {
		e.t.Fatalf("the next of none is due in %v, want never", p.Next)
	}
	e.emit(
		outbox.Event{Topic: "later", DeliverAt: time.Now().Add(2 * time.Hour)}, outbox.Event{Topic: "now"},
		outbox.Event{Topic: "soon", DeliverAt: time.Now().Add(time.Hour)},
	)
	if p := e.promote(10, 0); p.Next <= 50*time.Minute || p.Next > time.Hour {
		e.t.Fatalf("the next is due in %v, want an hour at most", p.Next)
	}
	e.wantPending("now")
	e.wantListed(store.Pending, "now")
	e.wantListed(store.Scheduled, "later", "soon")
}

func promoteDue[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a", DeliverAt: time.Now().Add(300 * time.Millisecond)})
	e.Store = e.Open(e.t)
	e.eventually("the message is due", func() bool {
		p, err := e.Store.Promote(e.ctx, 10)
		e.ok(err, "promote")
		if p.Moved == 0 && p.Next == store.Never {
			e.t.Fatal("there is said to be no scheduled message")
		}
		return p.Moved == 1
	})
	e.wantPending("a")
	e.wantListed(store.Scheduled)
	e.promote(10, 0)
}

// overdue returns events that were due at these minutes of the past hour, in this
// order, with topics like "at.7".
func overdue(minutes ...int) []outbox.Event {
	start := time.Now().Add(-2 * time.Hour)
	events := make([]outbox.Event, len(minutes))
	for i, minute := range minutes {
		events[i] = outbox.Event{Topic: fmt.Sprintf("at.%d.%d", minute, i), Key: "k", DeliverAt: start.Add(time.Duration(minute) * time.Minute)}
	}
	return events
}

// promoteOrder: by the time at which they are due; those of one time in the order
// of their emits.
func promoteOrder[Tx any](e *env[Tx]) {
	events := overdue(7, 3, 9, 3, 1, 9, 3)
	e.emit(events[:4]...)
	e.emit(events[4])
	e.emit(events[5:]...)
	e.promote(100, len(events))
	want := []string{"at.1.4", "at.3.1", "at.3.3", "at.3.6", "at.7.0", "at.9.2", "at.9.5"}
	rows := e.pending()
	e.wantTopics(rows, want...)
	for i := 1; i < len(rows); i++ {
		if rows[i].Position <= rows[i-1].Position {
			e.t.Fatalf("position %d follows %d", rows[i].Position, rows[i-1].Position)
		}
	}
}

// promotePositions: a message has its place in the order when it is due, not when
// it is emitted.
func promotePositions[Tx any](e *env[Tx]) {
	e.emit(overdue(1)...)
	e.emit(outbox.Event{Topic: "plain", Key: "k"})
	e.promote(100, 1)
	e.emit(outbox.Event{Topic: "last", Key: "k"})
	rows := e.pending()
	e.wantTopics(rows, "plain", "at.1.0", "last")
	if rows[0].Shard != rows[1].Shard {
		e.t.Fatalf("messages of one key are in the shards %d and %d", rows[0].Shard, rows[1].Shard)
	}
}

func promoteLimit[Tx any](e *env[Tx]) {
	e.emit(overdue(5, 4, 3, 2, 1)...)
	e.emit(outbox.Event{Topic: "later", DeliverAt: time.Now().Add(time.Hour)})
	if p := e.promote(2, 2); p.Next > 0 {
		e.t.Fatalf("the next is due in %v, want one that is due", p.Next)
	}
	e.wantPending("at.1.4", "at.2.3")
	if p := e.promote(3, 3); p.Next <= 50*time.Minute || p.Next > time.Hour {
		e.t.Fatalf("the next is due in %v, want an hour at most", p.Next)
	}
	e.wantPending("at.1.4", "at.2.3", "at.3.2", "at.4.1", "at.5.0")
}

func promoteKeeps[Tx any](e *env[Tx]) {
	want := fieldSamples()
	start := time.Now().Add(-time.Hour).Truncate(time.Microsecond).UTC()
	for i := range want {
		want[i].DeliverAt = start.Add(time.Duration(i) * time.Microsecond)
		want[i].Route = []string{"", "side"}[i%2]
	}
	e.insert(want...)
	scheduled := e.list(store.Query{State: store.Scheduled})
	if len(scheduled) != len(want) {
		e.t.Fatalf("%d scheduled messages, want %d", len(scheduled), len(want))
	}
	for i := range want {
		if fault := messageFault(&scheduled[i].Message, &want[i]); fault != "" {
			e.t.Errorf("scheduled message %d: %s", i, fault)
		}
	}
	e.promote(100, len(want))
	main, side := e.pending(), e.route("side").pending()
	if len(main) != 3 || len(side) != 2 {
		e.t.Fatalf("%d and %d messages on the routes, want 3 and 2", len(main), len(side))
	}
	for i := range want {
		got := [][]store.Row{main, side}[i%2][i/2]
		if fault := messageFault(&got.Message, &want[i]); fault != "" {
			e.t.Errorf("message %d: %s", i, fault)
		}
		if got.Attempts != 0 || got.RetryIn > 0 || got.Position <= 0 {
			e.t.Errorf("message %d: attempts %d, retry in %v, position %d", i, got.Attempts, got.RetryIn, got.Position)
		}
	}
}

func promoteFollowed[Tx any](e *env[Tx]) {
	e.emit(overdue(2, 1, 3)...)
	e.emit(outbox.Event{Topic: "plain"})
	_, cursor := e.readAll(e.from(store.Cursor{}))
	e.promote(2, 2)
	rows, cursor := e.readAll(e.from(cursor))
	e.wantTopics(rows, "at.1.1", "at.2.0")
	e.promote(2, 1)
	rows, cursor = e.readAll(e.from(cursor))
	e.wantTopics(rows, "at.3.2")
	rows, _ = e.readAll(e.from(cursor))
	e.wantTopics(rows)
}

func promoteConcurrently[Tx any](e *env[Tx]) {
	const n = 100
	minutes := make([]int, n)
	for i := range minutes {
		minutes[i] = (i * 37) % n
	}
	events := overdue(minutes...)
	e.emit(events...)
	stores := []Store[Tx]{e.Store, e.Open(e.t)}
	var moved atomic.Int64
	errs := make([]error, 4)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			for {
				p, err := stores[i%2].Promote(e.ctx, 7)
				if err == nil && p.Moved > 7 {
					err = fmt.Errorf("moved %d messages, want 7 at most", p.Moved)
				}
				if err != nil || moved.Add(int64(p.Moved)) >= n {
					errs[i] = err
					return
				}
			}
		})
	}
	group.Wait()
	e.ok(errors.Join(errs...), "promote")
	if moved.Load() != n {
		e.t.Fatalf("%d messages were promoted, want %d", moved.Load(), n)
	}
	slices.SortFunc(events, func(a, b outbox.Event) int { return a.DeliverAt.Compare(b.DeliverAt) })
	e.wantPending(topics(events)...)
	e.promote(10, 0)
}

// promoteRolledBack: one emit of both kinds is all or nothing.
func promoteRolledBack[Tx any](e *env[Tx]) {
	events := append(overdue(1), outbox.Event{Topic: "plain"})
	tx := e.begin()
	e.emitIn(tx, events...)
	e.rollback(tx)
	e.promote(10, 0)
	e.wantPending()
	if e.Savepoint != nil {
		undo := errors.New("undo")
		tx = e.begin()
		_ = e.Savepoint(e.ctx, tx, func(tx Tx) error {
			e.emitIn(tx, events...)
			return undo
		})
		e.commit(tx)
		e.promote(10, 0)
		e.wantPending()
	}
	e.emit(events...)
	e.promote(10, 1)
	e.wantPending("plain", "at.1.0")
}

// promoteMany inserts more values than a statement takes, of both kinds.
func promoteMany[Tx any](e *env[Tx]) {
	const n = 3000
	var minutes []int
	for i := range n {
		minutes = append(minutes, i/50)
	}
	scheduled, plain := overdue(minutes...), numbered(n)
	var all []outbox.Event
	for i := range n {
		all = append(all, scheduled[i], plain[i])
	}
	e.emit(all...)
	r := e.from(store.Cursor{})
	r.Limit = 1000
	rows, cursor := e.readAll(r)
	e.wantTopics(rows, topics(plain)...)
	e.promote(n, n)
	r.Cursor = cursor
	rows, _ = e.readAll(r)
	e.wantTopics(rows, topics(scheduled)...)
}
