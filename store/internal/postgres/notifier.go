package postgres

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/outbox-go/outbox/store"
)

const (
	// coalesce is the longest time for which commits are gathered to be told of by
	// one notification, and perCommit how much of it each that the last one told of
	// stands for: a commit that comes alone is told of at once.
	coalesce  = 2 * time.Millisecond
	perCommit = 250 * time.Microsecond

	// mostItself is how many transactions at once may notify by themselves, at most.
	mostItself = 4

	// relayed is when commits are told of that a relay of this process knows of: by
	// then their messages are mostly sent.
	relayed = 10 * time.Millisecond

	notifyTimeout = 5 * time.Second
)

// Notifier gathers wake-ups: listeners of this process are told at once, the database
// when a moment has passed since it was told last, and once for all that came meanwhile.
type Notifier struct {
	send func(context.Context)

	mu        sync.Mutex
	local     map[int]func()
	followers map[int]func(store.Commit) bool
	nextLocal int           // of both
	gathered  int           // commits that no notification has told of
	next      time.Time     // not before
	pending   bool          // somebody sends
	late      bool          // somebody will tell, later
	itself    int           // transactions that may notify by themselves
	took      time.Duration // commits, on average
	closed    bool
	running   sync.WaitGroup
}

// NewNotifier returns a notifier that tells others by send, which may be nil.
func NewNotifier(send func(context.Context)) *Notifier {
	return &Notifier{send: send, local: map[int]func(){}, followers: map[int]func(store.Commit) bool{}}
}

// Begin notes that a transaction begins, until End, and reports whether it may notify by
// itself, which is the quickest way. The commits of those that do wait for one another,
// so it may while no more are open than commit in the time for which others gather.
func (n *Notifier) Begin() (itself bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	most := min(max(int(coalesce/max(n.took, 1)), 1), mostItself)
	if n.itself >= most {
		return false
	}
	n.itself++
	return true
}

// End notes that a transaction has ended that may have notified by itself, and how long
// its commit took, zero if there was none.
func (n *Notifier) End(itself bool, commit time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if itself {
		n.itself--
	}
	if commit > 0 {
		n.took += (commit - n.took) / 8
	}
}

// Tell tells the listeners of this process alone of a commit.
func (n *Notifier) Tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tell()
}

func (n *Notifier) tell() {
	for _, tell := range n.local {
		tell()
	}
}

// WakeLater is Wake in a moment, once for all commits until then.
func (n *Notifier) WakeLater() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.late || n.closed {
		return
	}
	n.late = true
	n.running.Go(func() {
		time.Sleep(relayed)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.late = false
		n.wake()
	})
}

// Wake tells of a commit and does not wait.
func (n *Notifier) Wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		n.tell()
		return
	}
	n.wake()
}

func (n *Notifier) wake() {
	n.tell()
	if n.send == nil {
		return
	}
	n.gathered++
	if !n.pending {
		n.pending = true
		n.running.Go(n.run)
	}
}

// run sends notifications until no commit came while one was sent.
func (n *Notifier) run() {
	for {
		n.mu.Lock()
		wait := time.Until(n.next)
		n.mu.Unlock()
		if wait > 0 {
			time.Sleep(wait)
		}
		n.mu.Lock()
		n.next = time.Now().Add(min(coalesce, time.Duration(n.gathered)*perCommit))
		n.gathered = 0
		n.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), notifyTimeout)
		n.send(ctx)
		cancel()
		n.mu.Lock()
		if n.gathered == 0 {
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

// Follow has take called with what Hand is, until stop.
func (n *Notifier) Follow(take func(store.Commit) bool) (stop func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := n.nextLocal
	n.nextLocal++
	n.followers[id] = take
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.followers, id)
	}
}

// Followed reports whether somebody follows.
func (n *Notifier) Followed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.followers) > 0
}

// Hand gives what was committed to the followers, until one takes it, and reports
// whether one does.
func (n *Notifier) Hand(c store.Commit) bool {
	n.mu.Lock()
	followers := slices.Collect(maps.Values(n.followers))
	n.mu.Unlock()
	return slices.ContainsFunc(followers, func(take func(store.Commit) bool) bool { return take(c) })
}

// Close sends what is due and ends the work in the background.
func (n *Notifier) Close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.running.Wait()
}
