package relay

import (
	"errors"
	"fmt"
	"time"
)

// stuckAfter is for how long nothing may move, while there is something to do,
// before a relay is not ready.
const stuckAfter = 30 * time.Second

// Ready returns nil while the relay runs and gets on with what there is to do, and
// else an error that says what is amiss. It may be called at any time, and asks
// neither the database nor the broker.
func (r *Relay) Ready() error {
	q := r.current.Load()
	if q == nil {
		return errors.New("relay: does not run")
	}
	return q.amiss(time.Now())
}

func (q *queue) amiss(now time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch still := now.Sub(q.progress).Round(time.Second); {
	case q.stopping:
		return errors.New("relay: is stopping")
	case q.claimed.IsZero():
		return errors.New("relay: has not reached the database yet to claim its shards")
	case !now.Before(q.claimed):
		return fmt.Errorf("relay: its leases ended %v ago and could not be renewed: look at the database", now.Sub(q.claimed).Round(time.Second))
	case q.breaker.down:
		return fmt.Errorf("relay: the broker is away since %v: %w", now.Sub(q.breaker.since).Round(time.Second), q.breaker.reason)
	case q.readFault != nil && now.Sub(q.readSince) > stuckAfter:
		return fmt.Errorf("relay: the database could not be read for %v: %w", now.Sub(q.readSince).Round(time.Second), q.readFault)
	case !q.idle() && still > stuckAfter:
		return fmt.Errorf("relay: nothing was confirmed, deleted or recorded for %v: %d messages may be sent, %d wait for the broker, %d for the database",
			still, q.ready.len(), q.inFlight, q.settling+q.unwritten)
	}
	return nil
}

// noteRead notes how the last read went.
func (q *queue) noteRead(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.readFault == nil && err != nil {
		q.readSince = time.Now()
	}
	q.readFault = err
}
