package relay

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/outbox-go/outbox/store"
)

// farOff is when what waits for somebody to act is due.
const farOff = 100 * 365 * 24 * time.Hour

// Texts that are stored with messages which became dead letters unsent.
const (
	textExpired = "expired before it was sent"
	textParked  = "behind a dead letter of its key"
)

// refusal is a failure to be written down.
type refusal struct {
	it      *item
	failure store.Failure
	number  uint32 // which of its message's it is
}

// refuse counts an attempt. The message waits for the next one or, if it has none
// left or can never be sent, its topic's policy decides.
func (q *queue) refuse(it *item, err error) {
	f := q.config.verdict(&it.row, err)
	it.row.Attempts, it.row.LastError = f.Attempts, f.Error
	q.note(it, f)
	if f.Dead != "" {
		q.die(it)
	} else {
		it.wait(f.RetryIn, time.Now())
		q.giveBack(it)
	}
	q.refusedHanded(it)
	q.wakeForRoom()
}

// verdict counts an attempt and says what becomes of a message that was not sent
// because of err.
func (c *Config) verdict(row *store.Row, err error) store.Failure {
	f := store.Failure{Attempts: row.Attempts + 1, Error: err.Error()}
	reason := deathReason(err)
	if reason == "" && f.Attempts >= c.MaxAttempts {
		reason = store.Exhausted
	}
	policy := policyFor(c.Policies, row.Topic)
	switch {
	case reason == "":
		f.RetryIn = max(c.refusedDelay(f.Attempts), asked(err))
	case policy == Block:
		f.RetryIn = store.Never
	default:
		f.Dead, f.Park = reason, policy == Park && row.Key != ""
	}
	return f
}

// refusedDelay doubles with each attempt, less a random part of up to a half.
func (c *Config) refusedDelay(attempts int) time.Duration {
	delay := c.RefusedBackoff
	for range attempts - 1 {
		if delay *= 2; delay >= c.MaxRefusedBackoff {
			delay = c.MaxRefusedBackoff
			break
		}
	}
	if delay < 2 {
		return delay
	}
	return delay - rand.N(delay/2)
}

// wait sets when the message is looked at next: when its time has passed or it
// expires.
func (it *item) wait(d time.Duration, now time.Time) {
	it.due = now.Add(min(d, farOff))
	if !it.until.IsZero() && it.until.Before(it.due) {
		it.due = it.until
	}
}

// note has a failure written down.
func (q *queue) note(it *item, f store.Failure) {
	it.failed++
	f.Ref, f.Lease = it.ref(), it.shard.lease
	q.refused = append(q.refused, refusal{it, f, it.failed})
	q.unwritten++
	q.recordWake.set()
}

// expire lets a message die that was to be sent before now.
func (q *queue) expire(it *item) {
	q.begin()
	it.shard.open++
	q.note(it, store.Failure{Attempts: it.row.Attempts, Error: expiredText(&it.row), Dead: store.Expired})
	it.state = dying
	if it.key != nil {
		it.key.listed = nil
	}
}

func expiredText(row *store.Row) string {
	if row.LastError == "" {
		return textExpired
	}
	return textExpired + ": " + row.LastError
}

// die keeps a message's place, and its successors waiting, until it is written down
// that it is a dead letter: after a crash before that it is tried again, and must
// still be the first of its key.
func (q *queue) die(it *item) {
	it.state = dying
	if it.key != nil && !it.void() {
		it.key.answered++
		it.key.failed, it.key.listed = true, nil
		q.advance(it.key)
	}
}

// buried lets the successors of a dead letter go on, or join it.
func (q *queue) buried(it *item, park bool) {
	k := it.key
	if k == nil || it.void() {
		return
	}
	if i := slices.Index(k.items, it); i == 0 {
		k.items[0] = nil
		k.items = k.items[1:]
		k.passed(0)
	} else if i > 0 {
		k.items = slices.Delete(k.items, i, i+1)
		k.passed(i)
	}
	if park && !k.park {
		k.shard.parked[k.name] = struct{}{}
		k.park, k.listed = true, nil
	}
	if k.failed {
		q.advance(k)
		return
	}
	q.settleKey(k)
}

// passed notes that the item at i is gone, which was answered or recorded if it was
// one of those.
func (k *keyQueue) passed(i int) {
	if i >= k.inFlight {
		return
	}
	k.inFlight--
	if !k.recording {
		k.answered--
	}
}

// enlist has the messages of a parked key recorded.
func (q *queue) enlist(k *keyQueue) {
	k.recording = true
	if k.enlisted || k.inFlight == len(k.items) {
		return
	}
	k.enlisted = true
	q.begin()
	q.parking = append(q.parking, k)
	q.recordWake.set()
}

// join takes up to most messages of parked keys to be recorded, and appends them.
func (q *queue) joinParked(due []refusal, most int) []refusal {
	for len(due) < most && len(q.parking) > 0 && !q.stopping {
		k := q.parking[0]
		if k.inFlight == len(k.items) || k.items[k.inFlight].void() {
			k.enlisted = false
			q.parking = q.parking[1:]
			continue
		}
		it := k.items[k.inFlight]
		k.inFlight++
		if it.state == dying {
			continue // for a reason of its own
		}
		it.state = dying
		it.shard.open++
		it.failed++
		q.unwritten++
		text := it.row.LastError
		if text == "" {
			text = textParked
		}
		due = append(due, refusal{it, store.Failure{
			Ref: it.ref(), Lease: it.shard.lease, Attempts: it.row.Attempts, Error: text, Dead: store.Parked, Park: true,
		}, it.failed})
	}
	if len(q.parking) > 1 {
		q.parking = append(q.parking[1:], q.parking[0]) // the others' turn
	}
	return due
}
