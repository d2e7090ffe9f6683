package rabbitmq

// maxUnanswered is the greatest number of messages published and not answered.
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
	// round counts the looks at how old the oldest message is: to ask the clock for
	// each message costs more than the rest of this.
	round uint32
}

// pending is a message that waits for its answer.
type pending struct {
	id       string
	done     func(error)
	sent     uint32 // in which round
	waits    bool   // it is not answered yet
	returned error  // why the broker returned it, if it did
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

// len returns how many messages are not answered.
func (w *window) len() int { return len(w.tags) }

// admits reports whether a message of that id can be added.
func (w *window) admits(id string) bool {
	if w.next-w.head == maxUnanswered {
		return false
	}
	_, twice := w.tags[id]
	return !twice
}

func (w *window) add(id string, done func(error)) {
	w.ring[w.next%maxUnanswered] = pending{id: id, done: done, sent: w.round, waits: true}
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

// answered returns the first and the last tag that the broker means by its answer to
// one, with multiple to all up to it; ok is false if that has not been published. Not
// all of them need be unanswered: with several queues answers come in any order.
func (w *window) answered(tag uint64, multiple bool) (first, last uint64, ok bool) {
	if tag == 0 && multiple {
		tag = w.next - 1 // all
	}
	if tag == 0 || tag >= w.next {
		return 0, 0, false
	}
	if multiple {
		return w.head, tag, true
	}
	return max(tag, w.head), tag, true
}

// take removes the message of that tag, if it is there.
func (w *window) take(tag uint64) (pending, bool) {
	slot := &w.ring[tag%maxUnanswered]
	p := *slot
	if tag < w.head || !p.waits {
		return pending{}, false
	}
	*slot = pending{}
	delete(w.tags, p.id)
	for w.head < w.next && !w.ring[w.head%maxUnanswered].waits {
		w.head++
	}
	return p, true
}

// age begins a round, and returns for how many rounds the oldest message has waited.
func (w *window) age() uint32 {
	w.round++
	if w.len() == 0 {
		return 0
	}
	return w.round - w.ring[w.head%maxUnanswered].sent
}
