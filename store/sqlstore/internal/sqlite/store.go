// Package sqlite is sqlstore's part for SQLite: the schema, the statements and
// the way to hear of commits. It knows no driver.
//
// SQLite lets one transaction write at a time, and the first INSERT of a
// transaction makes it that one until it has ended. Positions therefore become
// visible in their order, and a reader's cursor is a position.
package sqlite

import (
	"database/sql"
	"math"
	"time"
)

// Store does the work of an outbox on a database, for the relays of one route. It
// is safe for concurrent use.
type Store struct {
	db    *sql.DB
	names *Names
	text  *statements
	route string

	writer chan struct{} // holds one element while a writer of this process is at work
}

// statements are the texts that are used again and again.
type statements struct {
	insert, insertWhole, schedule                 *insertion
	lockWriter                                    prepared
	sequence, stand, read                         string
	settle, keep, fail, die, remove, leaseHeld    string
	newLease, doubt, release, acquire, held       string
	alive, forget, relays, waits, leave           string
	nextDue, promote, promoted, dispatch          string
	inboxInsert, oldInbox, purgeInbox, countInbox string
}

// New returns a store; it connects to nothing.
func New(db *sql.DB, names *Names) *Store {
	return &Store{db: db, names: names, writer: make(chan struct{}, 1), text: &statements{
		insert:      newInsertion(names, insertSQL, rowSQL),
		insertWhole: newInsertion(names, insertWholeSQL, wholeRowSQL),
		schedule:    newInsertion(names, scheduleSQL, scheduledRowSQL),
		lockWriter:  prepared{text: names.sql(lockWriterSQL)},
		sequence:    names.sql(sequenceSQL),
		stand:       names.sql(standSQL),
		read:        names.sql(readSQL),
		settle:      names.sql(settleSQL),
		keep:        names.sql(keepSQL),
		fail:        names.sql(failSQL),
		die:         names.sql(dieSQL),
		remove:      names.sql(removeSQL),
		leaseHeld:   names.sql(leaseHeldSQL),
		newLease:    names.sql(newLeaseSQL),
		doubt:       names.sql(doubtSQL),
		release:     names.sql(releaseSQL),
		acquire:     names.sql(acquireSQL),
		held:        names.sql(heldSQL),
		alive:       names.sql(aliveSQL),
		forget:      names.sql(forgetSQL),
		relays:      names.sql(relaysSQL),
		waits:       names.sql(waitsSQL),
		leave:       names.sql(leaveSQL),
		nextDue:     names.sql(nextDueSQL),
		promote:     names.sql(promoteSQL),
		promoted:    names.sql(promotedSQL),
		dispatch:    names.sql(dispatchSQL),

		inboxInsert: names.sql(inboxInsertSQL),
		oldInbox:    names.sql(oldInboxSQL),
		purgeInbox:  names.sql(purgeInboxSQL),
		countInbox:  names.sql(countInboxSQL),
	}}
}

// Route returns a view of the same outbox for the relays of a route.
func (s *Store) Route(name string) *Store {
	view := *s
	view.route = name
	return &view
}

// Shards returns 1: there is one writer, so there is one order.
func (s *Store) Shards() int { return 1 }

// onlyShard is the one shard.
const onlyShard uint8 = 0

// duration turns microseconds into a duration, the greatest one if they are too
// many.
func duration(micros int64) time.Duration {
	const most = math.MaxInt64 / int64(time.Microsecond)
	switch {
	case micros > most:
		return math.MaxInt64
	case micros < -most:
		return math.MinInt64
	}
	return time.Duration(micros) * time.Microsecond
}

// moment turns microseconds since 1970 into a time, 0 into none.
func moment(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}
