package acceptance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// deaf is a store whose reads return after release alone, once it is stopped.
type deaf struct {
	*pgxstore.Store
	stopped chan struct{} // nil for one that reads
	release chan struct{}
	reads   atomic.Int64 // that have ended
	handed  atomic.Int64 // commits that the relay took over
}

func (d *deaf) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	select {
	case <-d.stopped:
		select {
		case <-d.release:
		case <-ctx.Done():
		}
	default:
	}
	pages, err := d.Store.Read(ctx, requests...)
	if err == nil {
		d.reads.Add(1)
	}
	return pages, err
}

func (d *deaf) Follow(take func(store.Commit) bool) (stop func()) {
	return d.Store.Follow(func(c store.Commit) bool {
		taken := take(c)
		if taken {
			d.handed.Add(1)
		}
		return taken
	})
}

// TestHandedOverMessagesAreNotReadBack: those without a key arrive while the relay
// cannot read, and those with one behind a read that began before their commit.
func TestHandedOverMessagesAreNotReadBack(t *testing.T) {
	t.Parallel()
	p := newPostgres(t)
	s := newSystem(p, newRabbit(t, false))
	r := s.startWorker(t)
	d := &deaf{Store: p.store, stopped: make(chan struct{}), release: make(chan struct{})}
	publisher, err := openPublisher(s.address)
	must(t, err)
	run := runRelay(t, d, publisher, patientRelay(), func() {})
	s.placeOrders(t, "read", 1, 1)
	r.await(1)
	eventually(t, "all to be read", func() (bool, string) {
		before := d.reads.Load()
		time.Sleep(100 * time.Millisecond)
		return d.reads.Load() == before, "it reads"
	})
	before := d.reads.Load()
	must(t, s.inTx(func(tx transaction) error {
		if err := place(tx, "key", "key-0"); err != nil {
			return err
		}
		// One that began behind the emit: the second that ends.
		eventually(t, "a read before the commit", func() (bool, string) {
			p.wake()
			return d.reads.Load() > before+1, "none yet"
		})
		close(d.stopped)
		return nil
	}))
	r.awaitWithin(2, soon)
	must(t, s.inTx(func(tx transaction) error { return place(tx, "no key", "") }))
	r.awaitWithin(3, soon)
	close(d.release)
	run.alive()
	s.awaitPending(t, 0)
	if n := len(r.deliveries()); n != 3 {
		t.Errorf("%d deliveries, want 3: what was handed over was sent again", n)
	}
}

// TestHandoverKeepsOrder while processes commit messages of the same keys, one of which
// relays, transactions stay open behind their emits or roll back, and the link to the
// broker is cut.
func TestHandoverKeepsOrder(t *testing.T) {
	t.Parallel()
	own := newPostgres(t)
	b := newRabbit(t, false)
	s := newSystem(own, b)
	link, address := newLink(t, s.address)
	r := s.startWorker(t)
	s.address = address
	publisher, err := openPublisher(address)
	must(t, err)
	reader := &deaf{Store: own.store}
	runRelay(t, reader, publisher, relay.Config{}, func() {})

	const orders = 1500
	foreign := newSystem(postgresAt(t, own.address), b)
	var placing sync.WaitGroup
	for name, from := range map[string]*system{"own": s, "other": s, "foreign": foreign} {
		placing.Go(func() {
			for i := range orders {
				if err := from.inTx(func(tx transaction) error { return placeSome(tx, fmt.Sprint(name, "-", i)) }); err != nil && !errors.Is(err, errTakenBack) {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 4 {
		time.Sleep(300 * time.Millisecond)
		link.Cut()
	}
	placing.Wait()
	repeats := s.judge(t, r)
	if reader.handed.Load() == 0 {
		t.Error("no commit was handed over")
	}
	t.Logf("%d repeats, %d commits handed over", repeats, reader.handed.Load())
}

var errTakenBack = errors.New("rolled back on purpose")

// placeSome places an order of one of a few keys, and mostly ends well.
func placeSome(tx transaction, id string) error {
	if err := place(tx, id, fmt.Sprintf("key-%d", rand.N(5))); err != nil {
		return err
	}
	if rand.N(5) == 0 {
		time.Sleep(rand.N(3 * time.Millisecond))
	}
	if rand.N(10) == 0 {
		return errTakenBack
	}
	return nil
}
