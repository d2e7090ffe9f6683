package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
)

// cancelGrace is the time that handlers have to return after their context has
// been cancelled.
const cancelGrace = 5 * time.Second

var (
	errShutdownTimeout = errors.New("worker: the shutdown timeout has passed")
	errGoexit          = errors.New("the handler ended its goroutine by runtime.Goexit, without an outcome")
)

// run is one run of a worker: a fixed pool of goroutines on a queue.
type run struct {
	cfg          Config
	subscription outbox.Subscription
	established  func()
	routes       *router
	lost         *handler // of what no pattern matches
	log          *slog.Logger
	queue        *queue
	pool         sync.WaitGroup
}

func newRun(w *Worker, routes *router, s outbox.Subscription) *run {
	cfg := w.cfg
	for _, h := range w.handlers {
		h.prepare(cfg.Middleware)
	}
	lost := &handler{call: unmatched}
	lost.prepare(cfg.Middleware)
	return &run{
		cfg:          cfg,
		subscription: s,
		established:  sync.OnceFunc(func() { close(w.ready) }),
		routes:       routes,
		lost:         lost,
		log:          cfg.Logger.With("queue", cfg.Queue),
		queue:        newQueue(cfg.Concurrency, append(slices.Clone(w.handlers), lost)),
	}
}

// startPool starts the goroutines that run handlers, with ctx.
func (r *run) startPool(ctx context.Context) {
	for slot := range r.cfg.Concurrency {
		r.pool.Go(func() { r.work(ctx, slot, nil) })
	}
}

// receive takes a message from the subscriber.
func (r *run) receive(m *outbox.Received) {
	h := r.routes.find(m.Topic)
	if h == nil {
		h = r.lost
	}
	if !r.queue.put(m, h) {
		r.settle(m, outbox.Settlement{Outcome: outbox.Requeue})
	}
}

// work runs messages until the queue is closed. done is the slot's previous
// task, to be released, or nil.
func (r *run) work(ctx context.Context, slot int, done *task) {
	for {
		t := r.queue.take(slot, done)
		if t == nil {
			return
		}
		if lost(t.msg) && t.claim() {
			// It comes again. To handle it here as well would be a needless repeat
			// and, after its successors were handled elsewhere, out of order.
			r.giveBack(t)
			done = t
			continue
		}
		err := r.call(ctx, slot, t)
		if !t.claim() {
			return // shutdown has given the message back and did not wait
		}
		done = r.finish(ctx, slot, t, err)
	}
}

func lost(m *outbox.Received) bool {
	select {
	case <-m.Lost: // never, if it is nil
		return true
	default:
		return false
	}
}

// call runs t's handler and turns a panic of middleware, or of the
// configuration's functions, into an error. If the
// handler ends the goroutine, another takes over the slot.
func (r *run) call(ctx context.Context, slot int, t *task) (err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			err = &outbox.PanicError{Value: v, Stack: debug.Stack()}
			return
		}
		if t.claim() {
			done := r.finish(ctx, slot, t, errGoexit)
			r.pool.Go(func() { r.work(ctx, slot, done) })
		}
	}()
	if f := r.cfg.MessageID; f != nil {
		// In order a message runs more than once, and what an earlier attempt has left
		// behind may still read it: the same id is not written again.
		if id := f(&t.msg.Message); id != "" && id != t.msg.ID {
			t.msg.ID = id
		}
	}
	err = t.handler.run(outbox.WithCause(ctx, &t.msg.Message), r.delivery(t))
	returned = true
	return err
}

// shutdown gives back what waits, lets run what runs, for the shutdown timeout
// and after cancel for cancelGrace more, and ends the pool.
func (r *run) shutdown(ctx context.Context, cancel context.CancelCauseFunc) error {
	timeout := time.After(r.cfg.ShutdownTimeout)
	rest := r.queue.stop()
	r.log.InfoContext(ctx, "worker stopping", "running", r.queue.count(), "given_back", len(rest))
	r.requeue(rest)
	r.queue.forget(len(rest))

	var stuck []*outbox.Received
	if !r.drained(timeout) {
		r.log.WarnContext(ctx, "cancelling handlers after the shutdown timeout", "running", r.queue.count())
		cancel(errShutdownTimeout)
		if !r.drained(time.After(cancelGrace)) {
			stuck = r.queue.abandon()
			r.requeue(stuck)
		}
	}
	r.queue.close()
	if len(stuck) > 0 {
		return fmt.Errorf("worker: %d handlers did not return within %s after the end of their context", len(stuck), cancelGrace)
	}
	r.pool.Wait()
	return nil
}

func (r *run) requeue(msgs []*outbox.Received) {
	for _, m := range msgs {
		r.settle(m, outbox.Settlement{Outcome: outbox.Requeue})
	}
}

// drained waits until all messages are settled and reports false on timeout.
func (r *run) drained(timeout <-chan time.Time) bool {
	select {
	case <-r.queue.drained:
		return true
	case <-timeout:
		return false
	}
}

// subscribeError tells what err, with which Subscribe returned, means.
func (r *run) subscribeError(ctx context.Context, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("worker: subscribe to queue %q: %w", r.cfg.Queue, err)
	case ctx.Err() == nil:
		return fmt.Errorf("worker: the subscription to queue %q ended by itself: was the subscriber closed?", r.cfg.Queue)
	}
	return nil
}
