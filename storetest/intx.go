package storetest

import (
	"context"
	"errors"
	"runtime"

	"github.com/outbox-go/outbox"
)

func inTxCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "InTx/Commits", run: inTxCommits[Tx]},
		{name: "InTx/RollsBackOnError", run: inTxError[Tx]},
		{name: "InTx/RollsBackOnPanic", run: inTxPanic[Tx]},
		{name: "InTx/RollsBackOnGoexit", run: inTxGoexit[Tx]},
		{name: "InTx/RollsBackWhenCancelled", run: inTxCancelled[Tx]},
		{name: "InTx/CancelledBefore", run: inTxCancelledBefore[Tx]},
	}
}

// write is a business row and an event in tx.
func (e *env[Tx]) write(ctx context.Context, tx Tx, id string) error {
	return errors.Join(e.Insert(ctx, tx, id), e.ob.Emit(ctx, tx, outbox.Event{Topic: id}))
}

func (e *env[Tx]) wantNothing() {
	e.t.Helper()
	e.wantPending()
	if n := e.business(); n != 0 {
		e.t.Fatalf("%d business rows, want none", n)
	}
	// What was rolled back must not be in the way of what comes next.
	e.ok(e.Store.InTx(e.ctx, func(tx Tx) error { return e.write(e.ctx, tx, "next") }), "the next transaction")
	e.wantPending("next")
}

func inTxCommits[Tx any](e *env[Tx]) {
	e.ok(e.ob.InTx(e.ctx, func(tx Tx) error { return e.write(e.ctx, tx, "a") }), "in tx")
	e.wantPending("a")
	if n := e.business(); n != 1 {
		e.t.Fatalf("%d business rows, want 1", n)
	}
}

func inTxError[Tx any](e *env[Tx]) {
	failed := errors.New("the business failed")
	err := e.ob.InTx(e.ctx, func(tx Tx) error {
		return errors.Join(e.write(e.ctx, tx, "a"), failed)
	})
	if !errors.Is(err, failed) {
		e.t.Fatalf("InTx returned %v, want the function's error", err)
	}
	e.wantNothing()
}

func inTxPanic[Tx any](e *env[Tx]) {
	type mark struct{ n int }
	recovered := func() (r any) {
		defer func() { r = recover() }()
		_ = e.ob.InTx(e.ctx, func(tx Tx) error {
			e.ok(e.write(e.ctx, tx, "a"), "write")
			panic(mark{7})
		})
		return nil
	}()
	if recovered != (mark{7}) {
		e.t.Fatalf("InTx panicked with %v, want the function's own value", recovered)
	}
	e.wantNothing()
}

func inTxGoexit[Tx any](e *env[Tx]) {
	written := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = e.ob.InTx(e.ctx, func(tx Tx) error {
			written <- e.write(e.ctx, tx, "a")
			runtime.Goexit()
			return nil
		})
	}()
	<-ended
	e.ok(<-written, "write")
	e.wantNothing()
}

func inTxCancelled[Tx any](e *env[Tx]) {
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	err := e.ob.InTx(ctx, func(tx Tx) error {
		err := e.write(ctx, tx, "a")
		cancel()
		return err
	})
	if err == nil {
		e.t.Fatal("InTx returned nil although its context had ended before the commit")
	}
	e.wantNothing()
}

func inTxCancelledBefore[Tx any](e *env[Tx]) {
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	err := e.ob.InTx(ctx, func(tx Tx) error { return e.write(e.ctx, tx, "a") })
	if !errors.Is(err, context.Canceled) {
		e.t.Fatalf("InTx with a cancelled context returned %v, want context.Canceled", err)
	}
	e.wantNothing()
}
