package relay

import (
	"time"

	"github.com/outbox-go/outbox/store"
)

// collect returns the confirmed messages to delete now: all there are, if they
// fill half a batch or the first of them has waited long enough, or flush is set.
// Else it says how long to wait, zero for until a signal.
func (q *queue) collect(flush bool) (items []*item, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.confirmed)
	if n == 0 {
		return nil, 0
	}
	age := time.Since(q.firstDone)
	if n < q.config.SettleBatch/2 && age < q.config.SettleDelay && !flush && !q.stopping {
		return nil, q.config.SettleDelay - age
	}
	n = min(n, q.config.SettleBatch)
	items = append(items, q.confirmed[:n]...)
	rest := copy(q.confirmed, q.confirmed[n:])
	clear(q.confirmed[rest:])
	q.confirmed = q.confirmed[:rest]
	if rest > 0 {
		q.settleWake.set()
	}
	return items, 0
}

// settled forgets messages that were deleted.
func (q *queue) settled(items []*item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settling -= len(items)
	for _, it := range items {
		q.bytes -= it.size
		q.closeOne(it.shard)
	}
	q.publishWake.set()
	if q.full && (q.free() >= q.config.Memory/4 || q.inFlight+q.settling == 0) {
		q.full = false
		q.readWake.set()
	}
}

// collectRefused returns the refusals to be written down. Those of shards that
// were lost meanwhile are the new owner's to find, and of several of one message the
// last one counts.
func (q *queue) collectRefused() []refusal {
	q.mu.Lock()
	defer q.mu.Unlock()
	var due []refusal
	for _, r := range q.refused {
		if r.it.void() || r.failure.Attempts != r.it.row.Attempts {
			q.written(r)
			continue
		}
		due = append(due, r)
	}
	q.refused = nil
	return due
}

// recorded forgets refusals that were written down.
func (q *queue) recorded(refusals []refusal) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range refusals {
		q.written(r)
	}
}

// written notes that a refusal is dealt with.
func (q *queue) written(r refusal) {
	q.unwritten--
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

// stop lets nothing more be sent or read.
func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopping = true
	q.publishWake.set()
	q.readWake.set()
	q.settleWake.set()
}

// unanswered returns how many messages the broker has yet to answer, and how many
// answers are yet to be written down.
func (q *queue) unanswered() (inFlight, unwritten int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.inFlight, q.settling + q.unwritten
}
