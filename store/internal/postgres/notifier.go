package postgres

import (
	"context"
	"sync"
	"time"
)

const (
	// coalesce is how long commits are gathered before one notification tells of
	// them all.
	coalesce = 2 * time.Millisecond

	notifyTimeout = 5 * time.Second
)

// Notifier gathers wake-ups: listeners of this process are told at once, the database a
// moment later and once for all that came meanwhile.
type Notifier struct {
	send func(context.Context)

	mu        sync.Mutex
	local     map[int]func()
	nextLocal int
	pending   bool // a notification is on its way
	again     bool // and another commit came since it was sent
	closed    bool
	running   sync.WaitGroup
}

// NewNotifier returns a notifier that tells others by send, which may be nil.
func NewNotifier(send func(context.Context)) *Notifier {
	return &Notifier{send: send, local: map[int]func(){}}
}

// Wake tells of a commit and does not wait.
func (n *Notifier) Wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, tell := range n.local {
		tell()
	}
	switch {
	case n.closed || n.send == nil:
	case n.pending:
		n.again = true
	default:
		n.pending = true
		n.running.Add(1)
		go n.run()
	}
}

// run sends notifications until no commit came while one was sent.
func (n *Notifier) run() {
	defer n.running.Done()
	for {
		time.Sleep(coalesce)
		n.mu.Lock()
		n.again = false
		n.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), notifyTimeout)
		n.send(ctx)
		cancel()
		n.mu.Lock()
		if !n.again {
			n.pending = false
			n.mu.Unlock()
			return
		}
		n.mu.Unlock()
	}
}

// Listen has tell, which does not block, called for each commit until stop.
func (n *Notifier) Listen(tell func()) (stop func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := n.nextLocal
	n.nextLocal++
	n.local[id] = tell
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.local, id)
	}
}

// Close sends what is due and ends the work in the background.
func (n *Notifier) Close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.running.Wait()
}
