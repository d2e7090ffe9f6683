package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/internal/measure"
	"github.com/outbox-go/outbox/relay"
)

// relays are those that run in this process.
type relays struct {
	*drain
	running []*running
}

// running is a relay that runs.
type running struct {
	relay     *relay.Relay
	publisher outbox.Publisher
	cancel    context.CancelFunc
	ended     chan error
}

func (r *relays) start(ctx context.Context) error {
	for i := range r.Relays {
		if err := r.startOne(ctx, fmt.Sprintf("bench %d", i+1), r.database.Store); err != nil {
			return err
		}
	}
	return nil
}

// startOne starts a relay, which has no end but stop. If it fails before that, so does
// the drain.
func (r *relays) startOne(ctx context.Context, name string, s wire.Store) error {
	publisher, err := wire.OpenPublisher(r.broker, io.Discard, r.Logger)
	if err != nil {
		return err
	}
	c := r.Relay
	c.Name, c.Logger = name, r.Logger
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	one := &running{relay: relay.New(s.View(""), publisher, &c), publisher: publisher, cancel: cancel, ended: make(chan error, 1)}
	r.running = append(r.running, one)
	go func() {
		err := one.relay.Run(ctx)
		if err != nil && ctx.Err() == nil {
			r.fail(err)
			err = nil
		}
		one.ended <- err
	}()
	return nil
}

// sent returns when all messages have left the outbox.
func (r *relays) sent(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		var settled int64
		for _, one := range r.running {
			settled += one.relay.Stats().Settled
		}
		if settled >= int64(r.filled.committed) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (r *relays) used() measure.Usage { return measure.Usage{} }

func (r *relays) stop() error {
	var errs []error
	for _, one := range r.running {
		one.cancel()
	}
	for _, one := range r.running {
		errs = append(errs, <-one.ended, one.publisher.Close())
	}
	return errors.Join(errs...)
}
