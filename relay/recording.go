package relay

import (
	"slices"
	"time"

	"github.com/outbox-go/outbox/store"
)

// collectRefused returns the refusals to be written down now.
func (q *queue) collectRefused() []refusal {
	q.mu.Lock()
	defer q.mu.Unlock()
	var due []refusal
	n := 0
	for ; n < len(q.refused) && len(due) < q.config.SettleBatch; n++ {
		if r := q.refused[n]; q.obsolete(&r) {
			q.written(&r)
		} else {
			due = append(due, r)
		}
	}
	q.refused = slices.Delete(q.refused, 0, n)
	return q.joinParked(due, q.config.SettleBatch)
}

// obsolete tells that a refusal is not to be written: its shard was lost meanwhile,
// and the message is the new owner's to find, or it is not the last one of its
// message.
func (q *queue) obsolete(r *refusal) bool {
	s := r.it.shard
	return !s.owned || s.lease != r.failure.Lease || r.number != r.it.failed
}

// recorded goes on behind refusals that were written down.
func (q *queue) recorded(refusals []refusal) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.progress = time.Now()
	for i := range refusals {
		r := &refusals[i]
		q.written(r)
		if r.failure.Dead != "" {
			q.buried(r.it, r.failure.Park)
		}
	}
	q.freed()
}

// written notes that a refusal is dealt with.
func (q *queue) written(r *refusal) {
	q.unwritten--
	if r.failure.Dead != "" {
		q.discharge(r.it)
	}
	q.closeOne(r.it.shard)
	q.publishWake.set() // drain may wait for it
}

// unrecorded keeps refusals to be written down later.
func (q *queue) unrecorded(refusals []refusal) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refused = append(refusals, q.refused...)
}

func failuresOf(refusals []refusal) []store.Failure {
	failures := make([]store.Failure, len(refusals))
	for i, r := range refusals {
		failures[i] = r.failure
	}
	return failures
}
