package storetest

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func settleCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Settle/RemovesExactlyThese", run: settleExactly[Tx]},
		{name: "Settle/MismatchedIDStays", run: settleMismatch[Tx]},
		{name: "Settle/IsIdempotent", run: settleTwice[Tx]},
		{name: "Settle/WithoutALease", run: settleByAnother[Tx]},
		{name: "Settle/AtTheSameTime", run: settleConcurrently[Tx]},
		{name: "Settle/CancelledContext", run: settleCancelled[Tx]},
	}
}

const otherID = "0190a1b2-c3d4-7e5f-8a9b-0000000000ff"

func settleExactly[Tx any](e *env[Tx]) {
	events := numbered(10)
	e.emit(events...)
	rows := e.pending()
	refs := refsOf([]store.Row{rows[2], rows[0], rows[9]})
	refs = append(refs, store.Ref{Position: rows[9].Position + 1000, ID: otherID})
	e.ok(e.Store.Settle(e.ctx, refs, false), "settle")
	left := slices.Concat(rows[1:2], rows[3:9])
	e.sameRows(e.pending(), left)
}

// settleMismatch: after a restore a position can be another message's, so each id
// belongs to its own position.
func settleMismatch[Tx any](e *env[Tx]) {
	e.emit(numbered(4)...)
	rows := e.pending()
	e.ok(e.Store.Settle(e.ctx, []store.Ref{
		{Position: rows[0].Position, ID: otherID},
		{Position: rows[1].Position, ID: rows[2].ID},
		{Position: rows[2].Position, ID: rows[1].ID},
		{Position: rows[3].Position, ID: rows[3].ID},
	}, false), "settle")
	e.sameRows(e.pending(), rows[:3])
}

func settleTwice[Tx any](e *env[Tx]) {
	e.emit(numbered(5)...)
	rows := e.pending()
	refs := refsOf(rows[:3])
	e.ok(e.Store.Settle(e.ctx, append(refs, refs...), false), "settle refs that are named twice")
	e.ok(e.Store.Settle(e.ctx, refs, false), "settle again")
	e.ok(e.Store.Settle(e.ctx, nil, false), "settle nothing")
	e.sameRows(e.pending(), rows[3:])
}

// settleByAnother: whoever published it, what is confirmed is done.
func settleByAnother[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a"})
	e.claim(store.ClaimRequest{Owner: "first"})
	rows := e.pending()
	e.ok(e.Open(e.t).Settle(e.ctx, refsOf(rows), false), "settle by another instance")
	e.wantPending()
}

func settleConcurrently[Tx any](e *env[Tx]) {
	events := numbered(400)
	e.emit(events...)
	rows := e.pending()
	errs := make([]error, 4)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			for part := range slices.Chunk(rows[i*50:i*50+200], 20) { // they overlap
				errs[i] = errors.Join(errs[i], e.Store.Settle(e.ctx, refsOf(part), false))
			}
		})
	}
	group.Wait()
	e.ok(errors.Join(errs...), "settle")
	e.wantPending(topics(events[350:])...)
}

func settleCancelled[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a"})
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	if err := e.Store.Settle(ctx, refsOf(e.pending()), false); !errors.Is(err, context.Canceled) {
		e.t.Fatalf("settle with a cancelled context returned %v, want context.Canceled", err)
	}
	e.wantPending("a")
}
