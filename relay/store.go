package relay

import (
	"context"

	"github.com/outbox-go/outbox/store"
)

// Store is what a relay drains. All methods are safe for concurrent use, by
// several relays in several processes too, and use the database's clock.
// Package storetest checks what is said here.
type Store interface {
	// Shards returns the number of shards, 1 to [store.MaxShards].
	Shards() int

	// Check reports, all at once, what the database lacks for the store to work:
	// tables, columns, rights, as a [*store.MissingError]. It changes nothing. Any
	// other error means that the database could not be asked.
	Check(ctx context.Context) error

	// Claim, in one transaction: gives back what the request releases, notes
	// that the relay is alive, renews all leases that the owner still holds (also
	// expired ones that nobody has taken), takes free and expired ones up to the
	// owner's even share, and says what it then holds. Shares differ by at most
	// one among the relays that are alive.
	Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error)

	// Leave gives back everything and forgets the owner, so that the others need
	// not wait for the leases to expire.
	Leave(ctx context.Context, owner string) error

	// Read returns a page for each request, all of them of one snapshot of the
	// database when there are several. Following a cursor from the start, with
	// the same shards and keys, each committed row is returned exactly once,
	// however late its transaction commits and whatever its position; within
	// what became visible together, in the order of positions. It returns
	// [store.ErrCursorVoid] when a cursor cannot be followed, because the
	// database crashed or is another one.
	Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error)

	// Settle removes messages that the broker has confirmed. It is right whoever
	// owns the shard by now, and ignores rows that are gone.
	Settle(ctx context.Context, refs []store.Ref) error

	// Fail stores attempts, last error and waiting time of refused messages that
	// are still pending, in one transaction. If any of the leases is no longer
	// held under its token, it writes nothing and returns [store.ErrLeaseLost].
	Fail(ctx context.Context, failures []store.Failure) error

	// Listen calls wake, which does not block, soon after messages were
	// committed, as far as the store can tell: a call too many or too few does no
	// harm, since the relay also polls. It restores its connection by itself,
	// calling wake each time, and returns nil when ctx ends, or
	// [store.ErrPollOnly] at once if the store has no way to listen.
	Listen(ctx context.Context, wake func()) error
}

// Armer is a [Store] whose notifications cost the emitters something while they
// are armed. Armed is the state that it starts in. A relay that finds work with
// each read disarms; the notifications stop when every relay that is alive has
// disarmed. Arm returns the Next of a snapshot taken after the change: a
// transaction that began before it may commit without notifying.
type Armer interface {
	Arm(ctx context.Context, owner string, armed bool) (next uint64, err error)
}
