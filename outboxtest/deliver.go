package outboxtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/worker"
)

// Result is what became of a message.
type Result struct {
	// Outcome is Ack when it was handled, Retry when it will be tried again after
	// Delay, DeadLetter when it will not. It is Requeue only for what a worker with
	// Config.DeadLetters could not handle.
	Outcome outbox.Outcome
	Delay   time.Duration

	// Failure is what goes with Retry and DeadLetter, this attempt counted; nil
	// otherwise.
	Failure *outbox.Failure

	// Err is what the handler returned, or why it was not called; nil with an
	// outcome of Ack, unless Config.DropAborted has dropped the message.
	Err error

	// Message is the message as it was delivered: of an event, what it became.
	Message outbox.Message
}

// String says it in words, for a test's message.
func (r Result) String() string {
	switch r.Outcome {
	case outbox.Ack:
		if r.Err != nil {
			return fmt.Sprintf("dropped: %v", r.Err)
		}
		return "acknowledged"
	case outbox.Retry:
		return fmt.Sprintf("retried after %s: %v", r.Delay, r.Err)
	case outbox.DeadLetter:
		return fmt.Sprintf("dead letter: %v", r.Err)
	case outbox.Requeue:
		return fmt.Sprintf("given back: %v", r.Err)
	}
	return fmt.Sprintf("outcome %d: %v", r.Outcome, r.Err)
}

// DeliverOption changes a default of [Deliver].
type DeliverOption func(*delivery)

// WithConfig sets the worker's configuration. An empty Queue becomes
// "outboxtest", and a nil Logger writes to the test's output. InOrder is ignored:
// what such a worker tries again in its place is reported as Retry.
func WithConfig(cfg worker.Config) DeliverOption {
	return func(d *delivery) { d.cfg = cfg }
}

// WithFailure delivers the message as one that has failed before: with
// Failure{Attempts: 2}, the third attempt is made.
func WithFailure(f outbox.Failure) DeliverOption {
	return func(d *delivery) { d.received.Failure = &f }
}

// Deliver makes a worker, lets register add handlers to it, delivers one message
// to it without a broker, and returns what the worker did with it. The message is
// an [outbox.Message], delivered as it is, or an [outbox.Event], which becomes a
// message as by Emit; for the latter, codecs are those of the worker's
// configuration.
//
// The message is delivered even if no handler's pattern matches its topic: such
// a message can be in a queue from earlier times. What is wrong with the event,
// the handlers or the configuration ends the test. A handler that does not return
// is waited for until the tests' own time-out.
//
// Deliver must be called from the test's goroutine. It works inside a bubble of
// testing/synctest.
func Deliver[M outbox.Event | outbox.Message](t testing.TB, msg M, register func(w *worker.Worker), opts ...DeliverOption) Result {
	t.Helper()
	d := &delivery{}
	for _, opt := range opts {
		opt(d)
	}
	switch msg := any(msg).(type) {
	case outbox.Message:
		d.received.Message = clone(&msg)
	case outbox.Event:
		msgs, err := d.outbox().Prepare(t.Context(), msg)
		if err != nil {
			t.Fatalf("outboxtest: %v", err)
			return Result{}
		}
		d.received.Message = msgs[0]
	}
	if err := d.run(t, register); err != nil {
		t.Fatalf("outboxtest: %v", err)
	}
	return d.result()
}

// delivery is an [outbox.Subscriber] of one message.
type delivery struct {
	cfg      worker.Config
	received outbox.Received
	stop     context.CancelFunc

	mu      sync.Mutex
	settled *outbox.Settlement
	err     error
}

// outbox returns what encodes as the worker decodes.
func (d *delivery) outbox() *outbox.Outbox[*delivery] {
	codecs := slices.DeleteFunc(slices.Clone(d.cfg.Codecs), func(c outbox.Codec) bool { return c == nil })
	return outbox.New(NewRecorder[*delivery](nil), outbox.WithCodecs(codecs...), outbox.WithMaxPayload(0))
}

// run runs a worker until it is done with the message.
func (d *delivery) run(t testing.TB, register func(w *worker.Worker)) error {
	cfg := d.cfg
	cfg.InOrder = false // would hold a retry for its delay and tell nobody
	if cfg.Queue == "" {
		cfg.Queue = "outboxtest"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	cfg.Middleware = append([]worker.Middleware{d.watch}, cfg.Middleware...)
	w := worker.New(d, &cfg)
	register(w)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	d.stop = stop
	if err := w.Run(ctx); err != nil {
		return err
	}
	if d.settlement() == nil {
		return fmt.Errorf("the worker ended without having settled the message: %w", context.Cause(ctx))
	}
	return nil
}

// watch notes what next returns. A worker that is being stopped does not hold what
// it gives back, so one of dead letters is stopped here.
func (d *delivery) watch(next worker.Handler) worker.Handler {
	return func(ctx context.Context, m *worker.Delivery[[]byte]) error {
		if d.cfg.DeadLetters {
			defer d.stop() // also when the test's FailNow ends the goroutine
		}
		err := next(ctx, m)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.err = err
		return err
	}
}

// Subscribe delivers the message.
func (d *delivery) Subscribe(ctx context.Context, _ outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
	ready()
	m := d.received
	m.Message = clone(&d.received.Message)
	m.Redelivered = m.Failure != nil
	m.ReceivedAt = time.Now()
	settled := make(chan struct{})
	m.Settle = func(s outbox.Settlement) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.settled != nil {
			return errors.New("outboxtest: the message was settled before")
		}
		d.settled = &s
		close(settled)
		d.stop()
		return nil
	}
	receive(&m)
	<-settled
	<-ctx.Done()
	return nil
}

// Close does nothing.
func (d *delivery) Close() error { return nil }

func (d *delivery) settlement() *outbox.Settlement {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.settled
}

func (d *delivery) result() Result {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := Result{Err: d.err, Message: d.received.Message}
	if s := d.settled; s != nil {
		r.Outcome, r.Delay, r.Failure = s.Outcome, s.Delay, s.Failure
	}
	if r.Err == nil && r.Failure != nil { // the handler has not returned
		r.Err = errors.New(r.Failure.Reason)
	}
	return r
}
