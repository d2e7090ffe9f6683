package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/internal/measure"
)

// SteadyOptions say what [Steady] measures. Of [Options] it heeds keys and payload,
// database, broker, the relay, how to run it, prefetch, time-out and what is written.
type SteadyOptions struct {
	Options

	// Rate is the number of transactions a second of all emitters together, for
	// Duration, and before that for WarmUp, which does not count.
	Rate     float64
	Duration time.Duration
	WarmUp   time.Duration
	Emitters int // each on a connection of its own

	// Hold is how long HoldShare of the transactions, 0 to 1, stay open after their
	// INSERT, before they commit.
	Hold      time.Duration
	HoldShare float64

	// Elsewhere is the outbox that somebody else's relay drains, to the exchange or the
	// stream of Broker; nil for an outbox and a relay of the run's own.
	Elsewhere *config.Database
}

func (o *SteadyOptions) schedule() *measure.Schedule {
	return &measure.Schedule{Rate: o.Rate, Duration: o.WarmUp + o.Duration, Emitters: o.Emitters, Keys: o.Keys, HoldShare: o.HoldShare}
}

// timeout allows for emitters that are slow and for what remains after them.
func (o *SteadyOptions) timeout() time.Duration {
	if o.Timeout > 0 {
		return o.Timeout
	}
	return 2*(o.WarmUp+o.Duration) + time.Minute
}

// Steady measures the time from commit to handler while transactions are committed at
// a rate. If there is a result, it is what is known, also when the error says that not
// all was done. The result's own error is not part of the error.
func Steady(ctx context.Context, o SteadyOptions) (result *SteadyResult, err error) {
	o.Messages, o.Relays = o.schedule().Messages(), 1
	own, err := scratch.New("outbox_bench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, own.Remove(ctx)) }()
	s, err := newSteady(ctx, &o, own)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.removeElsewhere(ctx)) }()
	conditions, err := conditionsOf(ctx, o.Program, s.drain.database, &s.traffic.broker)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout(), ErrTimeout)
	defer cancel()
	ctx, s.drain.fail = context.WithCancelCause(ctx)
	defer s.drain.fail(nil)
	s.emitters = newSteadyEmitters(o.schedule(), o.WarmUp, s.shop.commit, s.drain.fail)
	runErr := s.traffic.run(ctx, s)
	if !s.emitters.finished() {
		if runErr == nil { // all has arrived, and an answer to a commit has not
			runErr = context.Cause(ctx)
		}
		return nil, fmt.Errorf("%d of %d transactions were committed: %w", s.emitters.count(), o.Messages, runErr)
	}
	return s.result(conditions), runErr
}

// steady is one run: the sender of its traffic.
type steady struct {
	*SteadyOptions
	traffic  *traffic
	drain    *drain // what relays of ours run in
	shop     *steadyShop
	relays   sender // nil for somebody else's
	emitters *steadyEmitters
}

func newSteady(ctx context.Context, o *SteadyOptions, own *scratch.Scratch) (s *steady, err error) {
	const perRelay, others = 4, 4
	database, err := own.Database(ctx, o.DatabaseURL, o.Emitters+perRelay+others, o.Logger)
	if err != nil {
		return nil, err
	}
	t, err := newTraffic(&o.Options, own)
	if err != nil {
		return nil, err
	}
	s = &steady{SteadyOptions: o, traffic: t, drain: &drain{traffic: t, own: own, database: database}}
	s.shop = &steadyShop{database: database, outbox: database, hold: o.Hold, tally: t.tally, load: o.Load}
	if o.Elsewhere == nil {
		err = database.Store.Migrate(ctx)
	} else {
		err = s.setElsewhere(ctx)
	}
	if err == nil {
		err = s.shop.setUp(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up the tables: %w", err), s.removeElsewhere(ctx))
	}
	switch {
	case o.Elsewhere != nil:
	case o.Process != nil:
		s.relays = &children{Process: *o.Process, drain: s.drain}
	default:
		s.relays = &relays{drain: s.drain}
	}
	return s, nil
}

// setElsewhere has messages go to, and come from, where somebody else's relay is.
func (s *steady) setElsewhere(ctx context.Context) error {
	s.traffic.broker.Exchange, s.traffic.broker.Stream, s.traffic.broker.SubjectPrefix = s.Broker.Exchange, s.Broker.Stream, s.Broker.SubjectPrefix
	store, err := wire.OpenPostgres(ctx, *s.Elsewhere, s.Emitters+1, s.Logger)
	if err != nil {
		return err
	}
	s.shop.outbox = &scratch.Database{Config: *s.Elsewhere, Store: store, Postgres: store}
	return store.Check(ctx)
}

// removeElsewhere takes away what a run leaves at somebody else's stream.
func (s *steady) removeElsewhere(ctx context.Context) error {
	if s.Elsewhere == nil || s.shop.outbox == s.drain.database {
		return nil
	}
	err := s.shop.outbox.Store.Close()
	if wire.BrokerKind(s.traffic.broker.URL) == wire.JetStream {
		err = errors.Join(err, scratch.Finally(ctx, func(ctx context.Context) error {
			return removeConsumer(ctx, s.traffic.broker, s.traffic.queue)
		}))
	}
	return err
}

func (s *steady) start(ctx context.Context) error {
	if s.relays != nil {
		if err := s.relays.start(ctx); err != nil {
			return err
		}
	}
	s.emitters.start(ctx)
	return nil
}

// sent is not asked for: there is a consumer.
func (s *steady) sent(context.Context) error { return errors.ErrUnsupported }

func (s *steady) used() measure.Usage {
	if s.relays == nil {
		return measure.Usage{}
	}
	return s.relays.used()
}

func (s *steady) stop() error {
	select {
	case <-s.traffic.tally.Done():
		s.emitters.running.Wait() // for the answers to commits whose messages are there already
	default:
	}
	s.emitters.stop()
	if s.relays == nil {
		return nil
	}
	return s.relays.stop()
}
