package rabbitmq

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	amqp "github.com/rabbitmq/amqp091-go"
)

// fakeChannel settles as a broker does, which closes the channel when it is told of
// a tag that is not outstanding.
type fakeChannel struct {
	mu          sync.Mutex
	outstanding map[uint64]bool
	acked       map[uint64]bool
	rejected    map[uint64]bool
	frames      int
	closed      bool
	fault       error
}

func newFakeChannel() *fakeChannel {
	return &fakeChannel{outstanding: map[uint64]bool{}, acked: map[uint64]bool{}, rejected: map[uint64]bool{}}
}

func (c *fakeChannel) settle(tag uint64, multiple bool, to map[uint64]bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames++
	if c.closed || !c.outstanding[tag] {
		c.closed = true
		c.fault = fmt.Errorf("unknown delivery tag %d", tag)
		return amqp.ErrClosed
	}
	for t := range c.outstanding {
		if t == tag || multiple && t < tag {
			delete(c.outstanding, t)
			to[t] = true
		}
	}
	return nil
}

func (c *fakeChannel) Ack(tag uint64, multiple bool) error {
	return c.settle(tag, multiple, c.acked)
}
func (c *fakeChannel) Reject(tag uint64, _ bool) error { return c.settle(tag, false, c.rejected) }

func (c *fakeChannel) IsClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

func (c *fakeChannel) deliver(l *ledger, tag uint64) *entry {
	c.mu.Lock()
	c.outstanding[tag] = true
	c.mu.Unlock()
	e := &entry{tag: tag}
	l.add(e)
	return e
}

// Whatever is settled in whichever order reaches the broker, exactly, and what is
// not settled does not.
func TestLedgerSettlesExactly(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		prefetch := 1 + random.IntN(60)
		c := newFakeChannel()
		l := newLedger(c, prefetch)
		var open []*entry
		acked, requeued, tag := map[uint64]bool{}, map[uint64]bool{}, uint64(0)
		for range 400 {
			switch n := random.IntN(10); {
			case n < 4 && len(open) < prefetch:
				tag++
				open = append(open, c.deliver(l, tag))
			case n == 9:
				l.tick()
			case len(open) > 0:
				// The oldest has a slow handler.
				i := random.IntN(min(len(open), 10))
				if i == 0 && random.IntN(5) > 0 {
					i = len(open) - 1
				}
				e := open[i]
				open = slices.Delete(open, i, i+1)
				if n == 8 {
					requeued[e.tag] = true
					_ = l.requeue(e)
				} else {
					acked[e.tag] = true
					_ = l.ack(e)
				}
			}
			if len(l.unsent) >= l.most {
				t.Fatalf("seed %d: %d acknowledgements are held back", seed, len(l.unsent))
			}
		}
		l.flush()
		if c.fault != nil || !equalSets(c.acked, acked) || !equalSets(c.rejected, requeued) || len(c.outstanding) != len(open) {
			t.Fatalf("seed %d: %v; acknowledged %d of %d, requeued %d of %d, left %d of %d", seed, c.fault,
				len(c.acked), len(acked), len(c.rejected), len(requeued), len(c.outstanding), len(open))
		}
		n := 0
		for e := l.oldest; e != nil; e = e.next {
			n++
		}
		if n != len(open) || len(l.unsent) != 0 {
			t.Fatalf("seed %d: %d entries are left of %d, %d unsent", seed, n, len(open), len(l.unsent))
		}
	}
}

func equalSets(a, b map[uint64]bool) bool {
	for k := range a {
		if !b[k] {
			return false
		}
	}
	return len(a) == len(b)
}

func TestLedgerSendsFewFrames(t *testing.T) {
	t.Parallel()
	const n = 1000
	c := newFakeChannel()
	l := newLedger(c, 100)
	for tag := uint64(1); tag <= n; tag += 10 {
		var batch []*entry
		for i := range uint64(10) {
			batch = append(batch, c.deliver(l, tag+i))
		}
		rand.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
		for _, e := range batch {
			if err := l.ack(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.flush()
	if len(c.acked) != n || c.frames > n/8 {
		t.Errorf("%d messages were acknowledged by %d frames", len(c.acked), c.frames)
	}
}

// One message that is slow does not hold back what comes after it.
func TestLedgerDoesNotWaitForTheOldest(t *testing.T) {
	t.Parallel()
	c := newFakeChannel()
	l := newLedger(c, 1000)
	slow := c.deliver(l, 1)
	_ = l.ack(c.deliver(l, 2))
	_ = l.ack(c.deliver(l, 3))
	l.tick()
	l.tick()
	if !equalSets(c.acked, map[uint64]bool{2: true, 3: true}) {
		t.Errorf("after two rounds %v are acknowledged, want 2 and 3", c.acked)
	}
	_ = l.ack(slow)
	l.tick()
	if len(c.outstanding) > 0 {
		t.Errorf("%v are left", c.outstanding)
	}
}

// Whether the last acknowledgements wait already or not.
func TestLedgerFlushesAtTheEnd(t *testing.T) {
	t.Parallel()
	for i := range 500 {
		c := newFakeChannel()
		l := newLedger(c, 1000)
		e := c.deliver(l, 1)
		stop := make(chan struct{})
		var running sync.WaitGroup
		running.Go(func() { l.run(stop) })
		if err := l.ack(e); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i%10) * 20 * time.Microsecond)
		close(stop)
		running.Wait()
		if len(c.outstanding) > 0 {
			t.Fatal("the last message was not acknowledged")
		}
	}
}

func TestLedgerThatKeeps(t *testing.T) {
	t.Parallel()
	c := newFakeChannel()
	l := newLedger(c, 2)
	first, second, third := c.deliver(l, 1), c.deliver(l, 2), c.deliver(l, 3)
	l.keep()
	for _, err := range []error{l.ack(first), l.requeue(second), l.ack(third)} {
		if err != nil {
			t.Error(err)
		}
	}
	l.flush()
	if len(c.rejected) != 0 || !equalSets(c.acked, map[uint64]bool{1: true, 3: true}) {
		t.Errorf("acknowledged %v and requeued %v, want 1 and 3 and nothing", c.acked, c.rejected)
	}
	c.closed = true
	if err := l.ack(second); !errors.Is(err, errStale) {
		t.Errorf("got %v after the end of the channel", err)
	}
}

// Many handlers settle in all ways, a little out of order: each message ends as it
// should, and the broker finds no fault with a tag.
func TestMixedSettlements(t *testing.T) {
	t.Parallel()
	const n = 3000
	address := testenv.RabbitMQ(t).NewVHost(t)
	s := retrying(20 * time.Millisecond)
	s.Prefetch = 50
	in := subscribe(t, address, nil, s)
	in.waitReady()
	dead := subscribe(t, address, nil, deadLetters)
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", n)); failed != nil {
		t.Fatal(failed)
	}
	var mu sync.Mutex
	acked := map[string]int{}
	requeued := map[string]bool{}
	var working, finished sync.WaitGroup
	finished.Add(n)
	for range 10 {
		working.Go(func() {
			for r := range in.got {
				var number int
				_, _ = fmt.Sscan(r.Key, &number)
				s := outbox.Settlement{Outcome: outbox.Ack}
				mu.Lock()
				switch {
				case number%7 == 0 && r.Failure == nil:
					s = retryAfter(20 * time.Millisecond)
				case number%11 == 0 && r.Failure == nil:
					s = outbox.Settlement{Outcome: outbox.DeadLetter, Failure: failed(1)}
				case number%5 == 0 && !requeued[r.ID]:
					requeued[r.ID] = true
					s.Outcome = outbox.Requeue
				default:
					acked[r.ID]++
				}
				mu.Unlock()
				if err := r.Settle(s); err != nil {
					t.Errorf("settle message %s by %+v: %v", r.ID, s, err)
				}
				if s.Outcome == outbox.Ack || s.Outcome == outbox.DeadLetter {
					finished.Done()
				}
			}
		})
	}
	finished.Wait()
	in.end()
	if err := in.waitEnd(); err != nil || len(in.ready) > 0 {
		t.Errorf("Subscribe returned %v, and was established %d times more", err, len(in.ready))
	}
	close(in.got)
	working.Wait()
	for id, times := range acked {
		if times != 1 {
			t.Errorf("message %s was handled %d times", id, times)
		}
	}
	want := n/11 + 1 - (n/77 + 1)
	for range want {
		mustSettle(t, dead.next(), outbox.Settlement{Outcome: outbox.Ack})
	}
	if len(acked)+want != n {
		t.Errorf("%d messages were handled and %d are dead, of %d", len(acked), want, n)
	}
	again := subscribe(t, address, nil, all(1))
	end := testMessages("end", 1)
	if failed := publishAgain(t, newPublisher(t, address, nil), end); failed != nil {
		t.Fatal(failed)
	}
	if r := again.next(); r.ID != end[0].ID {
		t.Errorf("message %s is still there", r.ID)
	}
}
