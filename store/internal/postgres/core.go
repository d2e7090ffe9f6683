package postgres

import (
	"context"
	"sync/atomic"
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

// Check reports what the database lacks for a relay.
func (c *Core) Check(ctx context.Context) error { return Check(ctx, c.db, c.names) }
