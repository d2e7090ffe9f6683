package storetest

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/outbox-go/outbox"
)

func onceTxCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Once/FailureLeavesNothing", run: onceFails[Tx], unless: noInbox[Tx]},
		{name: "Once/SwallowedErrorIsAllOrNothing", run: onceSwallows[Tx], unless: noInbox[Tx]},
		{name: "Once/PanicLeavesNothing", run: oncePanics[Tx], unless: noInbox[Tx]},
		{name: "Once/GoexitLeavesNothing", run: onceExits[Tx], unless: noInbox[Tx]},
		{name: "Once/CancelledWithin", run: onceCancelled[Tx], unless: noInbox[Tx]},
		{name: "Once/CancelledBefore", run: onceCancelledBefore[Tx], unless: noInbox[Tx]},
		{name: "Once/CancelledWhileWaiting", run: onceCancelledWaiting[Tx], unless: noInbox[Tx]},
		{name: "Once/EmitsInTheTransaction", run: onceEmits[Tx], unless: noInbox[Tx]},
		{name: "Once/EmitWakes", run: onceWakes[Tx], unless: noInboxOrNotifications[Tx]},
		{name: "Once/WakesOtherInstance", run: onceWakesOther[Tx], unless: noInboxOrOther[Tx]},
		{name: "Once/NothingEmittedDoesNotWake", run: onceIsQuiet[Tx], unless: noInboxOrNotifications[Tx]},
	}
}

func noInboxOrNotifications[Tx any](h *Harness[Tx]) string {
	if reason := noInbox(h); reason != "" {
		return reason
	}
	return pollsOnly(h)
}

func noInboxOrOther[Tx any](h *Harness[Tx]) string {
	if reason := noInbox(h); reason != "" {
		return reason
	}
	return notifiesNoOther(h)
}

// wantNoneHandled fails the test unless the message left nothing and can be handled.
func (e *env[Tx]) wantNoneHandled() {
	e.t.Helper()
	e.wantPending()
	e.wantBusiness(0)
	e.wantFirst("billing", "1", true)
}

func onceFails[Tx any](e *env[Tx]) {
	for range 3 {
		first, err := e.inbox().Once(e.ctx, "billing", "1", func(ctx context.Context, tx Tx) error {
			return errors.Join(e.write(ctx, tx, "a"), errFirst)
		})
		if first || !errors.Is(err, errFirst) || e.inbox().Transient(err) {
			e.t.Fatalf("once returned %t, %v, want the function's error", first, err)
		}
	}
	e.wantNoneHandled()
}

// onceSwallows: a function that goes on after an error of the database leaves
// either all or nothing.
func onceSwallows[Tx any](e *env[Tx]) {
	first, err := e.inbox().Once(e.ctx, "billing", "1", func(ctx context.Context, tx Tx) error {
		e.ok(e.write(ctx, tx, "a"), "write")
		if e.Insert(ctx, tx, "a") == nil {
			e.t.Error("the harness's Insert took the same id twice")
		}
		return nil
	})
	if first != (err == nil) {
		e.t.Fatalf("once returned %t, %v", first, err)
	}
	if err != nil {
		e.wantNoneHandled()
		return
	}
	e.wantPending("a")
	e.wantBusiness(1)
	e.wantFirst("billing", "1", false)
}

func oncePanics[Tx any](e *env[Tx]) {
	type mark struct{ n int }
	recovered := func() (r any) {
		defer func() { r = recover() }()
		_, _ = e.inbox().Once(e.ctx, "billing", "1", func(ctx context.Context, tx Tx) error {
			e.ok(e.write(ctx, tx, "a"), "write")
			panic(mark{7})
		})
		return nil
	}()
	if recovered != (mark{7}) {
		e.t.Fatalf("once panicked with %v, want the function's own value", recovered)
	}
	e.wantNoneHandled()
}

func onceExits[Tx any](e *env[Tx]) {
	written := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = e.inbox().Once(e.ctx, "billing", "1", func(ctx context.Context, tx Tx) error {
			written <- e.write(ctx, tx, "a")
			runtime.Goexit()
			return nil
		})
	}()
	<-ended
	e.ok(<-written, "write")
	e.wantNoneHandled()
}

func onceCancelled[Tx any](e *env[Tx]) {
	for name, last := range map[string]func(ctx context.Context, tx Tx) error{
		"and returns nil":        func(context.Context, Tx) error { return nil },
		"and returns the reason": func(ctx context.Context, _ Tx) error { return ctx.Err() },
		"and goes on":            func(ctx context.Context, tx Tx) error { return e.write(ctx, tx, "b") },
	} {
		ctx, cancel := context.WithCancel(e.ctx)
		first, err := e.inbox().Once(ctx, "billing", "1", func(ctx context.Context, tx Tx) error {
			err := e.write(ctx, tx, "a")
			cancel()
			if err != nil {
				return err
			}
			return last(ctx, tx)
		})
		if first || err == nil || e.inbox().Transient(err) {
			e.t.Fatalf("a function whose context ends %s: once returned %t, %v, want an error that does not pass", name, first, err)
		}
	}
	e.wantNoneHandled()
}

func onceCancelledBefore[Tx any](e *env[Tx]) {
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	first, err := e.inbox().Once(ctx, "billing", "1", func(_ context.Context, tx Tx) error { return e.write(e.ctx, tx, "a") })
	if first || !errors.Is(err, context.Canceled) || e.inbox().Transient(err) {
		e.t.Fatalf("once with a cancelled context returned %t, %v, want context.Canceled", first, err)
	}
	e.wantNoneHandled()
}

func onceCancelledWaiting[Tx any](e *env[Tx]) {
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	first, err := e.inbox().Once(e.ctx, "billing", "1", func(outer context.Context, tx Tx) error {
		time.AfterFunc(50*time.Millisecond, cancel)
		first, err := e.inbox().Once(ctx, "billing", "1", func(context.Context, Tx) error { return nil })
		if first || !errors.Is(err, context.Canceled) || e.inbox().Transient(err) {
			e.t.Errorf("one that waited returned %t, %v, want context.Canceled", first, err)
		}
		return e.write(outer, tx, "a")
	})
	if !first || err != nil {
		e.t.Fatalf("once returned %t, %v", first, err)
	}
	e.wantPending("a")
}

func onceEmits[Tx any](e *env[Tx]) {
	_, err := e.inbox().Once(e.ctx, "billing", "1", func(ctx context.Context, tx Tx) error {
		return errors.Join(e.write(ctx, tx, "a"), e.ob.Emit(ctx, tx, numbered(150)...), errFirst)
	})
	if !errors.Is(err, errFirst) {
		e.t.Fatalf("once returned %v", err)
	}
	e.wantPending()
	first, err := e.inbox().Once(e.ctx, "billing", "1", func(ctx context.Context, tx Tx) error {
		if err := e.ob.Emit(ctx, tx, numbered(3)...); err != nil {
			return err
		}
		e.wantPending()
		return e.write(ctx, tx, "a")
	})
	if !first || err != nil {
		e.t.Fatalf("once returned %t, %v", first, err)
	}
	e.wantPending("t.0", "t.1", "t.2", "a")
}

// handle handles a new message by fn.
func (e *env[Tx]) handle(fn func(ctx context.Context, tx Tx) error) {
	e.t.Helper()
	e.handled++
	first, err := e.inbox().Once(e.ctx, "wake", time.Duration(e.handled).String(), fn)
	if !first || err != nil {
		e.t.Fatalf("once returned %t, %v", first, err)
	}
}

func onceWakes[Tx any](e *env[Tx]) {
	l := e.listen(e.Store)
	event := outbox.Event{Topic: "a"}
	e.wantHeard(l, func() {
		e.handle(func(ctx context.Context, tx Tx) error { return e.ob.Emit(ctx, tx, event) })
	})
	e.wantHeard(l, func() {
		e.handle(func(ctx context.Context, tx Tx) error { return e.ob.Emit(ctx, tx, event, event) })
	})
	// One that forgets its own context is heard too.
	e.wantHeard(l, func() {
		e.handle(func(_ context.Context, tx Tx) error { return e.ob.Emit(e.ctx, tx, event) })
	})
	if e.Savepoint != nil {
		e.wantHeard(l, func() {
			e.handle(func(ctx context.Context, tx Tx) error {
				return e.Savepoint(ctx, tx, func(tx Tx) error { return e.ob.Emit(ctx, tx, event) })
			})
		})
	}
}

func onceWakesOther[Tx any](e *env[Tx]) {
	e.wantHeard(e.listen(e.Open(e.t)), func() {
		e.handle(func(ctx context.Context, tx Tx) error { return e.ob.Emit(ctx, tx, outbox.Event{Topic: "a"}) })
	})
}

// onceIsQuiet: consumers that emit nothing must not have the relay look.
func onceIsQuiet[Tx any](e *env[Tx]) {
	l := e.listen(e.Store)
	e.wantHeard(l, e.emitInTx)
	for i := 0; i < 20 && l.hears(150*time.Millisecond); i++ {
	}
	e.handle(func(ctx context.Context, tx Tx) error { return e.Insert(ctx, tx, "a") })
	e.handle(func(ctx context.Context, tx Tx) error { return e.ob.Emit(ctx, tx) })
	for _, result := range []error{nil, errFirst} {
		_, err := e.inbox().Once(e.ctx, "wake", time.Duration(e.handled).String(), func(ctx context.Context, tx Tx) error {
			return errors.Join(e.ob.Emit(ctx, tx, outbox.Event{Topic: "a"}), result)
		})
		if err != nil {
			e.t.Fatalf("once for a known message returned %v", err)
		}
	}
	_, err := e.inbox().Once(e.ctx, "wake", "failed", func(ctx context.Context, tx Tx) error {
		return errors.Join(e.ob.Emit(ctx, tx, outbox.Event{Topic: "a"}), errFirst)
	})
	if !errors.Is(err, errFirst) {
		e.t.Fatalf("once returned %v", err)
	}
	if l.hears(300 * time.Millisecond) {
		e.t.Fatal("the listener was told though nothing was emitted")
	}
}
