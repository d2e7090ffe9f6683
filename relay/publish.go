package relay

import (
	"context"
	"time"

	"github.com/outbox-go/outbox"
)

// publishBatch is how many messages are taken from the queue at once.
const publishBatch = 64

// publishLoop keeps the window full.
func (r *run) publishLoop(ctx context.Context) {
	flusher, _ := r.publisher.(outbox.Flusher)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	batch := make([]*item, 0, publishBatch)
	for ctx.Err() == nil {
		var wait time.Duration
		batch, wait = r.queue.take(batch[:0], publishBatch)
		if len(batch) > 0 {
			r.publish(ctx, batch)
			continue
		}
		if flusher != nil {
			if err := flusher.Flush(); err != nil {
				r.config.Logger.Warn("relay could not flush its publisher", "error", err)
			}
		}
		r.queue.publishWake.wait(ctx, timer, wait)
	}
}

// publish sends a batch, looking at the lease before each message: this process
// may have been stopped for any time at any place.
func (r *run) publish(ctx context.Context, batch []*item) {
	for i, it := range batch {
		if !r.queue.mayPublish(it) || ctx.Err() != nil {
			r.queue.unsend(batch[i:])
			return
		}
		for _, hook := range r.hooks.publish {
			hook.Publishing(&it.row.Message)
		}
		r.publisher.Publish(ctx, &it.row.Message, func(err error) { r.answered(it, err) })
	}
}

func (r *run) answered(it *item, err error) {
	if len(r.hooks.answer) > 0 {
		took := time.Since(it.sent)
		for _, hook := range r.hooks.answer {
			hook.Answered(&it.row.Message, took, err)
		}
	}
	r.stats.answered(err)
	switch r.queue.answered(it, err) {
	case wentAway:
		r.config.Logger.Warn("broker unavailable; the relay probes until it is back", "error", err)
		r.tellAvailability(err)
	case cameBack:
		r.config.Logger.Info("broker available again")
		r.tellAvailability(nil)
	case unchanged:
	}
}

func (r *run) tellAvailability(err error) {
	for _, hook := range r.hooks.avail {
		hook.Availability(err)
	}
}
