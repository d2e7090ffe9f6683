package membroker

import (
	"container/heap"
	"slices"

	"github.com/outbox-go/outbox"
)

// queue is a durable queue. The broker's mu guards it.
type queue struct {
	patterns  []string
	consumers map[*consumer]struct{}

	next  uint64  // number of the next message
	ready []*item // never delivered, in order; the first head of them are gone
	head  int
	back  itemHeap // given back; all of them are before those in ready
}

// item is one message in one queue.
type item struct {
	number      uint64
	message     *outbox.Message
	redelivered bool
}

func (q *queue) collects(topic string) bool {
	return slices.ContainsFunc(q.patterns, func(pattern string) bool { return outbox.MatchTopic(pattern, topic) })
}

func (q *queue) push(m *outbox.Message) {
	if q.head > 1024 && q.head > len(q.ready)/2 {
		q.ready = append([]*item(nil), q.ready[q.head:]...)
		q.head = 0
	}
	q.ready = append(q.ready, &item{number: q.next, message: m})
	q.next++
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

func (q *queue) wake() {
	for c := range q.consumers {
		c.signal()
	}
}

func (q *queue) waiting() []*item {
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
