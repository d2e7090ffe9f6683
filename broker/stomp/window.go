package stomp

import (
	"time"

	"github.com/outbox-go/outbox"
)

// maxUnanswered is the greatest number of messages published and not answered.
const maxUnanswered = 4096

// window holds what was published on a connection and is not answered, by the
// numbers of the receipts, which begin with 1 and have no gaps. Receipts may come in
// any order.
type window struct {
	ring [maxUnanswered]pending
	head uint64 // the oldest number that is not answered
	next uint64 // the next number to be given
	n    int
}

// pending is a message that waits for its answer. An answered one has no done.
type pending struct {
	id   string
	own  bool // it has a destination of its own
	done func(error)
	sent time.Time
}

func newWindow() *window { return &window{head: 1, next: 1} }

func (w *window) len() int { return w.n }

func (w *window) full() bool { return w.next-w.head == maxUnanswered }

// add returns the number of the message's receipt.
func (w *window) add(m *outbox.Message, done func(error)) uint64 {
	number := w.next
	w.ring[number%maxUnanswered] = pending{id: m.ID, own: m.Headers[HeaderDestination] != "", done: done, sent: time.Now()}
	w.next++
	w.n++
	return number
}

// take removes the message of that receipt, and reports whether there is one.
func (w *window) take(number uint64) (pending, bool) {
	if number < w.head || number >= w.next {
		return pending{}, false
	}
	slot := &w.ring[number%maxUnanswered]
	p := *slot
	if p.done == nil {
		return pending{}, false
	}
	*slot = pending{}
	w.n--
	for w.head < w.next && w.ring[w.head%maxUnanswered].done == nil {
		w.head++
	}
	return p, true
}

// oldest returns when the oldest unanswered message was sent.
func (w *window) oldest() (time.Time, bool) {
	if w.n == 0 {
		return time.Time{}, false
	}
	return w.ring[w.head%maxUnanswered].sent, true
}

// anyOwn reports whether an unanswered message has a destination of its own.
func (w *window) anyOwn() bool {
	for number := w.head; number < w.next; number++ {
		if w.ring[number%maxUnanswered].own {
			return true
		}
	}
	return false
}

// drain removes all, the oldest first.
func (w *window) drain() []pending {
	all := make([]pending, 0, w.n)
	for w.n > 0 {
		p, _ := w.take(w.head)
		all = append(all, p)
	}
	return all
}
