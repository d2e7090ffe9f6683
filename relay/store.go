package relay

import (
	"context"
	"time"

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
	// one among the relays that are alive. Leases that are locked for more than a
	// moment are left out; if one of them was to be released or has a doubt to be
	// told, all else is done and an error returned: ask again with the same.
	Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error)

	// Leave gives back everything and forgets the owner, so that the others need
	// not wait for the leases to expire. doubt is as in [store.ClaimRequest]; it
	// fails as Claim does.
	Leave(ctx context.Context, owner string, doubt map[uint8]int64) error

	// Read returns a page for each request, all of them of one snapshot of the
	// database when there are several. Following a cursor from the start, with
	// the same shards and keys, each committed row is returned exactly once,
	// however late its transaction commits and whatever its position; within
	// what became visible together, in the order of positions. It returns
	// [store.ErrCursorVoid] when a cursor cannot be followed, because the
	// database crashed or is another one.
	Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error)

	// Settle removes messages that the broker has confirmed, into the history if
	// keep is set. It is right whoever owns the shard by now, and ignores rows that
	// are gone.
	Settle(ctx context.Context, refs []store.Ref, keep bool) error

	// Fail stores attempts, last error and waiting time of messages that are still
	// pending, or moves them to the dead letters, all in one transaction. If any of
	// the leases is no longer held under its token, it writes nothing and returns
	// [store.ErrLeaseLost].
	Fail(ctx context.Context, failures []store.Failure) error

	// Parked returns the keys of these shards that are parked: those with a dead
	// letter that was stored with Failure.Park and is neither redriven nor
	// discarded. The owner of a shard knows of all changes but those that give the
	// lease a new token.
	Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error)

	// Promote makes up to limit scheduled messages pending that are due, in the
	// order in which they are due and then of their emits, which is the order of
	// their new positions. Of several callers at once one works, and the others
	// move nothing.
	Promote(ctx context.Context, limit int) (store.Promotion, error)

	// Dispatch has pending messages take routes: each is replaced, in one
	// transaction, by a copy for each route, in their order, with new positions.
	// What is no longer pending is left out.
	Dispatch(ctx context.Context, dispatches []store.Dispatch) error

	// Pauses returns what is held back.
	Pauses(ctx context.Context) ([]store.Pause, error)

	// PurgeSent deletes from the history; see [store.Admin].
	PurgeSent(ctx context.Context, age time.Duration, limit int) (int, error)

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
