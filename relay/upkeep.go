package relay

import (
	"context"
	"time"
)

const (
	// upkeepBatch is how many messages are promoted or purged at once.
	upkeepBatch = 1000

	// purgeGap and purgeRest let others at the database between two batches: that
	// time at least, and that many times as long as the last one took, or
	// purgeHaste times if it goes on for longer than PurgeInterval: more is kept
	// then than is deleted.
	purgeGap   = 10 * time.Millisecond
	purgeRest  = 9
	purgeHaste = 4

	// longAge is an age that no message has.
	longAge = 100 * 365 * 24 * time.Hour
)

// promoteLoop makes scheduled messages pending when they are due. All relays ask,
// and one at a time works.
func (r *run) promoteLoop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	none := signal(nil)
	for ctx.Err() == nil {
		none.wait(ctx, timer, r.promoteOnce(ctx))
	}
}

// promoteOnce returns how long to wait before the next time.
func (r *run) promoteOnce(ctx context.Context) (wait time.Duration) {
	wait = r.config.PollInterval
	err := r.withTimeout(ctx, func(ctx context.Context) error {
		p, err := r.store.Promote(ctx, upkeepBatch)
		switch {
		case err != nil:
			return err
		case p.Moved > 0:
			r.queue.readWake.set()
			wait = min(wait, max(p.Next, time.Millisecond))
		case p.Next > 0:
			wait = min(wait, p.Next)
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		r.config.Logger.Warn("relay could not promote scheduled messages", "error", err)
	}
	return wait
}

// purgeLoop deletes what is too old from the history. Where all is kept it asks for
// what cannot be: a store may have to make room for what comes.
func (r *run) purgeLoop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	none := signal(nil)
	for ctx.Err() == nil {
		r.purge(ctx)
		none.wait(ctx, timer, r.config.PurgeInterval)
	}
}

func (r *run) purge(ctx context.Context) {
	first := time.Now()
	for ctx.Err() == nil {
		n, began := 0, time.Now()
		err := r.withTimeout(ctx, func(ctx context.Context) (err error) {
			n, err = r.store.PurgeSent(ctx, min(r.config.Keep, longAge), upkeepBatch)
			return err
		})
		if err != nil && ctx.Err() == nil {
			r.config.Logger.Warn("relay could not purge the history", "error", err)
		}
		if err != nil || n < upkeepBatch {
			return
		}
		rest := time.Duration(purgeRest)
		if time.Since(first) > r.config.PurgeInterval {
			rest = purgeHaste
		}
		time.Sleep(max(purgeGap, rest*time.Since(began)))
	}
}
