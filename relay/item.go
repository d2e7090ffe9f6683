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
	tenant *tenant
	rule   *rule // nil if its rate is not bounded
	size   int
	due    time.Time // not to be sent before; zero for at once
	until  time.Time // not to be sent from then on; zero for no end
	sent   time.Time
	state  itemState
	queued bool   // stands in one of the lists, though perhaps not the one listed of its key
	held   bool   // waits for its rule
	vain   bool   // has probed in vain: others are to probe before it
	mark   string // of its commit, if it was handed over and no reader has passed it
	failed uint32 // how many failures were noted; only the last one counts
}

type itemState uint8

const (
	waiting itemState = iota
	inFlight
	confirmed
	returned // not confirmed, to be sent again
	dying    // to become a dead letter, once that is written down
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

	parked map[store.Key]struct{} // those of shards whose parked keys were asked for together; nil if unknown
	doubt  int64                  // greatest position that may have been sent without an answer
	told   int64                  // of doubt, to the store
	last   int64                  // greatest position that was sent

	handed  map[int64]*handed // by position: messages that may yet be read
	resting time.Time         // nothing is handed over until then

	forgotten forgotten
	held      int       // items in memory
	cut       int       // messages left in the store since begun
	begun     time.Time // to be read from the start
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
	listed   *item   // the one that stands in the ready list, among the timers or with its rule
	behind   *stream // reads what did not fit into memory; nil if all of the key is in the queue

	park      bool // its messages join a dead letter of the key, once those in flight are answered
	recording bool // the first inFlight are with the recorder, not with the broker
	enlisted  bool // stands in the recorder's list
}

// waits tells that the next message of a key cannot be sent yet.
func (k *keyQueue) waits(now time.Time) bool {
	next := k.next()
	return next != nil && !k.park && (next.held || now.Before(next.due))
}

// next returns the first item that is not in flight, or nil.
func (k *keyQueue) next() *item {
	if k.inFlight < len(k.items) {
		return k.items[k.inFlight]
	}
	return nil
}

// stream is a reader's place: of some shards, or in them of one key or one tenant
// whose messages were too many to hold.
type stream struct {
	shards store.ShardSet
	key    *keyQueue
	tenant *tenant
	cursor store.Cursor
	more   bool      // another read at once finds more
	asked  time.Time // just before the read that is under way
	read   time.Time // just before the last one that is over
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
