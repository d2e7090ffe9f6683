package relay

import (
	"container/heap"
	"time"
)

// list puts what can be sent next of a key, or a message without one, where the
// publisher finds it.
func (q *queue) list(it *item, first bool) {
	if it.key != nil {
		it.key.listed = it
	}
	if it.queued {
		q.publishWake.set()
		return // from before its key failed
	}
	it.queued = true
	q.begin()
	switch {
	case !it.due.IsZero() && time.Until(it.due) > 0:
		heap.Push(&q.timers, it)
		if it.key != nil {
			q.trim(it.key, time.Now())
		}
	case first && !it.vain:
		q.ready.pushFront(it)
	default:
		q.ready.pushBack(it)
	}
	q.publishWake.set()
}

// listNext lists the next message of a key, if it may be sent.
func (q *queue) listNext(k *keyQueue, first bool) {
	if k.park && (k.recording || k.inFlight == 0) {
		q.enlist(k)
		return
	}
	it := k.next()
	if it == nil || k.park || k.listed != nil || k.failed || it.state == dying {
		return
	}
	if k.inFlight > 0 && !(q.pipelined(it) && q.pipelined(k.items[k.inFlight-1])) {
		return
	}
	q.list(it, first)
}

// giveBack returns a message that was not confirmed to its place.
func (q *queue) giveBack(it *item) {
	it.state = returned
	switch {
	case it.void():
		q.discharge(it)
	case it.key == nil:
		it.state = waiting
		q.list(it, true)
	default:
		it.key.answered++
		it.key.failed, it.key.listed = true, nil
		q.advance(it.key)
	}
}

// advance lets a key go on: behind what was confirmed, or, once all that was in
// flight is answered, from the first that was not.
func (q *queue) advance(k *keyQueue) {
	if !k.failed {
		for k.inFlight > 0 && k.items[0].state == confirmed {
			k.items[0] = nil
			k.items = k.items[1:]
			k.inFlight--
			k.answered--
		}
		q.settleKey(k)
		return
	}
	if k.answered < k.inFlight {
		return
	}
	left := k.items[:0:0]
	for _, it := range k.items {
		if it.state == confirmed {
			continue
		}
		if it.state != dying {
			it.state = waiting
		}
		left = append(left, it)
	}
	k.items, k.inFlight, k.answered, k.failed = left, 0, 0, false
	k.listed = nil
	q.listNext(k, true)
}

// settleKey lists what comes next of a key, forgets a key of which there is
// nothing left, and wakes the reader for one whose rest is still in the store.
func (q *queue) settleKey(k *keyQueue) {
	if k.behind != nil && len(k.items)-k.inFlight < spillLow {
		q.readWake.set()
	}
	if len(k.items) > 0 || k.behind != nil {
		q.listNext(k, false)
		return
	}
	delete(k.shard.keys, k.name)
}

// closeOne notes that one thing less of a shard is open.
func (q *queue) closeOne(s *shard) {
	s.open--
	q.meetFate(s)
}
