package stomp

import (
	"sync"
	"time"

	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

// waiter keeps the first messages of each tier until they are due, or somebody else's
// turn has come, and sends them on.
type waiter struct {
	consumer *consumer
	delivery *delivery
	wake     chan struct{}
	moving   sync.WaitGroup

	mu      sync.Mutex
	waiting map[*held]struct{}
	counts  map[string]int // of what is unacknowledged, by tier
}

// held is a message that waits.
type held struct {
	item
	tier  string
	due   time.Time
	since time.Time
	not   time.Time // not to be looked at before
}

// movePause is the wait after a message could not be sent on.
const movePause = time.Second

func newWaiter(c *consumer, d *delivery) *waiter {
	return &waiter{
		consumer: c, delivery: d, wake: make(chan struct{}, 1),
		waiting: make(map[*held]struct{}), counts: make(map[string]int),
	}
}

// add takes a message of a tier.
func (w *waiter) add(f *stomp.Frame, tier string) {
	now := time.Now()
	at, _ := f.Get(headerRetryAt)
	w.mu.Lock()
	w.waiting[&held{item: item{frame: f}, tier: tier, due: dueAt(at, now), since: now}] = struct{}{}
	w.counts[tier]++
	w.mu.Unlock()
	w.signal()
}

func (w *waiter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run sends on what is to go, until stop is closed. What is under way then is given up,
// since the broker may be blocked: it comes again, at worst with a copy of it.
func (w *waiter) run(stop <-chan struct{}) {
	defer w.moving.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		leaving, wait := w.look(time.Now())
		for _, h := range leaving {
			w.moving.Go(func() { w.move(h, stop) })
		}
		timer.Reset(wait)
		select {
		case <-w.wake:
		case <-timer.C:
		case <-stop:
			return
		}
	}
}

// look takes out what is to go now, and tells when to look again.
func (w *waiter) look(now time.Time) (leaving []*held, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wait = longHold
	for h := range w.waiting {
		left := w.leaves(h).Sub(now)
		if left <= 0 {
			delete(w.waiting, h)
			leaving = append(leaving, h)
		} else {
			wait = min(wait, left)
		}
	}
	return leaving, wait
}

// leaves returns when h is to be sent on. The caller holds w.mu.
func (w *waiter) leaves(h *held) time.Time {
	hold := longHold
	if w.counts[h.tier] >= tierPrefetch {
		hold = shortHold
	}
	at := h.since.Add(hold)
	if h.due.Before(at) {
		at = h.due
	}
	if at.Before(h.not) {
		at = h.not
	}
	return at
}

// move sends h to the queue, or to the tier where it has to wait further.
func (w *waiter) move(h *held, stop <-chan struct{}) {
	if isClosed(w.delivery.ended) {
		return // it comes again
	}
	c := w.consumer
	f := copyOf(h.frame, c.queue)
	c.config.addressRetry(f, c.queue, h.due, time.Until(h.due))
	err := c.copier.publish(f, stop)
	if err == nil {
		_ = w.delivery.acks.ack(h.ackID()) // else it comes again, and so do its copies
	} else if !isClosed(w.delivery.ended) && !isClosed(stop) {
		c.endpoint.config.Logger.Warn("message not sent on after its delay", "queue", c.sub.Queue, "error", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.counts[h.tier]--
		return
	}
	h.not = time.Now().Add(movePause)
	w.waiting[h] = struct{}{}
	w.signal()
}
