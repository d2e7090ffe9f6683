// Package store holds the words by which a relay and a store speak of pending
// messages: shards and their leases, where a reader stands, the rows it gets,
// and what became of them; and what a row of an inbox may hold. The stores themselves are the packages below it; what
// each must do is said at relay.Store and checked by package storetest.
package store

import (
	"errors"
	"math"
	"math/bits"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
)

// MaxShards is the greatest number of shards that a store can have.
const MaxShards = 64

// ShardSet is a set of shards, one bit for each.
type ShardSet uint64

// FirstShards returns the set of the shards 0 to n-1.
func FirstShards(n int) ShardSet {
	if n >= MaxShards {
		return ^ShardSet(0)
	}
	return ShardSet(1)<<n - 1
}

// Has reports whether shard is in s.
func (s ShardSet) Has(shard uint8) bool { return s>>shard&1 == 1 }

// With returns s and shard.
func (s ShardSet) With(shard uint8) ShardSet { return s | 1<<shard }

// Without returns s less those of other.
func (s ShardSet) Without(other ShardSet) ShardSet { return s &^ other }

// Len returns the number of shards in s.
func (s ShardSet) Len() int { return bits.OnesCount64(uint64(s)) }

// Slice returns the shards in ascending order.
func (s ShardSet) Slice() []int16 {
	list := make([]int16, 0, s.Len())
	for rest := uint64(s); rest != 0; rest &= rest - 1 {
		list = append(list, int16(bits.TrailingZeros64(rest))) //nolint:gosec // below 64
	}
	return list
}

// Key names an order: the messages of one tenant and key, all in one shard.
type Key struct {
	Tenant, Key string
}

// Row is a pending message as a store hands it out.
type Row struct {
	outbox.Message

	// Shard is computed by the database from the key, or from the position of a
	// message without one.
	Shard uint8

	// RetryIn is how long a message that was refused must still wait, by the
	// database's clock; zero or less for one that is due, [Never] for one that is
	// blocked until somebody acts.
	RetryIn time.Duration

	// ExpiresIn is how long until Message.ExpiresAt, by the database's clock; zero
	// or less when it has passed. It means nothing if ExpiresAt is zero.
	ExpiresIn time.Duration
}

// Never is the waiting time of a blocked message.
const Never = time.Duration(math.MaxInt64)

// Ref names a row: by position and id together, because a position can be given
// again after a restore.
type Ref struct {
	Position int64
	ID       string
}

// Cursor tells where a reader stands: all that is visible in the snapshot Seen
// has been handed out, and of what became visible between Seen and Epoch all up
// to the position After. The zero Cursor stands at the start. A store without
// snapshots uses After alone. The relay keeps cursors, and only a store looks
// into them.
type Cursor struct {
	Seen  string
	Epoch string
	After int64
}

// ReadRequest asks for the next rows behind a cursor.
type ReadRequest struct {
	Cursor Cursor

	// Shards limits the rows to these; never empty.
	Shards ShardSet

	// Only, if not nil, limits the rows to those of this key.
	Only *Key

	// Except leaves out the rows of these keys.
	Except []Key

	// OnlyTenant, if not nil, limits the rows to those of this tenant.
	OnlyTenant *string

	// ExceptTenants leaves out the rows of these tenants.
	ExceptTenants []string

	// Limit is the greatest number of rows, at least 1.
	Limit int

	// MaxBytes ends the page early, after at least one row, when the sizes of
	// its rows exceed it.
	MaxBytes int
}

// Page is what a read found, in the order in which it may be sent. All its rows
// are of one epoch, so that a reader can go on behind any of them: with the Seen of
// the cursor it asked with, the Epoch of Page.Cursor (its Seen if it has none) and
// After the row's position.
type Page struct {
	Rows   []Row
	Cursor Cursor // where the next read goes on

	// More tells that the reader should read again at once: the page ended at a
	// limit, or at the end of what Epoch stood for. When the pages of one call to
	// Read all have More false, their cursors are equal, and a single reader can
	// go on for all of them.
	More bool

	// Horizon and Next are the bounds of the transactions that were running
	// when the page was read: all that began before Horizon had ended, none had
	// begun from Next on. Zero where the store has nothing like it.
	Horizon, Next uint64
}

// Commit is what one transaction of this process has committed: all that it wrote
// from its beginning up to some message, in order.
type Commit struct {
	Rows    []Row
	Written time.Time // after the last of them was written, and before the commit
	Mark    string    // stands for the transaction, for the store to know
}

// ClaimRequest renews a relay's leases and asks for its share of the others.
type ClaimRequest struct {
	Owner   string        // the relay's own id, unique to the process and run
	Name    string        // for people: host and process id
	TTL     time.Duration // how long the leases hold, from now by the database's clock
	Release ShardSet      // shards to give back first; all of them are settled
	Most    int           // the greatest number of shards to own; 0 for no limit of one's own

	// Guest takes shards that nobody holds and has no even share: the relays do not
	// make room for it, and do not see it among them. Its Target is what it holds.
	Guest bool

	// Doubt says, for shards that are held, up to which position a message may have
	// been sent without an answer. The store keeps the greatest for each shard, for
	// [Admin.Withdraw]; when a lease expires unreleased, all positions of that time
	// are in doubt. Nil if there is nothing to say.
	Doubt map[uint8]int64

	// Rate is how many messages a second were confirmed of late, for people.
	Rate float64
}

// Lease is the right to drain a shard, until it expires. Token differs each time
// that a shard changes hands.
type Lease struct {
	Shard uint8
	Token int64
}

// Claim is the answer to a [ClaimRequest].
type Claim struct {
	Leases []Lease // all that the owner holds now
	Target int     // the owner's even share; it should give back what exceeds it
	Relays int     // how many relays are alive, this one included, guests left out

	// Wanted are shards among Leases that somebody waits for, to withdraw a
	// message: the owner gives them back as soon as nothing of them is open. Until
	// they are taken, or a time has passed, no claim acquires them.
	Wanted ShardSet
}

// Failure records what is to become of a message that was not sent: it waits, or
// it becomes a dead letter.
type Failure struct {
	Ref      Ref
	Lease    Lease         // under which it was published
	Attempts int           // the count to store
	Error    string        // what the broker said; the store may shorten it to 2,000 bytes
	RetryIn  time.Duration // how long it waits, from now by the database's clock; [Never]: until somebody acts

	// Dead, if not empty, moves the message to the dead letters for this reason.
	Dead Reason

	// Park keeps the dead letter's key parked: its successors join it, until all of
	// the key are redriven or discarded. For messages with a key alone.
	Park bool
}

// Reason is why a message is a dead letter.
type Reason string

// Reasons.
const (
	Exhausted Reason = "exhausted" // refused as often as is allowed
	Invalid   Reason = "invalid"   // can never be sent
	Expired   Reason = "expired"   // not sent before ExpiresAt
	Parked    Reason = "parked"    // behind another dead letter of its key
	Unrouted  Reason = "unrouted"  // no route takes it
)

// Promotion is what became of scheduled messages.
type Promotion struct {
	Moved int           // messages that were due and are pending now
	Next  time.Duration // until the next one is due, by the database's clock; zero or less if it is, [Never] if there is none
}

// Dispatch has a message take routes.
type Dispatch struct {
	Ref    Ref
	Routes []string // each of them once, at least one
}

// Pause holds messages back. The zero Pause is of all.
type Pause struct {
	Topic  string // a pattern; empty for any topic
	Tenant string // with Key
	Key    string // empty for any key
}

// ErrLeaseLost is returned by a write that the lease no longer allows.
var ErrLeaseLost = errors.New("store: lease lost")

// ErrPollOnly is returned by a store that cannot tell when messages are
// committed.
var ErrPollOnly = errors.New("store: no notifications, polling only")

// ErrCursorVoid is returned by a read whose cursor no longer means anything: the
// database crashed, was restored, or is another one. The reader starts again.
var ErrCursorVoid = errors.New("store: cursor void, read from the start")

// MissingError lists what a relay needs and the database lacks. It is not mended
// by trying again.
type MissingError struct {
	Missing []string // one line each, with the object's full name
}

func (e *MissingError) Error() string {
	return "the database lacks what the outbox needs:\n  " + strings.Join(e.Missing, "\n  ") +
		"\nrun `outbox migrate` as a role that may create it, or apply what `outbox migrate --print` prints and grant the rights"
}

// Shares deals shards out to relays, in their order, as evenly as their limits
// allow: most holds for each the greatest number that it takes, zero or less for
// any.
func Shares(shards int, most []int) []int {
	shares := make([]int, len(most))
	for dealt := true; shards > 0 && dealt; {
		dealt = false
		for i := range shares {
			if shards > 0 && (most[i] <= 0 || shares[i] < most[i]) {
				shares[i]++
				shards--
				dealt = true
			}
		}
	}
	return shares
}
