package memstore

import (
	"container/heap"
	"sort"
	"time"

	"github.com/outbox-go/outbox/store"
)

// stored is a message that is not pending.
type stored struct {
	place  int64
	row    *row // as it was, or is to be, when pending
	reason store.Reason
	parked bool
	at     time.Time
	gone   bool
}

// shelf keeps messages in the order of their places. The zero shelf is empty.
type shelf struct {
	rows []*stored
	gone int // of rows
	last int64
}

// add puts a message on a shelf that gives the places itself.
func (f *shelf) add(m *stored) {
	f.last++
	m.place = f.last
	f.rows = append(f.rows, m)
}

// insert puts a message where its place is.
func (f *shelf) insert(m *stored) {
	i := f.after(m.place)
	f.rows = append(f.rows, nil)
	copy(f.rows[i+1:], f.rows[i:])
	f.rows[i] = m
}

// after returns the index of the first message behind a place.
func (f *shelf) after(place int64) int {
	return sort.Search(len(f.rows), func(i int) bool { return f.rows[i].place > place })
}

// find returns the message at a place, nil if there is none.
func (f *shelf) find(place int64) *stored {
	i := f.after(place) - 1
	if i < 0 || f.rows[i].place != place || f.rows[i].gone {
		return nil
	}
	return f.rows[i]
}

// remove takes a message away. What is gone stays until it is the greater part, so
// that each is moved once on the average.
func (f *shelf) remove(m *stored) {
	if m.gone {
		return
	}
	m.gone = true
	f.gone++
	if f.gone < 1024 || f.gone < len(f.rows)/2 {
		return
	}
	kept := make([]*stored, 0, len(f.rows)-f.gone)
	for _, m := range f.rows {
		if !m.gone {
			kept = append(kept, m)
		}
	}
	f.rows, f.gone = kept, 0
}

func (f *shelf) len() int { return len(f.rows) - f.gone }

// behind yields the messages behind a place, in their order.
func (f *shelf) behind(place int64) func(yield func(*stored) bool) {
	rows := f.rows[f.after(place):]
	return func(yield func(*stored) bool) {
		for _, m := range rows {
			if !m.gone && !yield(m) {
				return
			}
		}
	}
}

// dueQueue is a heap of scheduled messages: by the time at which they are due, then
// by their places.
type dueQueue []*stored

func (q dueQueue) Len() int { return len(q) }

func (q dueQueue) Less(i, j int) bool {
	a, b := q[i], q[j]
	if c := a.row.message.DeliverAt.Compare(b.row.message.DeliverAt); c != 0 {
		return c < 0
	}
	return a.place < b.place
}

func (q dueQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

func (q *dueQueue) Push(m any) { *q = append(*q, m.(*stored)) }

func (q *dueQueue) Pop() any {
	last := len(*q) - 1
	m := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return m
}

// first returns the message that is due first, nil if there is none.
func (q *dueQueue) first() *stored {
	for len(*q) > 0 && (*q)[0].gone {
		heap.Pop(q)
	}
	if len(*q) == 0 {
		return nil
	}
	return (*q)[0]
}
