package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
)

func transientCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Transient/NotOfTheDatabase", run: transientOthers[Tx], unless: noInbox[Tx]},
		{name: "Transient/ViolatedConstraint", run: transientViolation[Tx], unless: noInbox[Tx]},
		{name: "Transient/Passing", run: transientPassing[Tx], unless: nothingPasses[Tx]},
	}
}

func nothingPasses[Tx any](h *Harness[Tx]) string {
	if len(h.Passing) == 0 {
		return "no faults that pass"
	}
	return ""
}

// transientOthers: a handler's own faults are not the database's, even if they are
// of a network.
func transientOthers[Tx any](e *env[Tx]) {
	for _, fault := range []error{
		nil, errFirst, context.Canceled, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, context.DeadlineExceeded,
		&net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET},
	} {
		if e.inbox().Transient(fault) {
			e.t.Errorf("%v counts as one of the database that passes", fault)
		}
		if fault == nil {
			continue
		}
		_, err := e.inbox().Once(e.ctx, "billing", "1", func(ctx context.Context, tx Tx) error {
			return errors.Join(e.write(ctx, tx, "a"), fmt.Errorf("ask another service: %w", fault))
		})
		if !errors.Is(err, fault) {
			e.t.Errorf("once returned %v, want %v", err, fault)
		}
		if e.inbox().Transient(err) {
			e.t.Errorf("%v, of a function's own doing, counts as one of the database that passes", err)
		}
	}
	e.wantNoneHandled()
}

func transientViolation[Tx any](e *env[Tx]) {
	_, err := e.inbox().Once(e.ctx, "billing", "1", func(ctx context.Context, tx Tx) error {
		return errors.Join(e.Insert(ctx, tx, "a"), e.Insert(ctx, tx, "a"))
	})
	if err == nil || e.inbox().Transient(err) {
		e.t.Fatalf("once returned %v, want an error that does not pass", err)
	}
	e.wantNoneHandled()
}

// transientPassing: an error that passes is recognized, leaves nothing, and the
// message is handled the next time.
func transientPassing[Tx any](e *env[Tx]) {
	for name, fault := range e.Passing {
		e.t.Run(name, func(t *testing.T) {
			f := fault(t)
			in := e.inboxOf(f.Store)
			first, err := in.Once(e.ctx, "billing", name, func(ctx context.Context, tx Tx) error {
				if err := e.Insert(ctx, tx, name); err != nil {
					return err
				}
				err := f.Fail(ctx, tx)
				if err == nil {
					t.Error("nothing has failed")
					return nil
				}
				return fmt.Errorf("handle: %w", err)
			})
			if first || err == nil || !in.Transient(fmt.Errorf("wrapped: %w", err)) {
				t.Fatalf("once returned %t, %#v, want an error that passes", first, err)
			}
			first, err = in.Once(e.ctx, "billing", name, func(ctx context.Context, tx Tx) error { return e.Insert(ctx, tx, name) })
			if !first || err != nil {
				t.Fatalf("the next time once returned %t, %v", first, err)
			}
		})
	}
	e.wantBusiness(len(e.Passing))
}
