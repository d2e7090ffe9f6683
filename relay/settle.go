package relay

import (
	"context"
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

// settle deletes items or keeps them in the history, trying until it is done or ctx ends.
func (r *run) settle(ctx context.Context, items []*item) {
	refs := make([]store.Ref, len(items))
	for i, it := range items {
		refs[i] = it.ref()
	}
	var pause backoff
	for {
		began := time.Now()
		err := r.withTimeout(ctx, func(ctx context.Context) error { return r.store.Settle(ctx, refs, r.config.Keep != 0) })
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
