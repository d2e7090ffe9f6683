package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
)

const (
	defaultConcurrency     = 10
	defaultPrefetch        = 100
	defaultShutdownTimeout = 30 * time.Second
	defaultDatabaseTimeout = 30 * time.Second
	defaultInboxRetention  = 30 * 24 * time.Hour

	// maxWindow bounds Concurrency and Prefetch: AMQP 0-9-1 has 16 bits for
	// the prefetch count.
	maxWindow = 1<<16 - 1
)

// Config tells what a [Worker] consumes, and how. Zero means the default.
type Config struct {
	// Queue is the durable name that the workers of one service share: each
	// message goes to one of them. Required; see [outbox.Subscription] for what
	// is allowed.
	Queue string

	// Concurrency is the number of handlers that run at once. Defaults to 10;
	// at most 65,535.
	Concurrency int

	// Prefetch is the number of messages that the broker hands out before the
	// first of them is settled: those that run, that wait for their turn, and
	// that are held after a failure. Defaults to 2 × Concurrency, and at least
	// 100; at most 65,535. Less than Concurrency leaves handlers idle. A message
	// may wait for Prefetch / Concurrency others: with handlers that take minutes
	// use less, since brokers limit how long a message may be unsettled (30 min at
	// RabbitMQ).
	Prefetch int

	// Codecs are added to [outbox.JSON] and [outbox.Bytes], each for its
	// content type.
	Codecs []outbox.Codec

	// Retries says how often a message that could not be handled is tried again,
	// and when. A handler may have its own: see [WithRetries].
	Retries Retries

	// DropAborted drops the messages that a handler has refused with [Abort],
	// with a line in the log. By default they go to the dead letters.
	DropAborted bool

	// InOrder hands messages of one key to handlers in their order and one at a
	// time across all workers of the queue: the broker hands the queue's messages
	// to one worker, and the others stand by to take over. A message that fails
	// is then tried again in its place, with its successors of the same key
	// waiting, and goes to the dead letters in the end, with its successors going
	// on. Its attempts are counted by the worker, from 1 again after a restart.
	// The sum of its delays and handling times must stay below the broker's limit
	// for unsettled messages (30 min at RabbitMQ), or it never gets to its end.
	// When a worker loses its connection another one takes over, while a handler
	// of the first may still run: with HandleTx its effects are undone or count
	// once. All workers of a queue must agree on InOrder.
	InOrder bool

	// DeadLetters makes the worker handle the dead letters of Queue in the place
	// of its messages, whatever their topics: register a handler for "#", or take
	// care that the others know what can be there. What a handler accepts is
	// removed; all else is held for its delay, or that of a RetryAfter, and given
	// back. So many as Prefetch that are refused again and again hide the others.
	DeadLetters bool

	// Middleware is put around every handler, the first one outermost.
	Middleware []Middleware

	// MessageID returns the id of a message, for messages of other systems that
	// carry it elsewhere than this module does; if it returns "", the id is what
	// it was. See [IDFromHeaders] and [IDFromCloudEvent]. It must be safe for
	// concurrent use, must not change the message, and must always return the same
	// id for it.
	MessageID func(m *outbox.Message) string

	// DatabaseTimeout is how long, from the first error on, HandleTx tries a
	// transaction again while the database fails in a way that passes; then the
	// attempt counts as failed. Defaults to 30 s.
	DatabaseTimeout time.Duration

	// InboxRetention is the age at which the rows of the inboxes of HandleTx are
	// deleted, in chunks of 1000, by the database's clock: a message that is
	// delivered again later than that is handled again. Defaults to 30 days;
	// negative keeps them.
	InboxRetention time.Duration

	// ShutdownTimeout is the time for which running handlers may go on after
	// the context of Run has ended. Defaults to 30 s. Run can take longer by what
	// the broker takes to answer the last retries and dead letters.
	ShutdownTimeout time.Duration

	// Logger defaults to [slog.Default]. Payloads are not logged; the texts of
	// errors, those of handlers and codecs included, are.
	Logger *slog.Logger
}

// Worker runs handlers on the messages of a queue. Make it with [New], register
// handlers with [Handle], then call [Worker.Run].
type Worker struct {
	sub    outbox.Subscriber
	cfg    Config // with its defaults, once Run has begun
	codecs *outbox.Codecs
	ready  chan struct{}

	mu       sync.Mutex // guards what follows
	handlers []*handler
	started  bool
}

// New returns a worker that takes messages from sub. It does not connect, and
// what is wrong with cfg is reported by [Worker.Run]. The worker does not close
// sub.
func New(sub outbox.Subscriber, cfg *Config) *Worker {
	w := &Worker{sub: sub, ready: make(chan struct{})}
	if cfg != nil {
		w.cfg = *cfg
	}
	var codecs []outbox.Codec
	for _, codec := range w.cfg.Codecs {
		if codec != nil {
			codecs = append(codecs, codec)
		}
	}
	w.codecs = outbox.NewCodecs(codecs...)
	return w
}

// Ready returns a channel that is closed when the subscription has been
// established for the first time: what is sent to the handlers' topics from then
// on reaches the queue. It stays open if Run fails before.
func (w *Worker) Ready() <-chan struct{} { return w.ready }

// Run subscribes and handles messages until ctx ends; then it stops as the
// package's documentation says and returns nil. It may be called once.
//
// Before it connects, Run reports all that is wrong with the configuration and
// the handlers, joined. Later it returns an error when the subscription ended by
// itself, or when handlers did not return within 5 s after the end of their
// context: their messages have been given back, but they still run.
func (w *Worker) Run(ctx context.Context) error {
	r, err := w.start()
	if err != nil {
		return err
	}
	handling, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	r.startPool(handling)
	defer r.startPurging(ctx, w.handlers)()

	ended := make(chan error, 1)
	go func() { ended <- w.sub.Subscribe(ctx, r.subscription, r.established, r.receive) }()
	select {
	case <-ctx.Done():
		err := r.shutdown(ctx, cancel)
		return errors.Join(r.subscribeError(ctx, <-ended), err)
	case err := <-ended:
		return errors.Join(r.subscribeError(ctx, err), r.shutdown(ctx, cancel))
	}
}

// start checks everything and returns what Run needs.
func (w *Worker) start() (*run, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.started {
		return nil, errors.New("worker: Run was called before: make a new Worker")
	}
	faults := w.cfg.faults()
	if w.sub == nil {
		faults = append(faults, errors.New("worker: the subscriber is nil: pass one to New"))
	}
	for _, h := range w.handlers {
		faults = append(faults, h.faults()...)
		faults = append(faults, w.cfg.strictFaults(h)...)
	}
	routes, errs := newRouter(w.handlers)
	if faults = append(faults, errs...); len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	w.cfg = w.cfg.withDefaults()
	s := w.subscription()
	if err := s.Validate(); err != nil {
		return nil, err
	}
	w.started = true
	return newRun(w, routes, s), nil
}

// subscription is what the handlers and the configuration, which are without
// fault, need of the broker.
func (w *Worker) subscription() outbox.Subscription {
	s := outbox.Subscription{Queue: w.cfg.Queue, Prefetch: w.cfg.Prefetch, InOrder: w.cfg.InOrder, DeadLetters: w.cfg.DeadLetters}
	delays := slices.Clone(w.cfg.Retries.Delays)
	for _, h := range w.handlers {
		s.Topics = append(s.Topics, h.pattern)
		if h.retries != nil {
			delays = append(delays, h.retries.Delays...)
		}
	}
	if !s.InOrder && !s.DeadLetters {
		slices.Sort(delays)
		delays = slices.DeleteFunc(slices.Compact(delays), func(d time.Duration) bool { return d < time.Millisecond })
		s.RetryDelays = delays[:min(len(delays), outbox.MaxRetryDelays)] // drivers manage the others, too
	}
	return s
}

// faults tells what is wrong with the configuration.
func (c *Config) faults() []error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("worker: Config."+format, args...))
	}
	if c.Queue == "" {
		fault("Queue is empty: name the queue that the workers of this service share")
	} else if err := (&outbox.Subscription{Queue: c.Queue, Topics: []string{"#"}, Prefetch: 1}).Validate(); err != nil {
		faults = append(faults, err)
	}
	if c.Concurrency < 0 || c.Concurrency > maxWindow {
		fault("Concurrency is %d: use 1 to %d, or 0 for %d", c.Concurrency, maxWindow, defaultConcurrency)
	}
	if c.Prefetch < 0 || c.Prefetch > maxWindow {
		fault("Prefetch is %d: use 1 to %d, or 0 for the default", c.Prefetch, maxWindow)
	}
	if c.DatabaseTimeout < 0 {
		fault("DatabaseTimeout is %s: use a positive duration, or 0 for %s", c.DatabaseTimeout, defaultDatabaseTimeout)
	}
	if c.InOrder && c.DeadLetters {
		fault("InOrder does not go with DeadLetters: dead letters have no order")
	}
	for i, m := range c.Middleware {
		if m == nil {
			fault("Middleware[%d] is nil", i)
		}
	}
	faults = append(faults, c.Retries.faults("Config.Retries")...)
	if c.ShutdownTimeout < 0 {
		fault("ShutdownTimeout is %s: use a positive duration, or 0 for %s", c.ShutdownTimeout, defaultShutdownTimeout)
	}
	for i, codec := range c.Codecs {
		switch {
		case codec == nil:
			fault("Codecs[%d] is nil", i)
		case codec.ContentType() == "":
			fault("Codecs[%d] (%T) has no content type", i, codec)
		}
	}
	return faults
}

// strictFaults tells which codecs do not allow h what it asks for.
func (c *Config) strictFaults(h *handler) []error {
	var faults []error
	for i, codec := range c.Codecs {
		if _, ok := codec.(outbox.StrictCodec); codec != nil && h.strict && !ok {
			faults = append(faults, fmt.Errorf("worker: handler %q is Strict, but Config.Codecs[%d] (%T) has no method DecodeStrict", h.pattern, i, codec))
		}
	}
	return faults
}

// withDefaults returns c with the defaults in the place of zeros.
func (c Config) withDefaults() Config {
	if c.Concurrency == 0 {
		c.Concurrency = defaultConcurrency
	}
	if c.Prefetch == 0 {
		c.Prefetch = min(max(2*c.Concurrency, defaultPrefetch), maxWindow)
	}
	if c.DatabaseTimeout == 0 {
		c.DatabaseTimeout = defaultDatabaseTimeout
	}
	if c.InboxRetention == 0 {
		c.InboxRetention = defaultInboxRetention
	}
	c.Retries = c.Retries.withDefaults()
	if c.ShutdownTimeout == 0 {
		c.ShutdownTimeout = defaultShutdownTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}
