package relay

import (
	"container/heap"
	"errors"
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// queue is what a relay holds in memory. The loops share it; each method locks it
// and waits for nothing. What a loop may wait for is signalled.
type queue struct {
	config *Config

	mu       sync.Mutex
	seed     maphash.Seed // of the hashes of forgotten keys
	shards   []shard
	streams  []*stream
	fresh    store.ShardSet // to be read from the start
	ready    deque          // what may be sent now
	timers   timers         // what may be sent later
	bytes    int            // of all items that are not settled or dropped
	full     bool           // the reader waits for room
	inFlight int
	settling int // confirmed, and not yet deleted

	confirmed []*item
	refused   []refusal
	unwritten int       // refusals, those that are being written included
	firstDone time.Time // of confirmed

	breaker  breaker
	deadline time.Time // of the leases, by the local clock; publishing stops at it
	stopping bool      // send nothing more

	publishWake, readWake, settleWake, recordWake, leaseWake signal
}

// refusal is a failure to be written down.
type refusal struct {
	it      *item
	failure store.Failure
}

func newQueue(config *Config, shards int) *queue {
	q := &queue{
		config:      config,
		seed:        maphash.MakeSeed(),
		shards:      make([]shard, shards),
		breaker:     breaker{least: config.UnavailableBackoff, most: config.MaxUnavailableBackoff},
		publishWake: newSignal(), readWake: newSignal(), settleWake: newSignal(), recordWake: newSignal(),
		leaseWake: newSignal(),
	}
	for i := range q.shards {
		q.shards[i].lease.Shard = uint8(i) //nolint:gosec // at most 64
	}
	return q
}

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
	switch {
	case !it.due.IsZero() && time.Until(it.due) > 0:
		heap.Push(&q.timers, it)
	case first:
		q.ready.pushFront(it)
	default:
		q.ready.pushBack(it)
	}
	q.publishWake.set()
}

// listNext lists the next message of a key, if it may be sent.
func (q *queue) listNext(k *keyQueue, first bool) {
	it := k.next()
	if it == nil || k.listed != nil || k.failed {
		return
	}
	if k.inFlight > 0 && !(q.pipelined(it) && q.pipelined(k.items[k.inFlight-1])) {
		return
	}
	q.list(it, first)
}

func (q *queue) pipelined(it *item) bool {
	for _, pattern := range q.config.Pipelined {
		if outbox.MatchTopic(pattern, it.row.Topic) {
			return true
		}
	}
	return false
}

// take moves up to most messages into flight, appending them to items. If there is
// nothing to send it says how long until there may be, zero for until a signal.
func (q *queue) take(items []*item, most int) (taken []*item, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if q.stopping || !now.Before(q.deadline) {
		return items, 0
	}
	for len(q.timers) > 0 && !q.timers[0].due.After(now) {
		q.ready.pushBack(heap.Pop(&q.timers).(*item))
	}
	room := min(most, q.config.Window-q.inFlight, q.config.Window+q.config.SettleBatch-q.inFlight-q.settling)
	room, wait = q.breaker.limit(room, q.inFlight, now)
	for room > 0 {
		it := q.ready.pop()
		if it == nil {
			break
		}
		it.queued = false
		if it.void() || it.key != nil && it.key.listed != it {
			continue // dropped, or put back behind another meanwhile
		}
		q.send(it, now)
		items = append(items, it)
		room--
	}
	if len(items) == 0 && len(q.timers) > 0 {
		if next := q.timers[0].due.Sub(now); wait == 0 || next < wait {
			wait = next
		}
	}
	return items, wait
}

func (q *queue) send(it *item, now time.Time) {
	it.state, it.sent, it.due = inFlight, now, time.Time{}
	it.shard.open++
	q.inFlight++
	if it.key != nil {
		it.key.listed = nil
		it.key.inFlight++
		q.listNext(it.key, false)
	}
}

// unsend takes back what was taken and not sent after all.
func (q *queue) unsend(items []*item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := len(items) - 1; i >= 0; i-- {
		q.inFlight--
		q.giveBack(items[i])
		q.closeOne(items[i].shard)
	}
}

// answered records the broker's answer to a message.
func (q *queue) answered(it *item, err error) (went availability) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.inFlight--
	switch {
	case err == nil:
		went = q.breaker.worked()
		q.confirm(it, now)
	case errors.Is(err, outbox.ErrUnavailable):
		went = q.breaker.failed(now)
		q.giveBack(it)
		q.closeOne(it.shard)
	default:
		went = q.breaker.worked()
		q.refuse(it, err)
	}
	q.publishWake.set()
	return went
}

func (q *queue) confirm(it *item, now time.Time) {
	it.state = confirmed
	if len(q.confirmed) == 0 {
		q.firstDone = now
		q.settleWake.set()
	}
	q.confirmed = append(q.confirmed, it)
	q.settling++
	if q.settling >= q.config.SettleBatch/2 {
		q.settleWake.set()
	}
	if it.key != nil && !it.void() {
		it.key.answered++
		q.advance(it.key)
	}
}

// refuse counts an attempt and lets the message wait.
func (q *queue) refuse(it *item, err error) {
	it.row.Attempts++
	it.row.LastError = err.Error()
	delay := q.refusedDelay(it.row.Attempts)
	it.due = time.Now().Add(delay)
	q.refused = append(q.refused, refusal{it, store.Failure{
		Ref: it.ref(), Lease: it.shard.lease, Attempts: it.row.Attempts, Error: it.row.LastError, RetryIn: delay,
	}})
	q.unwritten++
	q.recordWake.set()
	q.giveBack(it)
	if q.full && q.ready.len() < q.config.Window {
		q.readWake.set() // it may be forgotten
	}
}

// refusedDelay doubles with each attempt, less a random part of up to a half.
func (q *queue) refusedDelay(attempts int) time.Duration {
	delay := q.config.RefusedBackoff
	for range attempts - 1 {
		if delay *= 2; delay >= q.config.MaxRefusedBackoff {
			delay = q.config.MaxRefusedBackoff
			break
		}
	}
	if delay < 2 {
		return delay
	}
	return delay - rand.N(delay/2)
}

// giveBack returns a message that was not confirmed to its place.
func (q *queue) giveBack(it *item) {
	it.state = returned
	switch {
	case it.void():
		q.bytes -= it.size
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
		if it.state != confirmed {
			it.state = waiting
			left = append(left, it)
		}
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
