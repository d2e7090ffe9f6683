package relay

import (
	"context"
	"errors"
	"time"

	"github.com/outbox-go/outbox/store"
)

// recordLoop records what was refused, apart from settleLoop so that it cannot hold
// that up.
func (r *run) recordLoop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var pause backoff
	for ctx.Err() == nil {
		n, err := r.recordOnce(ctx)
		switch {
		case err != nil:
			pause.sleep(ctx, nil)
		case n == 0:
			pause.reset()
			r.queue.recordWake.wait(ctx, timer, 0)
		}
	}
}

// recordOnce records a batch and returns how many messages it was.
func (r *run) recordOnce(ctx context.Context) (int, error) {
	refusals := r.queue.collectRefused()
	if len(refusals) == 0 {
		return 0, nil
	}
	err := r.withTimeout(ctx, func(ctx context.Context) error { return r.store.Fail(ctx, failuresOf(refusals)) })
	if err == nil {
		r.tellFailures(refusals)
		r.queue.recorded(refusals)
		return len(refusals), nil
	}
	r.queue.unrecorded(refusals)
	if errors.Is(err, store.ErrLeaseLost) {
		r.queue.suspend() // until a claim tells which of the leases are left
	} else if ctx.Err() == nil {
		r.config.Logger.Warn("relay could not record refused messages", "messages", len(refusals), "error", err)
	}
	return 0, err
}

func (r *run) tellFailures(refusals []refusal) {
	parked := 0
	for i := range refusals {
		f, m := &refusals[i].failure, &refusals[i].it.row.Message
		switch {
		case f.Dead == "" && f.RetryIn == store.Never:
			r.config.Logger.Error("a message cannot be sent and blocks its key until it is retried or cancelled", "id", m.ID, "topic", m.Topic,
				"attempts", f.Attempts, "error", f.Error)
		case f.Dead == "":
			r.config.Logger.Warn("broker refused a message", "id", m.ID, "topic", m.Topic,
				"attempts", f.Attempts, "retry_in", f.RetryIn, "error", f.Error)
		case f.Dead == store.Parked:
			parked++
		default:
			r.config.Logger.Error("a message is a dead letter", "id", m.ID, "topic", m.Topic, "reason", f.Dead,
				"attempts", f.Attempts, "parks_its_key", f.Park, "error", f.Error)
		}
		if f.Dead == "" {
			continue
		}
		r.stats.died(f.Dead)
		for _, hook := range r.hooks.dead {
			hook.Died(m, f.Dead, f.Error)
		}
	}
	if parked > 0 {
		r.config.Logger.Warn("messages joined the dead letters of their keys", "messages", parked)
	}
}
