package relay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
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
	flush := func() {
		if flusher == nil {
			return
		}
		if err := flusher.Flush(); err != nil {
			r.config.Logger.Warn("relay could not flush its publisher", "error", err)
		}
	}
	defer flush() // nobody else would
	for ctx.Err() == nil {
		var wait time.Duration
		batch, wait = r.queue.take(batch[:0], publishBatch)
		if len(batch) > 0 {
			r.publish(ctx, batch)
			continue
		}
		flush()
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
		r.publishOne(ctx, it)
	}
}

func (r *run) publishOne(ctx context.Context, it *item) {
	m := &it.row.Message
	if r.config.Transform != nil {
		var err error
		if m, err = r.transformed(ctx, m); err != nil {
			r.stats.answered(err)
			r.tell(r.queue.unsendable(it, err), err)
			return
		}
	}
	for _, hook := range r.hooks.publish {
		hook.Publishing(m)
	}
	r.publisher.Publish(ctx, m, func(err error) { r.answered(it, m, err) })
}

// transformed returns a copy of a message as it is to be sent. What is wrong with it
// is not the broker's doing.
func (r *run) transformed(ctx context.Context, original *outbox.Message) (m *outbox.Message, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &outbox.PanicError{Value: value, Stack: debug.Stack()}
			r.config.Logger.Error("transform panicked", "id", original.ID, "topic", original.Topic, "error", err, "stack", string(debug.Stack()))
		}
		if err != nil && !errors.Is(err, outbox.ErrUnavailable) && !errors.Is(err, outbox.ErrRefused) {
			err = outbox.Invalid(err)
		}
		if err != nil {
			err = fmt.Errorf("transform: %w", err)
		}
	}()
	msg := *original
	msg.Headers, msg.Payload = maps.Clone(original.Headers), slices.Clone(original.Payload)
	err = r.config.Transform(ctx, &msg)
	if err == nil && (msg.ID != original.ID || msg.Position != original.Position || msg.Route != original.Route) {
		err = errors.New("the message's ID, Position or Route was changed: they must stay")
	}
	return &msg, err
}

func (r *run) answered(it *item, m *outbox.Message, err error) {
	if len(r.hooks.answer) > 0 {
		took := time.Since(it.sent)
		for _, hook := range r.hooks.answer {
			hook.Answered(m, took, err)
		}
	}
	r.stats.answered(err)
	r.tell(r.queue.answered(it, err), err)
}

func (r *run) tell(went availability, err error) {
	switch went {
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
