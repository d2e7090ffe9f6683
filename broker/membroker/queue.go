package membroker

import (
	"container/heap"
	"slices"
	"time"

	"github.com/outbox-go/outbox"
)

// queue is a durable queue. The broker's mu guards it.
type queue struct {
	patterns  []string
	consumers map[*consumer]struct{}
	active    *consumer // the one that receives, if the queue is in order
	dead      *queue    // the dead letters; they have none

	next  uint64  // number of the next message
	ready []*item // never given back, in order; the first head of them are gone
	head  int
	back  itemHeap // given back; all of them are before those in ready
	later []*item  // those that wait to be retried, by their time
}

// item is one message in one queue.
type item struct {
	number      uint64 // its place in the queue
	message     *message
	redelivered bool
	due         time.Time // the end of its waiting
}

// message is what a broker keeps. It does not change: queues share it.
type message struct {
	outbox.Message
	failure *outbox.Failure
}

// failed returns m with what a driver brings across a broker of f.
func (m *message) failed(f *outbox.Failure) *message {
	return &message{Message: m.Message, failure: outbox.TakeFailure(f.Headers())}
}

func newQueue() *queue {
	return &queue{consumers: map[*consumer]struct{}{}}
}

func (q *queue) collects(topic string) bool {
	return slices.ContainsFunc(q.patterns, func(pattern string) bool { return outbox.MatchTopic(pattern, topic) })
}

// push puts it behind all others.
func (q *queue) push(it *item) {
	if q.head > 1024 && q.head > len(q.ready)/2 {
		q.ready = append([]*item(nil), q.ready[q.head:]...)
		q.head = 0
	}
	it.number = q.next
	q.next++
	q.ready = append(q.ready, it)
	q.wake()
}

// pop returns the first message, or nil.
func (q *queue) pop() *item {
	if len(q.back) > 0 {
		return heap.Pop(&q.back).(*item)
	}
	if q.head == len(q.ready) {
		return nil
	}
	it := q.ready[q.head]
	q.ready[q.head] = nil
	q.head++
	return it
}

// giveBack puts it where it was.
func (q *queue) giveBack(it *item) {
	it.redelivered = true
	heap.Push(&q.back, it)
	q.wake()
}

// wait keeps it until ripen. Of those due at one time, the first to wait is first.
func (q *queue) wait(it *item) {
	i, _ := slices.BinarySearchFunc(q.later, it, func(other, it *item) int {
		if other.due.After(it.due) {
			return 1
		}
		return -1
	})
	q.later = slices.Insert(q.later, i, it)
}

// ripen makes ready all that is due. Each timer does so for all, that their order
// does not depend on which of two timers comes first.
func (q *queue) ripen(now time.Time) {
	n := 0
	for n < len(q.later) && !q.later[n].due.After(now) {
		q.push(q.later[n])
		n++
	}
	q.later = slices.Delete(q.later, 0, n)
}

// admits tells whether c may receive, and makes it the one that may if there is
// none in a queue in order.
func (q *queue) admits(c *consumer) bool {
	if !c.sub.InOrder {
		return true
	}
	if q.active == nil {
		q.active = c
	}
	return q.active == c
}

// dismiss lets another consumer receive, if c was the one of a queue in order.
func (q *queue) dismiss(c *consumer) {
	if q.active == c {
		q.active = nil
		q.wake()
	}
}

func (q *queue) wake() {
	for c := range q.consumers {
		c.signal()
	}
}

// deliverable returns what a consumer would get next, in this order.
func (q *queue) deliverable() []*item {
	back := slices.Clone(q.back)
	slices.SortFunc(back, func(a, b *item) int { return int(a.number) - int(b.number) })
	return append(back, q.ready[q.head:]...)
}

// itemHeap is a container/heap by number.
type itemHeap []*item

func (h itemHeap) Len() int           { return len(h) }
func (h itemHeap) Less(i, j int) bool { return h[i].number < h[j].number }
func (h itemHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *itemHeap) Push(x any)        { *h = append(*h, x.(*item)) }
func (h *itemHeap) Pop() any {
	last := len(*h) - 1
	it := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return it
}
