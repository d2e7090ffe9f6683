package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/outbox-go/outbox"
)

// unsettledPause is the time for which a message is held that could be brought
// neither to its retry nor to the dead letters, before it is given back.
const unsettledPause = time.Second

// finish settles t, whose handler has returned err, and returns it, or nil when it
// is being held.
func (r *run) finish(ctx context.Context, slot int, t *task, err error) (done *task) {
	if err == nil {
		r.settle(t.msg, outbox.Settlement{Outcome: outbox.Ack})
		return t
	}
	if ctx.Err() != nil { // the stop has cancelled the handler: that is no attempt
		r.logFailure(t, err, outbox.Settlement{Outcome: outbox.Requeue})
		r.settle(t.msg, outbox.Settlement{Outcome: outbox.Requeue})
		return t
	}
	how := r.settlement(t, err)
	r.logFailure(t, err, how)
	switch {
	case how.Outcome == outbox.Retry && r.cfg.InOrder:
		t.msg.Failure = how.Failure
		return r.hold(slot, t, how.Delay, nil)
	case how.Outcome == outbox.Requeue:
		return r.hold(slot, t, how.Delay, r.giveBack)
	case r.settle(t.msg, how), how.Outcome == outbox.Ack:
		return t
	}
	return r.hold(slot, t, unsettledPause, r.giveBack)
}

// hold keeps t for delay: then it is given back or, without giveBack, runs again.
// When the worker is being stopped, it is given back at once, and returned.
func (r *run) hold(slot int, t *task, delay time.Duration, giveBack func(*task)) *task {
	if r.queue.hold(slot, t, delay, giveBack) {
		return nil
	}
	r.giveBack(t)
	return t
}

func (r *run) giveBack(t *task) { r.settle(t.msg, outbox.Settlement{Outcome: outbox.Requeue}) }

// settlement decides what becomes of t, whose handler has failed with err.
func (r *run) settlement(t *task, err error) outbox.Settlement {
	retries := &r.cfg.Retries
	if t.handler.retries != nil {
		retries = t.handler.retries
	}
	how := retries.settlement(err, r.failure(t, err), r.cfg.DropAborted)
	if r.cfg.DeadLetters && how.Outcome != outbox.Ack {
		// What is dead stays where it is, and comes again.
		how = outbox.Settlement{Outcome: outbox.Requeue, Delay: max(retries.delay(how.Failure.Attempts), unsettledPause)}
	}
	return how
}

// failure adds an attempt that ended with err to the history of t.
func (r *run) failure(t *task, err error) *outbox.Failure {
	now := time.Now().UTC()
	f := &outbox.Failure{
		Attempts: 1, Reason: reason(err), Handler: t.handler.pattern, Queue: r.cfg.Queue, FirstAt: now, LastAt: now,
	}
	if before := t.msg.Failure; before != nil {
		f.Attempts = before.Attempts + 1
		if !before.FirstAt.IsZero() {
			f.FirstAt = before.FirstAt
		}
	}
	return f
}

// reason returns the text of err, whose method may panic.
func reason(err error) (text string) {
	defer func() {
		if v := recover(); v != nil {
			text = fmt.Sprintf("%T, whose method Error panicked: %v", err, v)
		}
	}()
	return err.Error()
}

// logFailure tells of a failure and what follows from it, before it is done.
func (r *run) logFailure(t *task, err error, how outbox.Settlement) {
	m := t.msg
	attrs := []slog.Attr{
		slog.String("id", m.ID),
		slog.String("topic", m.Topic),
		slog.String("handler", t.handler.pattern),
		slog.String("error", reason(err)),
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
	var p *outbox.PanicError
	if errors.As(err, &p) {
		level = slog.LevelError
		attrs = append(attrs, slog.String("stack", string(p.Stack)))
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
	if err != nil {
		r.log.Warn("message not settled", "id", m.ID, "topic", m.Topic, "outcome", outcomeName(how.Outcome), "error", err)
	}
	return err == nil
}
