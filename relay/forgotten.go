package relay

import (
	"container/heap"
	"hash/maphash"
	"slices"
	"time"

	"github.com/outbox-go/outbox/store"
)

const (
	// forgottenSize is roughly what is kept of a forgotten key.
	forgottenSize = 32

	// A shard is read again at the earliest after rereadPerRow for each row that it
	// has to pass over, so that reading them costs the database little.
	rereadPerRow = 10 * time.Millisecond
	minReread    = time.Second
	maxReread    = time.Minute
)

// forgotten stands for messages of a shard that wait for their next attempt, or
// behind one that does, and for which there is no room. Nothing is kept of them but
// hashes of their keys, so that no later message overtakes them. They are found
// again by reading the shard from the start.
type forgotten struct {
	keys  map[uint64]struct{}
	rows  int       // given up, and passed over since
	since time.Time // the first was given up
	due   time.Time // the first attempt among them
}

func (f *forgotten) size() int { return forgottenSize * len(f.keys) }

// rereadAt returns when to read the shard from the start.
func (f *forgotten) rereadAt() time.Time {
	at := f.since.Add(min(max(time.Duration(f.rows)*rereadPerRow, minReread), maxReread))
	if at.Before(f.due) {
		return f.due
	}
	return at
}

// note adds rows whose first attempt is due then.
func (f *forgotten) note(rows int, due time.Time) {
	if f.rows == 0 {
		f.since, f.due = time.Now(), due
	} else if due.Before(f.due) {
		f.due = due
	}
	f.rows += rows
}

func (q *queue) hash(name store.Key) uint64 { return maphash.Comparable(q.seed, name) }

// passOver reports whether a row is of a forgotten key.
func (q *queue) passOver(s *shard, name store.Key) bool {
	if len(s.forgotten.keys) == 0 {
		return false
	}
	_, is := s.forgotten.keys[q.hash(name)]
	if is {
		s.forgotten.rows++
	}
	return is
}

// forget gives up messages that wait for their next attempt or their rate, the last
// ones first, of one tenant unless that is nil, while there is too much; those of
// keys that are read by themselves only if the others do not suffice.
func (q *queue) forget(of *tenant, over func() bool) {
	if !over() {
		return
	}
	may := func(it *item) bool { return of == nil || it.tenant == of }
	q.forgetTimers(over, func(it *item) bool { return may(it) && (it.key == nil || it.key.behind == nil) })
	q.forgetTimers(over, may)
	q.forgetHeld(over, may)
}

func (q *queue) forgetTimers(over func() bool, may func(*item) bool) {
	if !over() {
		return
	}
	slices.SortFunc(q.timers, func(a, b *item) int { return b.due.Compare(a.due) })
	q.timers = slices.DeleteFunc(q.timers, func(it *item) bool {
		return over() && may(it) && q.forgetItem(it, it.due)
	})
	heap.Init(&q.timers)
}

// forgetItem gives up a message and all that is behind it, to be read again when
// it is due. It reports whether it could: not if some of its key is in flight.
func (q *queue) forgetItem(it *item, due time.Time) bool {
	s, k := it.shard, it.key
	switch {
	case k == nil:
		q.discharge(it)
		s.forgotten.note(1, due)
		return true
	case k.listed != it || k.inFlight > 0 || slices.ContainsFunc(k.items, func(it *item) bool { return it.state == dying }):
		return false
	}
	for _, waiting := range k.items {
		q.discharge(waiting)
	}
	s.forgotten.note(len(k.items), due)
	if s.forgotten.keys == nil {
		s.forgotten.keys = map[uint64]struct{}{}
	}
	before := s.forgotten.size()
	s.forgotten.keys[q.hash(k.name)] = struct{}{}
	q.hashes += s.forgotten.size() - before
	k.listed = nil
	delete(s.keys, k.name)
	if st := k.behind; st != nil {
		st.shards = 0
		q.streams = slices.DeleteFunc(q.streams, func(other *stream) bool { return other == st })
	}
	return true
}

// reread lets the shards be read from the start whose forgotten messages are due.
// It returns how long until there is another one, zero if there is none.
func (q *queue) reread() (wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	dropped := false
	for i := range q.shards {
		s := &q.shards[i]
		if s.forgotten.rows == 0 || !s.owned || s.fate != keep {
			continue
		}
		if left := time.Until(s.forgotten.rereadAt()); left > 0 {
			if wait == 0 || left < wait {
				wait = left
			}
			continue
		}
		q.drop(s, restart)
		dropped = true
	}
	if dropped {
		q.dropVoid()
	}
	return wait
}
