// Package sqlite is sqlstore's part for SQLite: the schema, the statements and
// the way to hear of commits. It knows no driver.
//
// SQLite lets one transaction write at a time, and the first INSERT of a
// transaction makes it that one until it has ended. Positions therefore become
// visible in their order, and a reader's cursor is a position.
package sqlite

import (
	"database/sql"
)

// Store does the work of an outbox on a database. It is safe for concurrent use.
type Store struct {
	db    *sql.DB
	names *Names
	text  statements

	writer chan struct{} // holds one element while a writer of this process is at work
}

// statements are the texts that are used again and again.
type statements struct {
	insert, lockWriter                            string
	sequence, read                                string
	settle, fail, leaseHeld                       string
	release, alive, forget, acquire, held, relays string
	leaveLease, leaveRelay                        string
	inboxInsert, oldInbox, purgeInbox, countInbox string
}

// New returns a store; it connects to nothing.
func New(db *sql.DB, names *Names) *Store {
	return &Store{db: db, names: names, writer: make(chan struct{}, 1), text: statements{
		insert:     names.sql(insertSQL),
		lockWriter: names.sql(lockWriterSQL),
		sequence:   names.sql(sequenceSQL),
		read:       names.sql(readSQL),
		settle:     names.sql(settleSQL),
		fail:       names.sql(failSQL),
		leaseHeld:  names.sql(leaseHeldSQL),
		release:    names.sql(releaseSQL),
		alive:      names.sql(aliveSQL),
		forget:     names.sql(forgetSQL),
		acquire:    names.sql(acquireSQL),
		held:       names.sql(heldSQL),
		relays:     names.sql(relaysSQL),
		leaveLease: names.sql(leaveLeaseSQL),
		leaveRelay: names.sql(leaveRelaySQL),

		inboxInsert: names.sql(inboxInsertSQL),
		oldInbox:    names.sql(oldInboxSQL),
		purgeInbox:  names.sql(purgeInboxSQL),
		countInbox:  names.sql(countInboxSQL),
	}}
}

// Shards returns 1: there is one writer, so there is one order.
func (s *Store) Shards() int { return 1 }

// onlyShard is the one shard.
const onlyShard uint8 = 0
