package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

func purgeCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Purge/OldRowsInChunks", run: purgeChunks[Tx], unless: noInbox[Tx]},
		{name: "Purge/AgeZeroAndNone", run: purgeAges[Tx], unless: noInbox[Tx]},
		{name: "Purge/SeveralAtOnce", run: purgeConcurrently[Tx], unless: noInbox[Tx]},
		{name: "Purge/DoesNotWaitForHandlers", run: purgeBesides[Tx], unless: noInboxOrSingleWriter[Tx]},
		{name: "Purge/NothingOldNeedsNoLock", run: purgeNothing[Tx], unless: noInbox[Tx]},
		{name: "Purge/LeavesTheOutbox", run: purgeOutbox[Tx], unless: noInbox[Tx]},
		{name: "Purge/CancelledContext", run: purgeCancelled[Tx], unless: noInbox[Tx]},
	}
}

func noInboxOrSingleWriter[Tx any](h *Harness[Tx]) string {
	if reason := noInbox(h); reason != "" {
		return reason
	}
	return singleWriter(h)
}

// fill handles n messages of a consumer: id0 and so on.
func (e *env[Tx]) fill(consumer string, n int) {
	e.t.Helper()
	for i := range n {
		e.wantFirst(consumer, fmt.Sprint("id", i), true)
	}
}

func (e *env[Tx]) age(by time.Duration) {
	e.t.Helper()
	if e.AgeInbox == nil {
		e.t.Fatal("the harness has no AgeInbox")
	}
	e.ok(e.AgeInbox(e.ctx, by), "age the inbox")
}

func (e *env[Tx]) wantPurged(age time.Duration, limit, want int) {
	e.t.Helper()
	n, err := e.inbox().PurgeInbox(e.ctx, age, limit)
	e.ok(err, "purge")
	if n != want {
		e.t.Fatalf("a purge of %d rows older than %v deleted %d, want %d", limit, age, n, want)
	}
}

func (e *env[Tx]) wantCounted(age time.Duration, want int) {
	e.t.Helper()
	n, err := e.inbox().CountInbox(e.ctx, age)
	e.ok(err, "count")
	if n != want {
		e.t.Fatalf("%d rows are older than %v, want %d", n, age, want)
	}
}

func purgeChunks[Tx any](e *env[Tx]) {
	e.wantPurged(0, 10, 0)
	e.fill("oldest", 5)
	e.age(time.Hour)
	e.fill("old", 20)
	e.age(time.Hour)
	e.fill("new", 4)
	e.wantCounted(90*time.Minute, 5)
	e.wantCounted(30*time.Minute, 25)
	e.wantPurged(3*time.Hour, 10, 0)
	for _, want := range []int{10, 10, 5, 0, 0} {
		e.wantPurged(30*time.Minute, 10, want)
	}
	e.wantCounted(30*time.Minute, 0)
	e.wantBusiness(29)
	// The rows that are left still say what they said.
	for i := range 4 {
		e.wantFirst("new", fmt.Sprint("id", i), false)
	}
	first, err := e.inbox().Once(e.ctx, "old", "id7", func(context.Context, Tx) error { return nil })
	if !first || err != nil {
		e.t.Fatalf("a message whose row was purged: %t, %v, want it to be the first", first, err)
	}
}

func purgeAges[Tx any](e *env[Tx]) {
	e.fill("a", 3)
	e.age(time.Second) // a clock may tick in milliseconds
	e.wantCounted(0, 3)
	e.wantCounted(100*365*24*time.Hour, 0)
	e.wantPurged(100*365*24*time.Hour, 10, 0)
	e.wantPurged(0, 0, 0)
	e.wantPurged(0, -1, 0)
	e.wantPurged(0, 10, 3)
}

func purgeConcurrently[Tx any](e *env[Tx]) {
	const rows = 60
	e.fill("a", rows)
	e.age(time.Hour)
	e.fill("new", 3)
	stores := []Inbox[Tx]{e.inbox(), e.inboxOf(e.Open(e.t))}
	var deleted atomic.Int64
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for {
				n, err := stores[i%2].PurgeInbox(e.ctx, time.Minute, 7)
				if err != nil {
					e.t.Errorf("purge: %v", err)
				}
				if n > 7 {
					e.t.Errorf("a purge of 7 rows deleted %d", n)
				}
				if n == 0 || err != nil {
					return
				}
				deleted.Add(int64(n))
			}
		})
	}
	group.Wait()
	if deleted.Load() != rows {
		e.t.Fatalf("the purges say that they deleted %d rows, want %d", deleted.Load(), rows)
	}
	e.wantCounted(0, 3)
}

// purgeBesides: neither waits for the other, nor does a purge see what is not
// committed.
func purgeBesides[Tx any](e *env[Tx]) {
	e.fill("a", 5)
	e.age(time.Hour)
	first, err := e.inbox().Once(e.ctx, "b", "1", func(ctx context.Context, tx Tx) error {
		e.wantPurged(0, 3, 3)
		e.wantPurged(0, 3, 2)
		return e.Insert(ctx, tx, "b")
	})
	if !first || err != nil {
		e.t.Fatalf("once returned %t, %v", first, err)
	}
	e.wantFirst("b", "1", false)
}

// purgeNothing: most purges find nothing, and must then wait for nobody.
func purgeNothing[Tx any](e *env[Tx]) {
	e.fill("a", 2)
	tx := e.begin()
	e.ok(e.Insert(e.ctx, tx, "writing"), "insert")
	e.wantPurged(time.Hour, 10, 0)
	e.wantCounted(time.Hour, 0)
	e.rollback(tx)
}

func purgeOutbox[Tx any](e *env[Tx]) {
	e.handle(func(ctx context.Context, tx Tx) error { return e.write(ctx, tx, "kept") })
	e.age(time.Hour)
	e.wantPurged(0, 10, 1)
	e.wantPending("kept")
}

func purgeCancelled[Tx any](e *env[Tx]) {
	e.fill("a", 1)
	e.age(time.Hour)
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	_, purgeErr := e.inbox().PurgeInbox(ctx, 0, 10)
	_, countErr := e.inbox().CountInbox(ctx, 0)
	if !errors.Is(purgeErr, context.Canceled) || !errors.Is(countErr, context.Canceled) {
		e.t.Fatalf("with a cancelled context purge returned %v and count %v, want context.Canceled", purgeErr, countErr)
	}
	e.wantCounted(0, 1)
}
