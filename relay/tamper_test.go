package relay_test

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

var errTampered = errors.New("the test lets this fail")

// tampered is a store of which a test can hold up or fail each operation. The
// functions may be nil; they are set before the relay starts.
type tampered struct {
	relay.Store
	before func(ctx context.Context, op string) error // an error means that the operation is not done
	after  func(op string) error                      // an error is what the caller gets though it is done
	read   func([]store.ReadRequest, []store.Page) []store.Page
	settle func([]store.Ref)

	failPauses atomic.Bool
}

func (s *tampered) Pauses(ctx context.Context) ([]store.Pause, error) {
	if s.failPauses.Load() {
		return nil, errTampered
	}
	return s.Store.Pauses(ctx)
}

func (s *tampered) do(ctx context.Context, op string, fn func() error) error {
	if s.before != nil {
		if err := s.before(ctx, op); err != nil {
			return err
		}
	}
	if err := fn(); err != nil {
		return err
	}
	if s.after != nil {
		return s.after(op)
	}
	return nil
}

func (s *tampered) Check(ctx context.Context) error {
	return s.do(ctx, "check", func() error { return s.Store.Check(ctx) })
}

func (s *tampered) Claim(ctx context.Context, r store.ClaimRequest) (claim store.Claim, err error) {
	err = s.do(ctx, "claim", func() (err error) { claim, err = s.Store.Claim(ctx, r); return err })
	if err != nil {
		return store.Claim{}, err
	}
	return claim, nil
}

func (s *tampered) Leave(ctx context.Context, owner string, doubt map[uint8]int64) error {
	return s.do(ctx, "leave", func() error { return s.Store.Leave(ctx, owner, doubt) })
}

func (s *tampered) Read(ctx context.Context, requests ...store.ReadRequest) (pages []store.Page, err error) {
	err = s.do(ctx, "read", func() (err error) { pages, err = s.Store.Read(ctx, requests...); return err })
	if err != nil {
		return nil, err
	}
	if s.read != nil {
		pages = s.read(requests, pages)
	}
	return pages, nil
}

func (s *tampered) Settle(ctx context.Context, refs []store.Ref, keep bool) error {
	return s.do(ctx, "settle", func() error {
		err := s.Store.Settle(ctx, refs, keep)
		if err == nil && s.settle != nil {
			s.settle(refs)
		}
		return err
	})
}

func (s *tampered) Fail(ctx context.Context, failures []store.Failure) error {
	return s.do(ctx, "fail", func() error { return s.Store.Fail(ctx, failures) })
}

func (s *tampered) Listen(ctx context.Context, wake func()) error {
	return s.do(ctx, "listen", func() error { return s.Store.Listen(ctx, wake) })
}

// gate stops whoever passes while it is shut.
type gate struct {
	mu   sync.Mutex
	shut chan struct{} // nil while it is open
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == nil {
		g.shut = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

// pass waits until the gate is open or ctx ends.
func (g *gate) pass(ctx context.Context) error {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut == nil {
		return nil
	}
	select {
	case <-shut:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// publisherFunc is an outbox.Publisher by a function.
type publisherFunc func(ctx context.Context, m *outbox.Message, done func(error))

func (f publisherFunc) Publish(ctx context.Context, m *outbox.Message, done func(error)) {
	f(ctx, m, done)
}

func (f publisherFunc) Close() error { return nil }

// dice are random decisions of a seed, for several goroutines.
type dice struct {
	mu  sync.Mutex
	rnd *rand.Rand
}

// seeds returns 0 to n-1, and more in a soak test.
func seeds(n uint64) iter.Seq[uint64] {
	if os.Getenv("OUTBOX_SOAK") != "" {
		n *= 20
	}
	return func(yield func(uint64) bool) {
		for seed := uint64(0); seed < n && yield(seed); seed++ {
		}
	}
}

func newDice(seed uint64) *dice { return &dice{rnd: rand.New(rand.NewPCG(seed, 1))} }

// chance is true with probability p.
func (d *dice) chance(p float64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rnd.Float64() < p
}

// upTo returns a random number below n.
func (d *dice) upTo(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rnd.IntN(n)
}

// wait returns a random time below most.
func (d *dice) wait(most time.Duration) time.Duration {
	return time.Duration(d.upTo(int(most)))
}
