package rabbitmq

import (
	"time"
)

// maxUnanswered is the greatest number of messages published and not answered. The
// channels by which the library notifies have room for as many, so that it never
// waits for us: what it cannot pass on for 5 s, it drops.
const maxUnanswered = 4096

// window holds what was published on a channel and is not answered, by delivery
// tags, which begin with 1 on each channel and have no gaps. The zero value is
// empty.
type window struct {
	ring []pending
	head uint64 // the oldest tag that is not answered
	next uint64 // the next tag to be given
	// tags finds a message that the broker returns: a basic.return carries no
	// delivery tag. No two messages in a window have one id.
	tags map[string]uint64
}

// pending is a message that waits for its answer.
type pending struct {
	id       string
	done     func(error)
	sent     time.Time
	returned error // why the broker returned it, if it did
}

// answer is what a message is told.
type answer struct {
	done func(error)
	err  error
}

func newWindow() *window {
	return &window{
		ring: make([]pending, maxUnanswered), head: 1, next: 1,
		tags: make(map[string]uint64, maxUnanswered),
	}
}

func (w *window) len() int { return int(w.next - w.head) }

// admits reports whether a message of that id can be added.
func (w *window) admits(id string) bool {
	if w.len() == len(w.ring) {
		return false
	}
	_, twice := w.tags[id]
	return !twice
}

func (w *window) add(id string, done func(error)) {
	w.ring[w.next%maxUnanswered] = pending{id: id, done: done, sent: time.Now()}
	w.tags[id] = w.next
	w.next++
}

// markReturned notes that the message of that id was returned, and reports whether
// there is one.
func (w *window) markReturned(id string, err error) bool {
	tag, ok := w.tags[id]
	if ok {
		w.ring[tag%maxUnanswered].returned = err
	}
	return ok
}

// oldest returns when the oldest unanswered message was sent.
func (w *window) oldest() (time.Time, bool) {
	if w.len() == 0 {
		return time.Time{}, false
	}
	return w.ring[w.head%maxUnanswered].sent, true
}

// take removes the oldest message. The window must not be empty.
func (w *window) take() pending {
	slot := &w.ring[w.head%maxUnanswered]
	p := *slot
	*slot = pending{}
	delete(w.tags, p.id)
	w.head++
	return p
}
