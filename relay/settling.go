package relay

import "time"

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
	q.progress = time.Now()
	for _, it := range items {
		q.settledHanded(it)
		q.discharge(it)
		q.closeOne(it.shard)
	}
	q.publishWake.set()
	q.freed()
}

// freed wakes the reader if it waits for room and there is enough.
func (q *queue) freed() {
	if q.full && (q.free() >= q.config.Memory/4 || q.inFlight+q.settling+q.unwritten == 0) {
		q.full = false
		q.readWake.set()
	}
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
