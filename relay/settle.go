package relay

import (
	"context"
	"errors"
	"time"

	"github.com/outbox-go/outbox/store"
)

// settleLoop deletes what was confirmed.
func (r *run) settleLoop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		items, wait := r.queue.collect(false)
		if len(items) > 0 {
			r.settle(ctx, items)
			continue
		}
		r.queue.settleWake.wait(ctx, timer, wait)
	}
}

// recordLoop records what was refused, apart from settleLoop so that it cannot hold
// that up.
func (r *run) recordLoop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var pause backoff
	for ctx.Err() == nil {
		if !r.recordRefused(ctx) {
			pause.sleep(ctx, nil)
			continue
		}
		pause.reset()
		r.queue.recordWake.wait(ctx, timer, 0)
	}
}

// settle deletes items, trying until it is done or ctx ends.
func (r *run) settle(ctx context.Context, items []*item) {
	refs := make([]store.Ref, len(items))
	for i, it := range items {
		refs[i] = it.ref()
	}
	var pause backoff
	for {
		began := time.Now()
		err := r.withTimeout(ctx, func(ctx context.Context) error { return r.store.Settle(ctx, refs, false) })
		for _, hook := range r.hooks.settle {
			hook.Settled(len(refs), time.Since(began), err)
		}
		if err == nil {
			r.stats.settled(len(items))
			r.queue.settled(items)
			return
		}
		if ctx.Err() != nil {
			return
		}
		r.config.Logger.Warn("relay could not delete confirmed messages", "messages", len(refs), "error", err)
		pause.sleep(ctx, nil)
	}
}

// recordRefused reports whether there is nothing left to record.
func (r *run) recordRefused(ctx context.Context) bool {
	refusals := r.queue.collectRefused()
	if len(refusals) == 0 {
		return true
	}
	err := r.withTimeout(ctx, func(ctx context.Context) error { return r.store.Fail(ctx, failuresOf(refusals)) })
	if err == nil {
		for _, f := range refusals {
			r.config.Logger.Warn("broker refused a message", "id", f.failure.Ref.ID, "topic", f.it.row.Topic,
				"attempts", f.failure.Attempts, "retry_in", f.failure.RetryIn, "error", f.failure.Error)
		}
		r.queue.recorded(refusals)
		return true
	}
	r.queue.unrecorded(refusals)
	if errors.Is(err, store.ErrLeaseLost) {
		r.queue.suspend() // until a claim tells which of the leases are left
	} else if ctx.Err() == nil {
		r.config.Logger.Warn("relay could not record refused messages", "messages", len(refusals), "error", err)
	}
	return false
}
