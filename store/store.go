// Package store holds the words by which a relay and a store speak of pending
// messages: shards and their leases, where a reader stands, the rows it gets,
// and what became of them; and what a row of an inbox may hold. The stores themselves are the packages below it; what
// each must do is said at relay.Store and checked by package storetest.
package store

import (
	"errors"
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
	// database's clock; zero or less for one that is due.
	RetryIn time.Duration
}

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

// ClaimRequest renews a relay's leases and asks for its share of the others.
type ClaimRequest struct {
	Owner   string        // the relay's own id, unique to the process and run
	Name    string        // for people: host and process id
	TTL     time.Duration // how long the leases hold, from now by the database's clock
	Release ShardSet      // shards to give back first; all of them are settled
	Most    int           // the greatest number of shards to own; 0 for no limit of one's own
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
	Relays int     // how many relays are alive, this one included
}

// Failure records that a message was refused.
type Failure struct {
	Ref      Ref
	Lease    Lease         // under which it was published
	Attempts int           // the count to store
	Error    string        // what the broker said; the store may shorten it to 2,000 bytes
	RetryIn  time.Duration // how long it waits, from now by the database's clock
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
