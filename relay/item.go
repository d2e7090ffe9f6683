package relay

import (
	"time"

	"github.com/outbox-go/outbox/store"
)

// item is a message that was read and is not yet settled.
type item struct {
	row    store.Row
	shard  *shard
	gen    int       // of the shard, when it was read: void if the shard has another
	key    *keyQueue // nil for a message without order
	epoch  *epoch
	size   int
	due    time.Time // not to be sent before; zero for at once
	sent   time.Time
	state  itemState
	queued bool // stands in the ready list or among the timers, though perhaps not the one listed of its key
}

type itemState uint8

const (
	waiting itemState = iota
	inFlight
	confirmed
	returned // not confirmed, to be sent again
)

// itemOverhead is roughly what an item takes beside its message's variable parts.
const itemOverhead = 480

// void tells that the shard was lost, given back or begun anew since the item was
// read.
func (it *item) void() bool { return it.gen != it.shard.gen }

func (it *item) ref() store.Ref { return store.Ref{Position: it.row.Position, ID: it.row.ID} }

// epoch is what the rows of one read became visible in, so that reading can go on
// behind any of them.
type epoch struct {
	seen, until string
}

func (it *item) cursorBehind() store.Cursor {
	return store.Cursor{Seen: it.epoch.seen, Epoch: it.epoch.until, After: it.row.Position}
}

// shard is one of the store's shards, owned or not.
type shard struct {
	lease store.Lease
	owned bool
	fate  fate
	gen   int
	open  int // messages in flight, and answers that are not yet written down
	keys  map[store.Key]*keyQueue

	forgotten forgotten
}

// fate is what happens to a shard when nothing of it is open any more.
type fate uint8

const (
	keep    fate = iota
	release      // give it back
	restart      // read it from the start
)

// keyQueue holds the messages of one key, in order. The first inFlight of them are
// with the broker; of those, answered have their answer.
type keyQueue struct {
	name     store.Key
	shard    *shard
	items    []*item
	inFlight int
	answered int
	failed   bool    // one in flight was not confirmed: send no more until all are answered
	listed   *item   // the one that stands in the ready list or among the timers
	behind   *stream // reads what did not fit into memory; nil if all of the key is in the queue
}

// next returns the first item that is not in flight, or nil.
func (k *keyQueue) next() *item {
	if k.inFlight < len(k.items) {
		return k.items[k.inFlight]
	}
	return nil
}

// stream is a reader's place: of some shards, or of one key whose messages were
// too many to hold.
type stream struct {
	shards store.ShardSet
	key    *keyQueue
	cursor store.Cursor
	more   bool // another read at once finds more
}

// deque is a double-ended queue of items.
type deque struct {
	front []*item // reversed
	back  []*item
	head  int
}

func (d *deque) len() int { return len(d.front) + len(d.back) - d.head }

func (d *deque) pushBack(it *item) { d.back = append(d.back, it) }

func (d *deque) pushFront(it *item) { d.front = append(d.front, it) }

func (d *deque) pop() *item {
	if n := len(d.front); n > 0 {
		it := d.front[n-1]
		d.front[n-1] = nil
		d.front = d.front[:n-1]
		return it
	}
	if d.head == len(d.back) {
		return nil
	}
	it := d.back[d.head]
	d.back[d.head] = nil
	d.head++
	switch {
	case d.head == len(d.back):
		d.back, d.head = d.back[:0], 0
	case d.head > 1024 && d.head > len(d.back)/2:
		n := copy(d.back, d.back[d.head:])
		clear(d.back[n:])
		d.back, d.head = d.back[:n], 0
	}
	return it
}

// filter keeps the items for which want returns true, in order.
func (d *deque) filter(want func(*item) bool) {
	var kept []*item
	for it := d.pop(); it != nil; it = d.pop() {
		if want(it) {
			kept = append(kept, it)
		}
	}
	d.back, d.head = kept, 0
}

// timers is a heap of items by due time.
type timers []*item

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].due.Before(t[j].due) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(*item)) }
func (t *timers) Pop() any {
	old := *t
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*t = old[:len(old)-1]
	return it
}
