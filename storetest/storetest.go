// Package storetest is the conformance suite of stores: what outbox.Store and
// relay.Store say in words, as tests. Each store runs it whole and declares where
// it differs:
//
//	func TestConformance(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) storetest.Harness[*sql.Tx] { ... })
//	}
//
// It depends on the standard library alone.
package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// Store is what the suite tests: a store's two sides in one value.
type Store[Tx any] interface {
	outbox.Store[Tx]
	Drained
	store.Admin
}

// Drained has the methods of relay.Store, where they are described. It stands
// here so that a store's tests need not build the relay.
type Drained interface {
	Shards() int
	Check(ctx context.Context) error
	Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error)
	Leave(ctx context.Context, owner string, doubt map[uint8]int64) error
	Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error)
	Settle(ctx context.Context, refs []store.Ref, keep bool) error
	Fail(ctx context.Context, failures []store.Failure) error
	Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error)
	Promote(ctx context.Context, limit int) (store.Promotion, error)
	Dispatch(ctx context.Context, dispatches []store.Dispatch) error
	Pauses(ctx context.Context) ([]store.Pause, error)
	PurgeSent(ctx context.Context, age time.Duration, limit int) (int, error)
	Listen(ctx context.Context, wake func()) error
}

// Once has the methods of relay.OnceStore, where they are described.
type Once interface {
	Shards() int
	Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error)
	Leave(ctx context.Context, owner string, doubt map[uint8]int64) error
	Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error)
	Settle(ctx context.Context, refs []store.Ref, keep bool) error
	Fail(ctx context.Context, failures []store.Failure) error
	Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error)
}

// armer has the method of relay.Armer.
type armer interface {
	Arm(ctx context.Context, owner string, armed bool) (next uint64, err error)
}

// Inbox has the methods of worker.Inbox, where they are described, and those by
// which an inbox is looked after.
type Inbox[Tx any] interface {
	Once(ctx context.Context, consumer, id string, fn func(ctx context.Context, tx Tx) error) (first bool, err error)
	Transient(err error) bool
	PurgeInbox(ctx context.Context, age time.Duration, limit int) (int, error)

	// CountInbox returns how many rows PurgeInbox would delete without a limit.
	CountInbox(ctx context.Context, age time.Duration) (int, error)

	// CheckInbox returns a store.MissingError that lists what the database lacks.
	CheckInbox(ctx context.Context) error
}

// Harness is a store with all that a test needs around it. The data behind it
// belong to one test alone and begin empty. Tests run in parallel, and one test
// calls the functions from several goroutines.
type Harness[Tx any] struct {
	Features Features

	// Store is the store under test, ready for use. Required.
	Store Store[Tx]

	// Open returns another instance on the same data, with connections of its own
	// if the store has any: the view of a second process. Required.
	Open func(t *testing.T) Store[Tx]

	// Begin, Commit and Rollback handle a transaction as the store's users do.
	// Required.
	Begin    func(ctx context.Context) (Tx, error)
	Commit   func(ctx context.Context, tx Tx) error
	Rollback func(ctx context.Context, tx Tx) error

	// Insert writes a row of business data, in tx, into a table of the test's own.
	// It must return an error for an id that is there already. Count returns how
	// many rows are committed. Required.
	Insert func(ctx context.Context, tx Tx, id string) error
	Count  func(ctx context.Context) (int, error)

	// Savepoint runs fn in a part of tx that is rolled back when fn returns an
	// error, which it then returns. Nil if there are no such parts.
	Savepoint func(ctx context.Context, tx Tx, fn func(tx Tx) error) error

	// Empty returns a store on a database that nobody has migrated, and the
	// function that migrates it. Nil if the store has no migrations.
	Empty func(t *testing.T) (s Store[Tx], migrate func(ctx context.Context) error)

	// Route returns the view that s has of a route, which is what its method of that
	// name returns. s is Store, what Open returned, or such a view. Required.
	Route func(s Store[Tx], name string) Store[Tx]

	// Within returns what drains Store's route "" inside tx. Nil if the store has
	// nothing like it.
	Within func(tx Tx) Once

	// AgeSent moves the time at which all messages of the history were sent into the
	// past. Required.
	AgeSent func(ctx context.Context, by time.Duration) error

	// AgeInbox moves the time of all rows of the inbox into the past. Required
	// unless the store declares that it has none.
	AgeInbox func(ctx context.Context, by time.Duration) error

	// Passing are ways to make the database fail that Transient must recognize, by
	// name.
	Passing map[string]func(t *testing.T) PassingFault[Tx]
}

// PassingFault is a fault that passes: Fail, in a transaction of Store's, makes the
// database fail and returns its error. The next time it succeeds.
type PassingFault[Tx any] struct {
	Store Store[Tx]
	Fail  func(ctx context.Context, tx Tx) error
}

// Features are a store's declared differences. The zero value is a store of many
// shards, with concurrent writers, that tells all processes of commits.
type Features struct {
	// Shards is the number of shards that the store must have. Required.
	Shards int

	// SingleWriter says that one transaction writes at a time and that others wait
	// for it.
	SingleWriter bool

	// Notifies says who is told of commits.
	Notifies Notifies

	// Snapshots says that pages have a Horizon and a Next.
	Snapshots bool

	// NoInbox says that the store has none; else Store must implement Inbox.
	NoInbox bool

	// Missing are words that the error of Check on a database that was never
	// migrated must contain: the names of tables, above all.
	Missing []string
}

// Notifies says whose Listen is told of commits.
type Notifies int

const (
	// NotifiesAll tells every instance on the same data.
	NotifiesAll Notifies = iota
	// NotifiesSelf tells the instance that committed.
	NotifiesSelf
	// NotifiesNone tells nobody: Listen returns store.ErrPollOnly.
	NotifiesNone
)

// Run runs the suite, each case with a harness of its own from open.
func Run[Tx any](t *testing.T, open func(t *testing.T) Harness[Tx]) {
	for _, c := range cases[Tx]() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t, open(t))
			if c.unless != nil {
				if reason := c.unless(&e.Harness); reason != "" {
					t.Skip("the store declares that it has " + reason)
				}
			}
			c.run(e)
		})
	}
}

type testCase[Tx any] struct {
	name   string
	run    func(e *env[Tx])
	unless func(h *Harness[Tx]) string
}

func cases[Tx any]() []testCase[Tx] {
	var all []testCase[Tx]
	for _, some := range [][]testCase[Tx]{
		emitCases[Tx](), inTxCases[Tx](), readCases[Tx](), limitCases[Tx](), followCases[Tx](),
		tenantCases[Tx](), expiryCases[Tx](),
		settleCases[Tx](), failCases[Tx](), deadCases[Tx](), parkedCases[Tx](), redriveCases[Tx](), discardCases[Tx](), retryCases[Tx](),
		promoteCases[Tx](), historyCases[Tx](), dispatchCases[Tx](), routeCases[Tx](),
		claimCases[Tx](), shareCases[Tx](), guestCases[Tx](), withdrawCases[Tx](), doubtCases[Tx](), withinCases[Tx](),
		listCases[Tx](), pauseCases[Tx](), statsCases[Tx](),
		wakeCases[Tx](), checkCases[Tx](),
		onceCases[Tx](), onceTxCases[Tx](), purgeCases[Tx](), transientCases[Tx](),
	} {
		all = append(all, some...)
	}
	return all
}

func singleWriter[Tx any](h *Harness[Tx]) string {
	if h.Features.SingleWriter {
		return "a single writer"
	}
	return ""
}

func oneShard[Tx any](h *Harness[Tx]) string {
	if h.Features.Shards == 1 {
		return "one shard"
	}
	return ""
}

func noSavepoints[Tx any](h *Harness[Tx]) string {
	if h.Savepoint == nil {
		return "no savepoints"
	}
	return ""
}

func noSnapshots[Tx any](h *Harness[Tx]) string {
	if !h.Features.Snapshots {
		return "no snapshots"
	}
	return ""
}

func noMigrations[Tx any](h *Harness[Tx]) string {
	if h.Empty == nil {
		return "no migrations"
	}
	return ""
}

// all is the set of the harness's shards.
func (e *env[Tx]) all() store.ShardSet { return store.FirstShards(e.Features.Shards) }
