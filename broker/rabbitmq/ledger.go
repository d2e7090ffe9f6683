package rabbitmq

import (
	"slices"
	"sync"
	"time"
)

// ackDelay is how long an acknowledgement waits for others, at most twice.
const ackDelay = time.Millisecond

// acknowledger is what a ledger needs of a channel.
type acknowledger interface {
	Ack(tag uint64, multiple bool) error
	Reject(tag uint64, requeue bool) error
	IsClosed() bool
}

// ledger holds what a channel has delivered and the broker still counts as
// unsettled, and sends the acknowledgements in batches: one for all the messages
// before the first that is not settled, and single ones behind it. One for each
// message would cost the broker, and us, more than the delivery.
type ledger struct {
	channel acknowledger
	most    int           // as many acknowledgements are not held back
	wake    chan struct{} // there is an acknowledgement to be sent in time

	mu             sync.Mutex
	oldest, newest *entry
	unsent         []*entry // acknowledged here and not at the broker
	round          int      // counts the rounds of flushing
	keeps          bool     // what is requeued is kept until the channel ends
}

// entry is one delivery.
type entry struct {
	tag        uint64
	prev, next *entry
	acked      bool
	sent       bool
	round      int
}

func newLedger(channel acknowledger, prefetch int) *ledger {
	// A quarter: the broker must not run out of messages that it may send.
	return &ledger{channel: channel, most: max(1, prefetch/4), wake: make(chan struct{}, 1)}
}

// run sends what waits too long, and at the end all, until stop is closed.
func (l *ledger) run(stop <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-l.wake:
		case <-stop:
			l.flush()
			return
		}
		timer.Reset(ackDelay)
		select {
		case <-timer.C:
			l.tick()
		case <-stop:
			l.flush()
			return
		}
	}
}

// add notes a delivery. Its tag is greater than those before.
func (l *ledger) add(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.prev = l.newest
	if l.newest == nil {
		l.oldest = e
	} else {
		l.newest.next = e
	}
	l.newest = e
}

// ack acknowledges e, soon.
func (l *ledger) ack(e *entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.channel.IsClosed() {
		return errStale
	}
	e.acked, e.round = true, l.round
	l.unsent = append(l.unsent, e)
	if len(l.unsent) < l.most {
		l.arm()
		return nil
	}
	l.sendFirst()
	if len(l.unsent) >= l.most {
		l.sendSingly(l.round)
	}
	return nil
}

// requeue gives e back.
func (l *ledger) requeue(e *entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.channel.IsClosed() {
		return errStale
	}
	if l.keeps {
		return nil
	}
	l.remove(e)
	if l.channel.Reject(e.tag, true) != nil {
		return errStale
	}
	return nil
}

// keep has all that is requeued from now on wait for the end of the channel, with
// which the broker takes it back in its order.
func (l *ledger) keep() {
	l.mu.Lock()
	l.keeps = true
	l.mu.Unlock()
}

// tick sends what can be acknowledged at once, and what has waited for a whole
// round.
func (l *ledger) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sendFirst()
	l.sendSingly(l.round - 1)
	l.round++
	if len(l.unsent) > 0 {
		l.arm()
	}
}

func (l *ledger) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sendFirst()
	l.sendSingly(l.round)
}

// sendFirst acknowledges all that is settled before the oldest that is not.
func (l *ledger) sendFirst() {
	var last *entry
	n := 0
	for e := l.oldest; e != nil && e.acked; e = l.oldest {
		l.remove(e)
		e.sent = true
		last = e
		n++
	}
	if last == nil {
		return
	}
	// A failure is a channel that has ended: the broker delivers all again.
	_ = l.channel.Ack(last.tag, n > 1)
	l.unsent = slices.DeleteFunc(l.unsent, func(e *entry) bool { return e.sent })
}

// sendSingly acknowledges, one by one, what was settled in that round or before.
func (l *ledger) sendSingly(round int) {
	l.unsent = slices.DeleteFunc(l.unsent, func(e *entry) bool {
		if e.round > round {
			return false
		}
		l.remove(e)
		_ = l.channel.Ack(e.tag, false)
		return true
	})
}

func (l *ledger) remove(e *entry) {
	if e.prev == nil {
		l.oldest = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.newest = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.prev, e.next = nil, nil
}

func (l *ledger) arm() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
