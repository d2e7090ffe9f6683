package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func historyCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "History/SettleKeeps", run: historyKeeps[Tx]},
		{name: "History/OnlyWhatWasPending", run: historyOnly[Tx]},
		{name: "History/PurgeOldOnesInChunks", run: historyChunks[Tx]},
		{name: "History/PurgeWholeDays", run: historyDays[Tx]},
		{name: "History/PurgeAgeZeroAndNone", run: historyAges[Tx]},
		{name: "History/PurgeLeavesTheUnsent", run: historyUnsent[Tx]},
		{name: "History/PurgeAtTheSameTime", run: historyConcurrently[Tx]},
		{name: "History/PurgeBesidesSettling", run: historyBesides[Tx], unless: singleWriter[Tx]},
	}
}

// send emits n messages with topics like "old.0" and settles them into the history.
func (e *env[Tx]) send(name string, n int) {
	e.t.Helper()
	events := make([]outbox.Event, n)
	for i := range events {
		events[i].Topic = fmt.Sprintf("%s.%d", name, i)
	}
	e.emit(events...)
	e.ok(e.Store.Settle(e.ctx, refsOf(e.pending()), true), "settle")
}

func (e *env[Tx]) ageSent(by time.Duration) {
	e.t.Helper()
	if e.AgeSent == nil {
		e.t.Fatal("the harness has no AgeSent: it must move the time of all messages in the history into the past")
	}
	e.ok(e.AgeSent(e.ctx, by), "age the history")
}

func (e *env[Tx]) purgeSent(age time.Duration, limit, want int) {
	e.t.Helper()
	n, err := e.Store.PurgeSent(e.ctx, age, limit)
	e.ok(err, "purge")
	if n != want {
		e.t.Fatalf("a purge of %d messages sent longer than %v ago deleted %d, want %d", limit, age, n, want)
	}
}

func (e *env[Tx]) wantCountedSent(age time.Duration, want int) {
	e.t.Helper()
	n, err := e.Store.CountSent(e.ctx, age)
	e.ok(err, "count")
	if n != want {
		e.t.Fatalf("%d messages were sent longer than %v ago, want %d", n, age, want)
	}
}

func historyKeeps[Tx any](e *env[Tx]) {
	want := fieldSamples()
	for i := range want {
		want[i].Route = []string{"", "side"}[i%2]
	}
	e.insert(want...)
	e.ok(e.Store.Settle(e.ctx, append(refsOf(e.pending()), refsOf(e.route("side").pending())...), true), "settle")
	e.wantPending()
	sent := map[string]store.Stored{}
	for _, m := range e.list(store.Query{State: store.Sent}) {
		sent[m.ID] = m
	}
	for i := range want {
		got, ok := sent[want[i].ID]
		if !ok {
			e.t.Fatalf("message %d is not in the history", i)
		}
		if fault := messageFault(&got.Message, &want[i]); fault != "" {
			e.t.Errorf("message %d: %s", i, fault)
		}
		if got.State != store.Sent || time.Since(got.At).Abs() > 5*time.Minute || got.At.Location() != time.UTC {
			e.t.Errorf("message %d is %s since %v, want sent, now and in UTC", i, got.State, got.At)
		}
	}
	if len(sent) != len(want) {
		e.t.Fatalf("%d messages in the history, want %d", len(sent), len(want))
	}
}

// historyOnly: what is settled is in the history once, and only if that is wanted.
func historyOnly[Tx any](e *env[Tx]) {
	e.emit(numbered(5)...)
	rows := e.pending()
	e.ok(e.Store.Settle(e.ctx, refsOf(rows[:1]), false), "settle")
	e.ok(e.Store.Settle(e.ctx, []store.Ref{{Position: rows[1].Position, ID: otherID}, {Position: rows[2].Position, ID: rows[3].ID}}, true), "settle")
	e.wantListed(store.Sent)
	refs := refsOf(rows[1:3])
	e.ok(e.Store.Settle(e.ctx, append(refs, refs...), true), "settle refs that are named twice")
	e.ok(e.Store.Settle(e.ctx, refs, true), "settle again")
	e.ok(e.Store.Settle(e.ctx, refsOf(rows[:1]), true), "settle what is gone")
	e.ok(e.Store.Settle(e.ctx, nil, true), "settle nothing")
	e.wantPending("t.3", "t.4")
	if sent := e.list(store.Query{State: store.Sent}); len(sent) != 2 {
		e.t.Fatalf("%d messages in the history, want 2", len(sent))
	}
}

func historyChunks[Tx any](e *env[Tx]) {
	e.purgeSent(0, 10, 0)
	e.send("oldest", 5)
	e.ageSent(time.Hour)
	e.send("old", 20)
	e.ageSent(time.Hour)
	e.send("new", 4)
	e.wantCountedSent(90*time.Minute, 5)
	e.wantCountedSent(30*time.Minute, 25)
	e.purgeSent(3*time.Hour, 10, 0)
	e.purgeSent(30*time.Minute, 5, 5)
	e.wantCountedSent(90*time.Minute, 0) // the oldest went first
	for _, want := range []int{10, 10, 0, 0} {
		e.purgeSent(30*time.Minute, 10, want)
	}
	e.wantCountedSent(30*time.Minute, 0)
	if left := e.list(store.Query{State: store.Sent}); len(left) != 4 {
		e.t.Fatalf("%d messages in the history, want the 4 new ones", len(left))
	}
}

// historyDays: with an age of days a store may drop more at once than the limit.
func historyDays[Tx any](e *env[Tx]) {
	e.send("old", 30)
	e.ageSent(96 * time.Hour)
	e.send("new", 5)
	e.wantCountedSent(48*time.Hour, 30)
	deleted := 0
	for range 30 {
		n, err := e.Store.PurgeSent(e.ctx, 48*time.Hour, 10)
		e.ok(err, "purge")
		if deleted += n; n == 0 {
			break
		}
	}
	if deleted != 30 {
		e.t.Fatalf("the purges say that they deleted %d messages, want 30", deleted)
	}
	e.wantCountedSent(48*time.Hour, 0)
	e.send("after", 2)
	if left := e.list(store.Query{State: store.Sent}); len(left) != 7 {
		e.t.Fatalf("%d messages in the history, want 7", len(left))
	}
}

func historyAges[Tx any](e *env[Tx]) {
	e.send("a", 3)
	e.ageSent(time.Second) // a clock may tick in milliseconds
	e.wantCountedSent(0, 3)
	e.wantCountedSent(100*365*24*time.Hour, 0)
	e.purgeSent(100*365*24*time.Hour, 10, 0)
	e.purgeSent(0, 0, 0)
	e.purgeSent(0, 10, 3)
	e.wantListed(store.Sent)
}

// historyUnsent: however old it is, what was not sent stays.
func historyUnsent[Tx any](e *env[Tx]) {
	e.send("sent", 2)
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	msgs, err := e.ob.Prepare(e.ctx, numbered(4)...)
	e.ok(err, "prepare")
	for i := range msgs {
		msgs[i].CreatedAt = old
	}
	msgs[3].DeliverAt = old.Add(time.Hour)
	e.insert(msgs...)
	c := e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.fail(e.failure(c, &rows[1]))
	e.bury(c, store.Invalid, true, rows[2])
	e.ageSent(200 * 24 * time.Hour)
	for _, age := range []time.Duration{100 * 24 * time.Hour, time.Hour, 0} {
		for range 3 {
			_, err := e.Store.PurgeSent(e.ctx, age, 1000)
			e.ok(err, "purge")
		}
	}
	e.wantListed(store.Sent)
	e.wantListed(store.Pending, "t.0", "t.1")
	e.wantListed(store.Dead, "t.2")
	e.wantListed(store.Scheduled, "t.3")
}

func historyConcurrently[Tx any](e *env[Tx]) {
	const rows = 60
	e.send("old", rows)
	e.ageSent(time.Hour)
	e.send("new", 3)
	stores := []Store[Tx]{e.Store, e.Open(e.t)}
	var deleted atomic.Int64
	errs := make([]error, 4)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			// One that finds another at work deletes none and tries again.
			for deadline := time.Now().Add(patience); deleted.Load() < rows && time.Now().Before(deadline); {
				n, err := stores[i%2].PurgeSent(e.ctx, time.Minute, 7)
				if err == nil && n > 7 {
					err = fmt.Errorf("deleted %d messages, want 7 at most", n)
				}
				deleted.Add(int64(n))
				if errs[i] = err; err != nil {
					return
				}
			}
		})
	}
	group.Wait()
	e.ok(errors.Join(errs...), "purge")
	if deleted.Load() != rows {
		e.t.Fatalf("the purges say that they deleted %d messages, want %d", deleted.Load(), rows)
	}
	e.wantCountedSent(time.Minute, 0)
	if left := e.list(store.Query{State: store.Sent}); len(left) != 3 {
		e.t.Fatalf("%d messages in the history, want the 3 new ones", len(left))
	}
}

// historyBesides: a purge waits for no transaction that writes, and none waits for
// it.
func historyBesides[Tx any](e *env[Tx]) {
	e.send("old", 5)
	e.ageSent(time.Hour)
	tx := e.begin()
	e.ok(e.write(e.ctx, tx, "open"), "write")
	e.purgeSent(time.Minute, 3, 3)
	e.ok(e.write(e.ctx, tx, "more"), "write")
	e.purgeSent(time.Minute, 3, 2)
	e.commit(tx)
	e.wantPending("open", "more")
}
