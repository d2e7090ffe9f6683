package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
)

// cancelGrace is the time that handlers have to return after their context has
// been cancelled.
const cancelGrace = 5 * time.Second

var (
	errShutdownTimeout = errors.New("worker: the shutdown timeout has passed")
	errGoexit          = errors.New("the handler ended its goroutine by runtime.Goexit")
)

// run is one run of a worker: a fixed pool of goroutines on a queue.
type run struct {
	cfg          Config
	subscription outbox.Subscription
	established  func()
	routes       *router
	log          *slog.Logger
	queue        *queue
	pool         sync.WaitGroup
}

func newRun(w *Worker, routes *router) *run {
	cfg := w.cfg.withDefaults()
	topics := make([]string, len(w.handlers))
	for i, h := range w.handlers {
		topics[i] = h.pattern
	}
	return &run{
		cfg:          cfg,
		subscription: outbox.Subscription{Queue: cfg.Queue, Topics: topics, Prefetch: cfg.Prefetch},
		established:  sync.OnceFunc(func() { close(w.ready) }),
		routes:       routes,
		log:          cfg.Logger.With("queue", cfg.Queue),
		queue:        newQueue(cfg.Concurrency),
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
	if !r.queue.put(m, r.routes.find(m.Topic)) {
		r.settle(m, outbox.Requeue)
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
		err := r.call(ctx, slot, t)
		if !t.claim() {
			return // shutdown has given the message back and did not wait
		}
		done = r.finish(slot, t, err)
	}
}

// finish settles t and returns it, or nil when it is being held.
func (r *run) finish(slot int, t *task, err error) (done *task) {
	if err == nil {
		r.settle(t.msg, outbox.Ack)
		return t
	}
	r.logFailure(t.msg, err)
	if r.queue.hold(slot, t, r.cfg.RetryDelay, func(t *task) { r.settle(t.msg, outbox.Requeue) }) {
		return nil
	}
	r.settle(t.msg, outbox.Requeue)
	return t
}

// call runs t's handler and turns a panic into an error. If the handler ends the
// goroutine, another takes over the slot.
func (r *run) call(ctx context.Context, slot int, t *task) (err error) {
	if t.handler == nil {
		return errNoHandler
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			err = &handlerPanic{PanicError: outbox.PanicError{Value: v}, stack: debug.Stack()}
			return
		}
		if t.claim() {
			done := r.finish(slot, t, errGoexit)
			r.pool.Go(func() { r.work(ctx, slot, done) })
		}
	}()
	err = t.handler.call(ctx, t.msg)
	returned = true
	return err
}

// handlerPanic is a panic of a handler, with the stack where it happened.
type handlerPanic struct {
	outbox.PanicError
	stack []byte
}

func (r *run) logFailure(m *outbox.Received, err error) {
	attrs := []slog.Attr{
		slog.String("id", m.ID),
		slog.String("topic", m.Topic),
		slog.Bool("redelivered", m.Redelivered),
		slog.Any("error", err),
	}
	level := slog.LevelWarn
	var p *handlerPanic
	if errors.As(err, &p) {
		level = slog.LevelError
		attrs = append(attrs, slog.String("stack", string(p.stack)))
	}
	r.log.LogAttrs(context.Background(), level, "message failed", attrs...)
}

func (r *run) settle(m *outbox.Received, how outbox.Outcome) {
	if err := m.Settle(outbox.Settlement{Outcome: how}); err != nil {
		r.log.Warn("message not settled", "id", m.ID, "topic", m.Topic, "error", err)
	}
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
		r.settle(m, outbox.Requeue)
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
