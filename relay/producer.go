package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// Source is where a [Producer] gets what is to be sent: a table of the user's own,
// for example.
type Source[T any] interface {
	// Fetch returns up to limit items that are due, in the order in which they are
	// to be sent. Several producers are kept apart by it: by SELECT FOR UPDATE SKIP
	// LOCKED, for example, or by a lease in the row.
	Fetch(ctx context.Context, limit int) ([]T, error)

	// Sent notes that the item was sent, so that it is not fetched again.
	Sent(ctx context.Context, item T) error

	// Failed notes that the item could not be mapped or sent: it counts an attempt
	// unless err is [outbox.ErrUnavailable], has the item wait, and gives it up
	// after so many attempts or if err is [outbox.ErrInvalid].
	Failed(ctx context.Context, item T, err error) error
}

// Mapper makes the message of an item. Its ID must be the same each time, or a
// consumer cannot tell a repeat. One that fails may return the message as well, so
// that its key is known.
type Mapper[T any] func(ctx context.Context, item T) (*outbox.Message, error)

// ProducerConfig changes the defaults of [NewProducer].
type ProducerConfig struct {
	// Limit is the greatest number of items of one call to Produce. Defaults to
	// 100; 1 to 10,000.
	Limit int

	// Timeout is how long sending one message may take: the context of the call
	// ends then. Defaults to 30 s; at least 1 ms.
	Timeout time.Duration
}

func (c *ProducerConfig) withDefaults() ProducerConfig {
	var d ProducerConfig
	if c != nil {
		d = *c
	}
	setDefault(&d.Limit, 100)
	setDefault(&d.Timeout, 30*time.Second)
	return d
}

// Validate reports all that is wrong with the config. Zero fields are right.
func (c *ProducerConfig) Validate() error {
	d := c.withDefaults()
	var errs []error
	if d.Limit < 1 || d.Limit > 10_000 {
		errs = append(errs, fmt.Errorf("relay: Limit is %d, must be 1 to 10000", d.Limit))
	}
	if d.Timeout < time.Millisecond {
		errs = append(errs, fmt.Errorf("relay: Timeout is %v, must be at least 1ms", d.Timeout))
	}
	return errors.Join(errs...)
}

// Result is what became of the items of one call. Each that was taken was sent, failed
// or was passed over, unless an error or the end of the context came before.
type Result struct {
	Taken  int // fetched
	Sent   int // sent, and noted as such
	Failed int // not mapped or not sent, and noted as such
	Passed int // left as they were, mostly since one ahead of them of their key failed
	Dead   int // became dead letters, whether they were taken or not; [RunOnce] alone counts them
}

// Producer sends what a [Source] has, one item after another: it fetches, maps, sends
// and notes what became of each at once, so that a crash repeats one message at most.
// An outbox of this module needs none: it has [Relay], and [RunOnce].
type Producer[T any] struct {
	source  Source[T]
	mapper  Mapper[T]
	publish outbox.PublishFunc
	config  ProducerConfig
	fault   error

	// ready, if not nil, is asked before each item: to pass over it, or to end.
	ready func(ctx context.Context, item T) (bool, error)
}

// NewProducer returns a producer. publish sends a message and waits for the answer:
// see [Wait] for an [outbox.Publisher]. A config may be nil; its faults are reported
// by Produce.
func NewProducer[T any](source Source[T], mapper Mapper[T], publish outbox.PublishFunc, config *ProducerConfig) *Producer[T] {
	p := &Producer[T]{source: source, mapper: mapper, publish: publish, config: config.withDefaults(), fault: config.Validate()}
	for name, missing := range map[string]bool{"source": source == nil, "mapper": mapper == nil, "publish": publish == nil} {
		if missing {
			p.fault = errors.Join(p.fault, fmt.Errorf("relay: %s is nil", name))
		}
	}
	return p
}

// Produce fetches and sends once. An item that cannot be mapped or sent, also by a
// panic, is given to Source.Failed and stops no others but those of its tenant and
// key, which are passed over. Produce returns the errors of the source, at which it
// stops, and that of ctx when it ends: what was being sent then has not failed.
func (p *Producer[T]) Produce(ctx context.Context) (Result, error) {
	var result Result
	if p.fault != nil {
		return result, p.fault
	}
	items, err := p.source.Fetch(ctx, p.config.Limit)
	if err != nil {
		return result, fmt.Errorf("relay: fetch: %w", err)
	}
	result.Taken = len(items)
	failed := map[store.Key]bool{}
	for _, item := range items {
		if err := ctx.Err(); err != nil {
			return result, err
		}
		if p.ready != nil {
			ready, err := p.ready(ctx, item)
			if err != nil {
				return result, err
			}
			if !ready {
				result.Passed++
				continue
			}
		}
		if err := p.produce(ctx, item, failed, &result); err != nil {
			return result, err
		}
	}
	return result, nil
}

// produce deals with one item.
func (p *Producer[T]) produce(ctx context.Context, item T, failed map[store.Key]bool, result *Result) error {
	m, err := p.mapped(ctx, item)
	var key store.Key
	if m != nil {
		key = store.Key{Tenant: m.Tenant, Key: m.Key}
	}
	if key.Key != "" && failed[key] {
		result.Passed++
		return nil
	}
	if err == nil {
		err = p.send(ctx, m)
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err() // to be stopped is no failure
	}
	// What became of it is noted although ctx ends meanwhile.
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
	defer cancel()
	if err == nil {
		if err := p.source.Sent(noting, item); err != nil {
			return fmt.Errorf("relay: note as sent: %w", err)
		}
		result.Sent++
		return nil
	}
	failed[key] = deathReason(err) != store.Expired
	if err := p.source.Failed(noting, item, err); err != nil {
		return fmt.Errorf("relay: note as failed: %w", err)
	}
	result.Failed++
	return nil
}

func (p *Producer[T]) mapped(ctx context.Context, item T) (m *outbox.Message, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("map: %w", &outbox.PanicError{Value: r, Stack: debug.Stack()})
		}
	}()
	m, err = p.mapper(ctx, item)
	switch {
	case err != nil:
		return m, fmt.Errorf("map: %w", err)
	case m == nil:
		return nil, outbox.Invalid(errors.New("map: no message returned"))
	case m.ID == "":
		return m, outbox.Invalid(errors.New("map: message without an ID: give it one that stays the same"))
	}
	return m, nil
}

func (p *Producer[T]) send(ctx context.Context, m *outbox.Message) (err error) {
	ctx, cancel := context.WithTimeout(ctx, p.config.Timeout)
	defer cancel()
	p.publish.Publish(ctx, m, func(answer error) { err = answer }) // turns a panic into an error
	return err
}

// Wait returns a function that sends by p and waits for the broker's answer, or until
// its context ends, which is [outbox.ErrUnavailable]. Calls at the same time are safe.
// p stays the caller's to close.
func Wait(p outbox.Publisher) outbox.PublishFunc {
	one := make(chan struct{}, 1) // p takes one call at a time
	flusher, _ := p.(outbox.Flusher)
	send := func(ctx context.Context, m *outbox.Message, done func(error)) error {
		select {
		case one <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-one }()
		p.Publish(ctx, m, done)
		if flusher == nil {
			return nil
		}
		return flusher.Flush()
	}
	return func(ctx context.Context, m *outbox.Message) error {
		answer := make(chan error, 1)
		if err := send(ctx, m, func(err error) { answer <- err }); err != nil {
			return outbox.Unavailable(err)
		}
		select {
		case err := <-answer:
			return err
		case <-ctx.Done():
		}
		select {
		case err := <-answer: // it was there as well
			return err
		default:
			return outbox.Unavailable(ctx.Err())
		}
	}
}

// Every runs step at once, and again each time that interval has passed since it
// ended (a millisecond at least), until ctx ends: then it returns as soon as step does. An error or a panic of
// step is logged and does not end it. The logger defaults to slog.Default().
func Every(ctx context.Context, interval time.Duration, step func(ctx context.Context) error, logger *slog.Logger) {
	if logger == nil {
		logger = slog.Default()
	}
	for ctx.Err() == nil {
		if err := guarded(ctx, step); err != nil && ctx.Err() == nil {
			var panicked *outbox.PanicError
			if errors.As(err, &panicked) {
				logger.Error("step panicked", "error", err, "stack", string(panicked.Stack))
			} else {
				logger.Error("step failed", "error", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(max(interval, time.Millisecond)):
		}
	}
}

func guarded(ctx context.Context, step func(ctx context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &outbox.PanicError{Value: r, Stack: debug.Stack()}
		}
	}()
	return step(ctx)
}
