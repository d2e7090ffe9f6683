package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/worker"
)

const (
	workerConcurrency = 8
	workerPrefetch    = 1000

	// quiet is how long nothing may arrive, after the relays have stopped, until
	// the worker is stopped as well: what ought not to be there arrives late.
	quiet = 300 * time.Millisecond
)

// run is one run of the demo.
type run struct {
	Options
	name   string
	shop   shop
	broker config.Broker
	ledger *ledger
}

// execute starts worker and relays, emits, waits until all has been delivered, and
// stops them in that order. Its error says why not all was done.
func (r *run) execute(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.timeout(), ErrTimeout)
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer r.drawProgress()()

	consumer, err := r.startWorker(ctx, fail)
	if err != nil {
		return err
	}
	relays, err := r.startRelays(ctx, fail)
	if err == nil {
		err = newEmitters(r.shop, r.ledger, accounts(r.Keys), r.Messages).run(ctx)
	}
	if err == nil {
		err = r.awaitDeliveries(ctx)
	}
	for _, s := range relays {
		err = errors.Join(err, s.stop())
	}
	if err == nil {
		err = r.awaitQuiet(ctx)
	}
	return errors.Join(err, consumer.stop())
}

func (r *run) startWorker(ctx context.Context, fail context.CancelCauseFunc) (*service, error) {
	sub, err := wire.OpenSubscriber(r.broker, r.Logger)
	if err != nil {
		return nil, err
	}
	w := worker.New(sub, &worker.Config{
		Queue: r.name, Concurrency: workerConcurrency, Prefetch: workerPrefetch, Logger: r.Logger,
		Retries: worker.Retries{Delays: []time.Duration{scratch.RetryDelay}},
	})
	worker.Handle(w, topic, func(_ context.Context, d *worker.Delivery[payload]) error {
		r.ledger.deliver(order{ID: d.ID, Account: d.Payload.Account, N: d.Payload.Number}, time.Now())
		return nil
	})
	s := startService(ctx, fail, sub, w.Run)
	select {
	case <-w.Ready():
		return s, nil
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("wait for the broker: %w", context.Cause(ctx)), s.stop())
	}
}

// startRelays starts all relays; with an error it returns those that were started.
func (r *run) startRelays(ctx context.Context, fail context.CancelCauseFunc) ([]*service, error) {
	var relays []*service
	for i := range r.Relays {
		pub, err := wire.OpenPublisher(r.broker, io.Discard, r.Logger)
		if err != nil {
			return relays, err
		}
		c := r.Relay
		c.Name, c.Logger = fmt.Sprintf("demo %d", i+1), r.Logger
		relays = append(relays, startService(ctx, fail, pub, relay.New(r.shop.store(), pub, &c).Run))
	}
	return relays, nil
}

// awaitDeliveries returns when as many messages as were committed have arrived.
func (r *run) awaitDeliveries(ctx context.Context) error {
	for r.ledger.count() < r.Messages {
		select {
		case <-r.ledger.change:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (r *run) awaitQuiet(ctx context.Context) error {
	for {
		select {
		case <-r.ledger.change:
		case <-time.After(quiet):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// committed reads the business rows, also when ctx has ended.
func (r *run) committed(ctx context.Context) ([]order, error) {
	var orders []order
	err := scratch.Finally(ctx, func(ctx context.Context) (err error) {
		orders, err = r.shop.committed(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the committed orders: %w", err)
	}
	if bad := gaps(orders); len(bad) > 0 {
		return nil, fmt.Errorf("the counters of %d accounts have gaps, such as those of %s: the database did not keep its own promise", len(bad), bad[0])
	}
	return orders, nil
}

// service is something that runs until it is stopped, with what it needs open.
type service struct {
	cancel context.CancelFunc
	ended  chan error
	needs  io.Closer
}

// startService runs f, whose context has no end but stop. If f returns with an
// error before that, fail is called with it.
func startService(ctx context.Context, fail context.CancelCauseFunc, needs io.Closer, f func(context.Context) error) *service {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &service{cancel: cancel, ended: make(chan error, 1), needs: needs}
	go func() {
		err := f(ctx)
		if err != nil && ctx.Err() == nil {
			fail(err)
			err = nil
		}
		s.ended <- err
	}()
	return s
}

// stop ends the service, waits for it, and returns what fail was not told.
func (s *service) stop() error {
	s.cancel()
	return errors.Join(<-s.ended, s.needs.Close())
}
