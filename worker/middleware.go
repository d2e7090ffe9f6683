package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/outbox-go/outbox"
)

// prepare makes h ready to run: its function in its time-out and its middleware,
// and that in outer.
func (h *handler) prepare(outer []Middleware) {
	run := recovering(h.call)
	if h.timeout > 0 {
		run = h.timed(run)
	}
	for _, list := range [][]Middleware{h.middleware, outer} {
		for i := len(list) - 1; i >= 0; i-- {
			run = list[i](run)
		}
	}
	h.run = run
}

// recovering turns a panic of next into an error, so that middleware sees it as
// one.
func recovering(next Handler) Handler {
	return func(ctx context.Context, d *Delivery[[]byte]) (err error) {
		returned := false
		defer func() {
			if returned {
				return
			}
			if v := recover(); v != nil { // nil when the goroutine ends by Goexit
				err = &outbox.PanicError{Value: v, Stack: debug.Stack()}
			}
		}()
		err = next(ctx, d)
		returned = true
		return err
	}
}

func (h *handler) timed(next Handler) Handler {
	timeout := fmt.Errorf("worker: the handler's time-out of %s has passed", h.timeout)
	return func(ctx context.Context, d *Delivery[[]byte]) error {
		ctx, cancel := context.WithTimeoutCause(ctx, h.timeout, timeout)
		defer cancel()
		err := next(ctx, d)
		if err != nil && errors.Is(context.Cause(ctx), timeout) {
			return fmt.Errorf("after %s, its time-out, the handler returned: %w", h.timeout, err)
		}
		return err
	}
}

// unmatched handles what no pattern matches.
func unmatched(context.Context, *Delivery[[]byte]) error {
	return undeliverable(errors.New("no handler's pattern matches the topic"))
}
