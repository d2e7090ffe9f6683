package worker

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/outbox-go/outbox"
)

// A message that can be brought neither to its retry nor to the dead letters is
// held for the first of these, and for twice as long each time, and it is tried
// again.
const (
	firstUnsettledPause = time.Second
	maxUnsettledPause   = time.Minute
)

// finish settles t, whose handler has returned err, and returns it, or nil when it
// is being held.
func (r *run) finish(ctx context.Context, slot int, t *task, err error) (done *task) {
	if err == nil {
		r.settle(t.msg, outbox.Settlement{Outcome: outbox.Ack})
		return t
	}
	v := judge(err)
	if ctx.Err() != nil { // the stop has cancelled the handler: that is no attempt
		how := outbox.Settlement{Outcome: outbox.Requeue}
		r.logFailure(t, v, how)
		r.settle(t.msg, how)
		return t
	}
	how := r.settlement(t, v)
	r.logFailure(t, v, how)
	switch {
	case how.Outcome == outbox.Retry && r.cfg.InOrder:
		t.msg.Failure = how.Failure
		return r.hold(slot, t, how.Delay, nil)
	case how.Outcome == outbox.Requeue:
		return r.hold(slot, t, how.Delay, r.giveBack)
	case r.settle(t.msg, how), how.Outcome == outbox.Ack:
		return t
	}
	return r.hold(slot, t, firstUnsettledPause, r.settlingAgain(how))
}

// settlingAgain returns what settles a message in the way that has failed, and for
// how long it is to be held if it fails again. The handler does not run meanwhile,
// and in order its successors wait.
func (r *run) settlingAgain(how outbox.Settlement) func(*task) time.Duration {
	pause := firstUnsettledPause
	return func(t *task) time.Duration {
		if lost(t.msg) {
			_ = t.msg.Settle(outbox.Settlement{Outcome: outbox.Requeue}) // it comes again
			return 0
		}
		if r.settle(t.msg, how) {
			return 0
		}
		pause = min(2*pause, maxUnsettledPause)
		return pause
	}
}

// hold keeps t for delay and then calls after, which returns for how long to keep it
// on; without after, the handler runs again. When the worker is being stopped, t is
// given back at once, and returned.
func (r *run) hold(slot int, t *task, delay time.Duration, after func(*task) time.Duration) *task {
	if r.queue.hold(slot, t, delay, after) {
		return nil
	}
	r.giveBack(t)
	return t
}

func (r *run) giveBack(t *task) time.Duration {
	r.settle(t.msg, outbox.Settlement{Outcome: outbox.Requeue})
	return 0
}

// settlement decides what becomes of t, whose handler has failed with v.
func (r *run) settlement(t *task, v verdict) outbox.Settlement {
	retries := &r.cfg.Retries
	if t.handler.retries != nil {
		retries = t.handler.retries
	}
	f := r.failure(t, v)
	how := retries.settlement(v, f, r.cfg.DropAborted)
	if !r.cfg.DeadLetters || how.Outcome == outbox.Ack {
		return how
	}
	// What is dead stays where it is, and comes again.
	delay := retries.delay(f.Attempts)
	if v.retry != nil && v.retry.ownDelay {
		delay = v.retry.delay
	}
	return outbox.Settlement{Outcome: outbox.Requeue, Delay: max(delay, firstUnsettledPause)}
}

// failure adds an attempt that ended with v to the history of t.
func (r *run) failure(t *task, v verdict) *outbox.Failure {
	now := time.Now().UTC()
	f := &outbox.Failure{
		Attempts: 1, Reason: v.text, Handler: t.handler.pattern, Queue: r.cfg.Queue, FirstAt: now, LastAt: now,
	}
	if before := t.msg.Failure; before != nil {
		f.Attempts = before.Attempts + 1
		if !before.FirstAt.IsZero() {
			f.FirstAt = before.FirstAt
		}
	}
	return f
}

// logFailure tells of a failure and what follows from it, before it is done.
func (r *run) logFailure(t *task, v verdict, how outbox.Settlement) {
	m := t.msg
	attrs := []slog.Attr{
		slog.String("id", m.ID),
		slog.String("topic", m.Topic),
		slog.String("handler", t.handler.pattern),
		slog.String("error", v.text),
		slog.String("outcome", outcomeName(how.Outcome)),
	}
	level := slog.LevelWarn
	if how.Failure != nil {
		attrs = append(attrs, slog.Int("attempt", how.Failure.Attempts))
	}
	switch how.Outcome {
	case outbox.Retry, outbox.Requeue:
		attrs = append(attrs, slog.Duration("delay", how.Delay))
	case outbox.DeadLetter, outbox.Ack:
		level = slog.LevelError
	}
	if v.panicked != nil {
		level = slog.LevelError
		attrs = append(attrs, slog.String("stack", string(v.panicked.Stack)))
	}
	r.log.LogAttrs(context.Background(), level, "message failed", attrs...)
}

func outcomeName(o outbox.Outcome) string {
	switch o {
	case outbox.Retry:
		return "retry"
	case outbox.DeadLetter:
		return "dead letter"
	case outbox.Ack:
		return "dropped"
	case outbox.Requeue:
		return "given back"
	}
	return fmt.Sprint(int(o))
}

// settle reports whether the broker has taken the settlement.
func (r *run) settle(m *outbox.Received, how outbox.Settlement) bool {
	err := m.Settle(how)
	if err != nil && !(how.Outcome == outbox.Requeue && lost(m)) { // else it is back already
		r.log.Warn("message not settled", "id", m.ID, "topic", m.Topic, "outcome", settlementName(how.Outcome), "error", err)
	}
	return err == nil
}

func settlementName(o outbox.Outcome) string {
	if o == outbox.Ack {
		return "acknowledged"
	}
	return outcomeName(o)
}
