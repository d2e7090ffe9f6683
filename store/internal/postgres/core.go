package postgres

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/outbox-go/outbox/store"
)

// Shards is the number of shards; the column shard of the table counts on it.
const Shards = 64

// Core does a relay's work on a database, for one route, and an administrator's,
// for all of them. It is safe for concurrent use.
type Core struct {
	db    DB
	names *Names
	wakes Wakes

	// within tells that db is a transaction of the caller's.
	within bool

	// leased tells that the route's leases have been made.
	leased atomic.Bool

	reads                        readSQL
	sizes                        *sizes
	freeze                       string
	settle                       settleSQL
	failLock, fail, bury, parked string
	claim                        claimSQL
	nextDue, promote, dispatch   string
	purgeInbox, countInbox       string
}

// Wakes says how a store's relays learn of commits.
type Wakes int

const (
	// Notified relays listen; while one of them is idle, commits notify.
	Notified Wakes = iota
	// Polling relays never need a commit to notify.
	Polling
)

// NewCore returns a Core for the route of names; it connects to nothing.
func NewCore(db DB, names *Names, wakes Wakes) *Core {
	return &Core{
		db:         db,
		names:      names,
		wakes:      wakes,
		reads:      newReadSQL(names, false),
		sizes:      &sizes{},
		freeze:     names.SQL(freezeSQL),
		settle:     newSettleSQL(names),
		failLock:   names.SQL(failLockSQL),
		fail:       names.SQL(failSQL),
		bury:       names.SQL(burySQL),
		parked:     names.SQL(parkedSQL),
		claim:      newClaimSQL(names),
		nextDue:    names.SQL(nextDueSQL),
		promote:    names.SQL(promoteSQL),
		dispatch:   names.SQL(dispatchSQL),
		purgeInbox: names.SQL(purgeInboxSQL),
		countInbox: names.SQL(countInboxSQL),
	}
}

// Route returns a Core for another route of the same database.
func (c *Core) Route(name string) *Core { return NewCore(c.db, c.names.WithRoute(name), c.wakes) }

// id is what stands for a relay in the tables: of each route another one, should it
// drain several.
func (c *Core) id(owner string) string {
	if c.names.Route == "" {
		return owner
	}
	return owner + "@" + c.names.Route
}

// carried are the columns that a message keeps wherever it goes.
const carried = `id, topic, key, tenant, type, version, content_type, headers, payload, created_at, deliver_at, expires_at, route`

// refArrays returns positions and ids, in one order for all relays, so that two that
// settle the same rows, after a take-over, do not lock them crosswise.
func refArrays(refs []store.Ref) (positionArray, idArray string) {
	refs = slices.Clone(refs)
	slices.SortFunc(refs, func(a, b store.Ref) int { return cmp.Compare(a.Position, b.Position) })
	var positions, ids strings.Builder
	positions.Grow(len(refs)*10 + 2)
	ids.Grow(len(refs)*38 + 2)
	for i, ref := range refs {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		positions.WriteByte(sep)
		positions.WriteString(strconv.FormatInt(ref.Position, 10))
		ids.WriteByte(sep)
		ids.WriteString(ref.ID)
	}
	positions.WriteByte('}')
	ids.WriteByte('}')
	return positions.String(), ids.String()
}

// Check reports what the database lacks for a relay.
func (c *Core) Check(ctx context.Context) error { return Check(ctx, c.db, c.names) }
