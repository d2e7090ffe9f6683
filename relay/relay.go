package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// Relay drains a store into a publisher. Make it with [New].
type Relay struct {
	store     Store
	publisher outbox.Publisher
	config    Config
	hooks     hooks
	fault     error // of the config

	running sync.Mutex
	current atomic.Pointer[queue] // while Run runs
	stats   stats
}

// New returns a relay, which does nothing before [Relay.Run]. The publisher stays
// the caller's to close, after Run has returned; no two relays may share one. A
// config may be nil.
func New(s Store, publisher outbox.Publisher, config *Config) *Relay {
	r := &Relay{store: s, publisher: publisher, fault: config.Validate()}
	if s == nil {
		r.fault = errors.Join(r.fault, errors.New("relay: store is nil"))
	}
	if publisher == nil {
		r.fault = errors.Join(r.fault, errors.New("relay: publisher is nil"))
	}
	r.config = config.withDefaults()
	r.hooks = sortHooks(r.config.Hooks)
	return r
}

// opTimeout bounds each operation on the store, so that a connection that hangs is
// noticed.
const opTimeout = 30 * time.Second

// ErrRunning is returned by Run if the relay runs already.
var ErrRunning = errors.New("relay: is running already")

// Run drains the store until ctx ends. Then it sends nothing more, waits for the
// broker's answers to what it has sent, at most Config.DrainTimeout, records them,
// and gives its shards back.
//
// It returns nil after such a stop, or an error that says how many messages were
// left unanswered: they are sent again. It returns the faults of the config, and a
// [*store.MissingError] if the database lacks something, before it sends anything.
// A database or a broker that is away, then or later, does not end it.
func (r *Relay) Run(ctx context.Context) error {
	if r.fault != nil {
		return r.fault
	}
	if !r.running.TryLock() {
		return ErrRunning
	}
	defer r.running.Unlock()
	if err := r.check(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	return r.newRun().loops(ctx)
}

func (r *Relay) newRun() *run {
	run := &run{Relay: r, owner: uuid.NewString(), queue: newQueue(&r.config, r.store.Shards())}
	run.poll.config = &r.config
	run.arm.owner = run.owner
	run.arm.store, _ = r.store.(Armer)
	return run
}

// check asks until the database answers.
func (r *Relay) check(ctx context.Context) error {
	var b backoff
	for {
		err := r.withTimeout(ctx, r.store.Check)
		var missing *store.MissingError
		switch {
		case err == nil || ctx.Err() != nil:
			return nil
		case errors.As(err, &missing):
			return fmt.Errorf("relay: %w", err)
		}
		r.config.Logger.Warn("relay cannot ask the database", "error", err)
		b.sleep(ctx, nil)
	}
}

func (r *Relay) withTimeout(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return fn(ctx)
}

// run is one call to Run.
type run struct {
	*Relay
	owner string // another one each time: what a run before it left behind is not its own
	queue *queue
	arm   armer
	poll  poll

	speed       speed // these two are the lease loop's
	pausesKnown bool
}

// loops runs all loops: those that take in end with ctx, those that write down when
// all is written down or the time for it is over.
func (r *run) loops(ctx context.Context) error {
	r.current.Store(r.queue)
	defer r.current.Store(nil)
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var front, back sync.WaitGroup
	back.Go(func() { r.leaseLoop(background) })
	back.Go(func() { r.settleLoop(background) })
	back.Go(func() { r.recordLoop(background) })
	defer r.follow()()
	front.Go(func() { r.listenLoop(ctx) })
	front.Go(func() { r.readLoop(ctx) })
	front.Go(func() { r.publishLoop(ctx) })
	front.Go(func() { r.promoteLoop(ctx) })
	if r.config.Keep != 0 {
		front.Go(func() { r.purgeLoop(ctx) })
	}
	<-ctx.Done()
	r.queue.stop()
	front.Wait()
	err := r.drain(background)
	end()
	back.Wait()
	r.stats.leased(0, 0)
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(opTimeout, r.config.LeaseTTL))
	defer cancel()
	if leaveErr := r.store.Leave(leave, r.owner, r.queue.doubts(true)); leaveErr != nil {
		r.config.Logger.Warn("relay could not give back its shards; they come free when their leases expire", "error", leaveErr)
	}
	return err
}

// drain waits for what is unanswered and unwritten.
func (r *run) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.config.DrainTimeout)
	defer cancel()
	for {
		inFlight, unwritten := r.queue.unanswered()
		if inFlight+unwritten == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("relay: stopped with %d messages unanswered and %d answers unwritten after %v: they are sent again",
				inFlight, unwritten, r.config.DrainTimeout)
		case <-r.queue.publishWake: // nobody else waits for it any more
		}
	}
}

func (r *run) listenLoop(ctx context.Context) {
	err := r.store.Listen(ctx, r.queue.readWake.set)
	if errors.Is(err, store.ErrPollOnly) {
		r.poll.only.Store(true)
		r.config.Logger.Info("relay is not notified of new messages and polls", "error", err)
		r.queue.readWake.set()
	} else if err != nil {
		r.config.Logger.Error("relay stopped listening and polls", "error", err)
	}
}

// follow has the store hand over what is committed in this process, if it can.
func (r *run) follow() (stop func()) {
	follower, ok := r.store.(Follower)
	if !ok {
		return func() {}
	}
	r.queue.saw = follower.Saw
	return follower.Follow(r.queue.handOver)
}

// backoff grows between attempts of the same thing.
type backoff struct {
	delay time.Duration
}

const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// sleep waits a random time up to a delay that doubles, or until wake or ctx.
func (b *backoff) sleep(ctx context.Context, wake signal) {
	b.delay = min(max(2*b.delay, minBackoff), maxBackoff)
	select {
	case <-ctx.Done():
	case <-wake:
	case <-time.After(rand.N(b.delay)):
	}
}

func (b *backoff) reset() { b.delay = 0 }
