package worker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox"
)

// task is a message in the worker.
type task struct {
	msg     *outbox.Received
	handler *handler
	behind  *task // the next message of the same key, which waits for this one
	next    *task // the next in the list of those that may run
	settled atomic.Bool
}

// claim reports whether the caller is the one to settle the message.
func (t *task) claim() bool { return t.settled.CompareAndSwap(false, true) }

// order is what messages are ordered by.
type order struct{ tenant, key string }

func (t *task) order() order { return order{t.msg.Tenant, t.msg.Key} }
func (t *task) keyed() bool  { return t.msg.Key != "" }

// lane is a handler's part of the queue: how many of its messages run, and those
// that may run but for the handler's own bound.
type lane struct {
	running int
	first   *task // list, by next
	last    *task
}

// queue holds the messages between their delivery and their settlement. Of each
// key one message at a time is in the list of those that may run, is running or
// is held; the others hang behind it.
type queue struct {
	mu      sync.Mutex
	wake    sync.Cond // on mu: a task may run, or the queue is closed
	idle    int       // goroutines that wait on wake
	first   *task     // list of those that may run, by next
	last    *task
	newest  map[order]*task       // the newest message of each key that has any here
	running []*task               // by slot
	lanes   []*lane               // of the handlers
	held    map[*task]*time.Timer // failed; without a timer when being given back
	open    int                   // put and not yet released
	spare   *task                 // list of tasks to be used again, by next
	stopped bool                  // nothing is put any more
	closed  bool                  // nothing is taken any more

	drained   chan struct{} // closed when stopped and nothing is open
	markEmpty func()
}

func newQueue(slots int, handlers []*handler) *queue {
	q := &queue{
		newest:  make(map[order]*task),
		running: make([]*task, slots),
		held:    make(map[*task]*time.Timer),
		drained: make(chan struct{}),
	}
	for _, h := range handlers {
		q.lanes = append(q.lanes, &h.lane)
	}
	q.wake.L = &q.mu
	q.markEmpty = sync.OnceFunc(func() { close(q.drained) })
	return q
}

// put adds a message, unless the queue has been stopped.
func (q *queue) put(m *outbox.Received, h *handler) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return false
	}
	t := q.spare
	if t == nil {
		t = new(task)
	} else {
		q.spare, t.next = t.next, nil
	}
	t.msg, t.handler = m, h
	q.open++
	if t.keyed() {
		by := t.order()
		before := q.newest[by]
		q.newest[by] = t
		if before != nil {
			before.behind = t
			return true
		}
	}
	q.push(t)
	return true
}

// take releases done, if it is not nil, waits for a message that may run, and
// returns it as the one that slot runs; nil when the queue is closed.
func (q *queue) take(slot int, done *task) *task {
	q.mu.Lock()
	defer q.mu.Unlock()
	if done != nil {
		q.leave(slot, done)
		q.free(done)
	}
	for {
		if t := q.pop(); t != nil {
			t.handler.lane.running++
			q.running[slot] = t
			return t
		}
		if q.closed {
			return nil
		}
		q.idle++
		q.wake.Wait()
		q.idle--
	}
}

// hold keeps the task that slot ran for delay, then calls after, and again after
// each delay that this returns; when it returns 0, the task is released. Without
// after, the task may run again. hold reports false when the queue has been stopped.
func (q *queue) hold(slot int, t *task, delay time.Duration, after func(*task) time.Duration) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return false
	}
	q.leave(slot, t)
	t.settled.Store(false)
	q.keep(t, delay, after)
	return true
}

// keep is called with mu locked.
func (q *queue) keep(t *task, delay time.Duration, after func(*task) time.Duration) {
	q.held[t] = time.AfterFunc(delay, func() {
		if after == nil {
			q.runAgain(t)
			return
		}
		if !q.due(t) {
			return
		}
		if more := after(t); more > 0 && q.keepOn(t, more, after) {
			return
		} else if more > 0 { // stopped meanwhile
			_ = t.msg.Settle(outbox.Settlement{Outcome: outbox.Requeue})
		}
		q.unhold(t)
	})
}

func (q *queue) keepOn(t *task, delay time.Duration, after func(*task) time.Duration) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.stopped {
		q.keep(t, delay, after)
	}
	return !q.stopped
}

// runAgain lets t run again, if it is still held.
func (q *queue) runAgain(t *task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.held[t]; ok {
		delete(q.held, t)
		q.push(t)
	}
}

// due reports whether t is still held: if not, stop has taken it.
func (q *queue) due(t *task) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, ok := q.held[t]
	if ok {
		q.held[t] = nil
	}
	return ok
}

func (q *queue) unhold(t *task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.held, t)
	q.free(t)
}

// stop ends put and returns the messages that do not run, for the caller to give
// back and then to forget; those of one key in their order.
func (q *queue) stop() []*outbox.Received {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	var rest []*outbox.Received
	chain := func(t *task) {
		for ; t != nil; t = t.behind {
			rest = append(rest, t.msg)
		}
	}
	for t := q.first; t != nil; t = t.next {
		chain(t)
	}
	q.first, q.last = nil, nil
	for _, l := range q.lanes {
		for t := l.first; t != nil; t = t.next {
			chain(t)
		}
		l.first, l.last = nil, nil
	}
	for t, timer := range q.held {
		if timer == nil {
			chain(t.behind)
			t.behind = nil
			continue
		}
		timer.Stop()
		chain(t)
		delete(q.held, t)
	}
	for _, t := range q.running {
		if t != nil {
			chain(t.behind)
			t.behind = nil
		}
	}
	return rest
}

// forget releases n messages that stop returned.
func (q *queue) forget(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.released(n)
}

// abandon returns the messages that still run and that nobody has settled yet:
// the caller settles them.
func (q *queue) abandon() []*outbox.Received {
	q.mu.Lock()
	defer q.mu.Unlock()
	var rest []*outbox.Received
	for _, t := range q.running {
		if t != nil && t.claim() {
			rest = append(rest, t.msg)
		}
	}
	return rest
}

// close lets take return nil.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake.Broadcast()
}

// count returns the number of messages that run.
func (q *queue) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, t := range q.running {
		if t != nil {
			n++
		}
	}
	return n
}

// The following are called with mu locked.

// pop returns the first task that may run, or nil. Those whose handler is at its
// bound go to its lane.
func (q *queue) pop() *task {
	for q.first != nil && !q.closed {
		t := q.first
		q.first, t.next = t.next, nil
		if q.first == nil {
			q.last = nil
		}
		l := &t.handler.lane
		if t.handler.limit == 0 || l.running < t.handler.limit {
			return t
		}
		if l.last == nil {
			l.first = t
		} else {
			l.last.next = t
		}
		l.last = t
	}
	return nil
}

// leave ends the running of t by slot, so that another message of its handler may
// run.
func (q *queue) leave(slot int, t *task) {
	q.running[slot] = nil
	l := &t.handler.lane
	l.running--
	if next := l.first; next != nil {
		l.first, next.next = next.next, nil
		if l.first == nil {
			l.last = nil
		}
		q.push(next)
	}
}

func (q *queue) push(t *task) {
	if q.last == nil {
		q.first = t
	} else {
		q.last.next = t
	}
	q.last = t
	if q.idle > 0 {
		q.wake.Signal()
	}
}

// free lets the next message of t's key run and keeps t to be used again.
func (q *queue) free(t *task) {
	if t.behind != nil {
		q.push(t.behind)
	} else if t.keyed() {
		delete(q.newest, t.order())
	}
	t.msg, t.handler, t.behind = nil, nil, nil
	t.settled.Store(false)
	t.next, q.spare = q.spare, t
	q.released(1)
}

func (q *queue) released(n int) {
	q.open -= n
	if q.stopped && q.open == 0 {
		q.markEmpty()
	}
}
