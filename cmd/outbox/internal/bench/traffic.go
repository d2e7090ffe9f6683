package bench

import (
	"context"
	"errors"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/internal/measure"
)

// quiet is how long nothing may arrive in the end, until the consumer is stopped: what
// ought not to be there arrives late.
const quiet = 300 * time.Millisecond

// sender sends the messages of a run.
type sender interface {
	// start begins to send all messages.
	start(ctx context.Context) error

	// sent returns when the broker has all of them.
	sent(ctx context.Context) error

	// used is what processes other than this one have used until now.
	used() measure.Usage

	// stop ends what start has begun, and waits for it.
	stop() error
}

// traffic is messages on their way to and from a broker, which is what a run measures.
type traffic struct {
	*Options
	queue    string
	broker   config.Broker
	tally    *measure.Tally
	profiler *profiler

	took     time.Duration // from the start to the last message: its arrival, or without a consumer its confirm
	usedHere measure.Usage
	usedAway measure.Usage
}

// newTraffic makes what a run needs at the broker, which own removes.
func newTraffic(o *Options, own *scratch.Scratch) (t *traffic, err error) {
	t = &traffic{Options: o, queue: own.Name, tally: measure.NewTally(o.Load)}
	if t.broker, err = own.Broker(o.Broker); err != nil {
		return nil, err
	}
	t.profiler, err = newProfiler(o.Profile)
	return t, err
}

// run has s send, with a consumer beside it, or one that begins when all is sent. It
// returns when everything has arrived, or with the reason why not.
func (t *traffic) run(ctx context.Context, s sender) (err error) {
	subscriber, err := wire.OpenSubscriber(t.broker, t.Logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, subscriber.Close()) }()
	consumer, err := t.consume(ctx, subscriber)
	if err == nil && t.NoConsumer {
		err = consumer.Stop() // its queue stays
	}
	if err != nil {
		return err
	}
	err = t.measure(ctx, s)
	err = errors.Join(err, s.stop())
	if t.NoConsumer {
		if err != nil {
			return err
		}
		if consumer, err = t.consume(ctx, subscriber); err != nil {
			return err
		}
		err = t.arrive(ctx)
	}
	if err == nil {
		err = t.awaitQuiet(ctx)
	}
	return errors.Join(err, consumer.Stop())
}

func (t *traffic) consume(ctx context.Context, s outbox.Subscriber) (*measure.Consumer, error) {
	consumer, err := measure.Consume(ctx, s, t.queue, t.Prefetch, t.tally)
	return consumer, because(ctx, err)
}

// measure is the part that counts.
func (t *traffic) measure(ctx context.Context, s sender) error {
	if err := t.profiler.start(); err != nil {
		return err
	}
	measure.ResetPeak()
	before, began := measure.UsageOf(0), time.Now()
	t.tally.Start()
	err := s.start(ctx)
	switch {
	case err != nil:
	case t.NoConsumer:
		err = s.sent(ctx)
	default:
		err = t.arrive(ctx)
	}
	t.took = time.Since(began)
	t.usedHere, t.usedAway = measure.UsageOf(0), s.used()
	t.usedHere.CPU -= before.CPU
	return errors.Join(err, t.profiler.stop())
}

// arrive returns when every message has arrived.
func (t *traffic) arrive(ctx context.Context) error {
	select {
	case <-t.tally.Done():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t *traffic) awaitQuiet(ctx context.Context) error {
	for before := -1; before < t.tally.Deliveries(); {
		before = t.tally.Deliveries()
		select {
		case <-time.After(quiet):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
