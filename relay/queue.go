package relay

import (
	"container/heap"
	"errors"
	"hash/maphash"
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
	known    store.ShardSet // of fresh: their parked keys are
	looked   time.Time      // when streams that had come to the end were read last
	again    bool           // another stream has more than those that are read now
	ready    lanes          // what may be sent now
	timers   timers         // what may be sent later
	rules    []*rule        // bound rates
	bytes    int            // of all items that are not settled or dropped
	hashes   int            // bytes of the hashes of forgotten keys
	full     bool           // the reader waits for room
	inFlight int
	settling int // confirmed, and not yet deleted

	saw         func(store.Cursor, string) bool // see Follower
	offers      []store.Commit                  // of what cannot be handed over before a read is over
	handedCount int                             // of all shards

	confirmed []*item
	refused   []refusal
	parking   []*keyQueue // whose messages join a dead letter
	unwritten int         // refusals, those that are being written included
	firstDone time.Time   // of confirmed

	tenants  map[string]*tenant // of items, and those that are read by themselves
	noTenant *tenant            // in tenants, too
	splits   []*tenant          // that are read by themselves
	tenanted bool               // there was a message of another tenant
	pauses   []store.Pause

	breaker  breaker
	deadline time.Time // of the leases, by the local clock; publishing stops at it
	claimed  time.Time // until when they hold for all that is known; not changed by suspend
	progress time.Time // something was dealt with, or there was nothing to do until then
	stopping bool      // send nothing more

	readFault error     // of the last read
	readSince time.Time // reads fail

	publishWake, readWake, settleWake, recordWake, leaseWake signal
}

func newQueue(config *Config, shards int) *queue {
	q := &queue{
		config:      config,
		seed:        maphash.MakeSeed(),
		shards:      make([]shard, shards),
		breaker:     breaker{least: config.UnavailableBackoff, most: config.MaxUnavailableBackoff},
		publishWake: newSignal(), readWake: newSignal(), settleWake: newSignal(), recordWake: newSignal(),
		leaseWake: newSignal(), noTenant: &tenant{},
	}
	q.tenants = map[string]*tenant{"": q.noTenant}
	for i := range config.Rates {
		q.rules = append(q.rules, newRule(&config.Rates[i]))
	}
	for i := range q.shards {
		q.shards[i].lease.Shard = uint8(i) //nolint:gosec // at most 64
	}
	return q
}

// idle tells that there is nothing to send or to write down.
func (q *queue) idle() bool {
	return q.ready.len() == 0 && q.inFlight+q.settling+q.unwritten == 0 && len(q.parking) == 0
}

// begin notes the time if there was nothing to do until now.
func (q *queue) begin() {
	if q.idle() {
		q.progress = time.Now()
	}
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
		q.begin()
		q.ready.pushBack(heap.Pop(&q.timers).(*item))
	}
	room := min(most, q.config.Window-q.inFlight, q.config.Window+q.config.SettleBatch-q.inFlight-q.settling)
	room, wait = q.breaker.limit(room, q.inFlight, now)
	for room > 0 {
		it := q.pop(now)
		if it == nil {
			break
		}
		if q.maySend(it, now) {
			q.send(it, now)
			items = append(items, it)
			room--
		}
	}
	if len(items) == 0 {
		wait = q.soonest(wait, now, room > 0)
	}
	return items, wait
}

// pop takes out what comes next: first what has waited for its rate.
func (q *queue) pop(now time.Time) *item {
	for _, r := range q.rules {
		if r.waiting.len() > 0 && r.allows(now) {
			return r.waiting.pop()
		}
	}
	return q.ready.pop()
}

// maySend puts aside what is not to be sent now.
func (q *queue) maySend(it *item, now time.Time) bool {
	it.queued, it.held = false, false
	switch {
	case it.void() || it.key != nil && it.key.listed != it:
		return false // dropped, or put back behind another meanwhile
	case !it.until.IsZero() && !now.Before(it.until):
		q.expire(it)
		return false
	case it.rule != nil && !it.rule.spend(now):
		q.hold(it)
		return false
	}
	return true
}

// soonest returns how long until something may be sent, given what else there is to
// wait for and whether there is room for it; zero for until a signal.
func (q *queue) soonest(wait time.Duration, now time.Time, room bool) time.Duration {
	sooner := func(next time.Duration) {
		if wait == 0 || next < wait {
			wait = next
		}
	}
	if len(q.timers) > 0 {
		sooner(q.timers[0].due.Sub(now))
	}
	for _, r := range q.rules {
		if room && r.waiting.len() > 0 {
			sooner(r.next(now))
		}
	}
	return wait
}

func (q *queue) send(it *item, now time.Time) {
	q.begin()
	it.state, it.sent, it.due, it.vain = inFlight, now, time.Time{}, false
	it.shard.open++
	it.shard.last = max(it.shard.last, it.row.Position)
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
	switch {
	case err == nil:
		q.inFlight--
		q.progress = now
		went = q.breaker.worked()
		q.confirm(it, now)
	case errors.Is(err, outbox.ErrUnavailable):
		q.doubtful(it)
		went = q.unavailable(it, err, now)
	default:
		if !isAnswer(err) {
			q.doubtful(it)
		}
		q.inFlight--
		q.progress = now
		went = q.breaker.worked()
		q.refuse(it, err)
	}
	q.publishWake.set()
	return went
}

// unsendable records why a message that was taken cannot be sent.
func (q *queue) unsendable(it *item, err error) (went availability) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.publishWake.set()
	if errors.Is(err, outbox.ErrUnavailable) {
		return q.unavailable(it, err, time.Now())
	}
	q.inFlight--
	q.refuse(it, err)
	return unchanged
}

func (q *queue) unavailable(it *item, err error, now time.Time) availability {
	q.inFlight--
	it.vain = q.breaker.probing
	went := q.breaker.failed(err, now)
	q.giveBack(it)
	q.closeOne(it.shard)
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
