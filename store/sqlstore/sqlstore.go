// Package sqlstore keeps the outbox in a database by database/sql. It emits in
// the caller's *sql.Tx and is drained by a relay. It is a worker's inbox too. It
// imports no driver: bring the one that you use.
//
//	db, err := sql.Open("sqlite", sqlstore.SQLiteDSN("app.db")) // modernc.org/sqlite
//	s := sqlstore.New(db, sqlstore.SQLite, nil)
//	err = s.Migrate(ctx)
//	ob := outbox.New(s)
//
// Programs in other languages emit with a plain INSERT in the transaction of
// their business data. Only topic and payload are required:
//
//	INSERT INTO outbox_message (topic, key, payload) VALUES ('user.created', '123', '{"id": 123}')
//
// What is to be sent later goes into another table; on SQLite all times are
// microseconds since 1970:
//
//	INSERT INTO outbox_scheduled (topic, payload, deliver_at) VALUES ('bill.due', '{}', 1893456000000000)
package sqlstore

import (
	"context"
	"database/sql"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/sqlstore/internal/sqlite"
)

// DefaultTablePrefix is the table prefix on SQLite unless [Config] has another.
const DefaultTablePrefix = sqlite.DefaultPrefix // "outbox_"

// Config changes the defaults of [New].
type Config struct {
	// Schema holds the tables and functions on PostgreSQL. Defaults to "outbox"; at
	// most 63 bytes. SQLite has none.
	Schema string

	// TablePrefix goes before the name of each table: message, scheduled, dead, sent,
	// pause, lease, relay, inbox and migration. Defaults to "outbox_" on SQLite and to none on PostgreSQL; at most
	// 32 bytes. Both names are quoted, so that any characters will do. With
	// different ones, several outboxes share a database.
	TablePrefix string
}

func (c *Config) orDefault() *Config {
	if c == nil {
		return &Config{}
	}
	return c
}

// Store is an outbox in a database. It is safe for concurrent use, and any number
// of processes can have one on the same database.
type Store struct {
	backend backend
}

// New returns a store on db, which stays the caller's to close. It connects to
// nothing; a config may be nil. It panics if the config or the dialect cannot be
// used: see [Open].
func New(db *sql.DB, d Dialect, config *Config) *Store {
	s, err := Open(db, d, config)
	if err != nil {
		panic("sqlstore: " + err.Error())
	}
	return s
}

// Open is [New] for a config that comes from a user: it returns all that is
// wrong with it.
func Open(db *sql.DB, d Dialect, config *Config) (*Store, error) {
	b, err := d.backend(db, config.orDefault())
	if err != nil {
		return nil, err
	}
	return &Store{backend: b}, nil
}

// Migrate creates or upgrades the tables, each version in a transaction. Several
// processes may do so at once. It writes nothing when all is there.
func (s *Store) Migrate(ctx context.Context) error { return s.backend.Migrate(ctx) }

// Insert writes msgs in tx: all or, with an error, none. It neither commits nor
// rolls back.
func (s *Store) Insert(ctx context.Context, tx *sql.Tx, msgs []outbox.Message) error {
	return s.backend.Insert(ctx, tx, msgs)
}

// InTx runs fn in a transaction, commits it when fn returns nil, rolls it back
// otherwise, also when fn panics, and wakes the relay after the commit. On SQLite
// the transaction has the write lock from its start, so that it cannot fail for
// having read first. The writers of one Store queue for it, in their order; behind
// those of other processes InTx waits as long as the driver's time-out says and
// 15 seconds more. In fn, use tx alone: another transaction that writes would wait
// for this one.
func (s *Store) InTx(ctx context.Context, fn func(tx *sql.Tx) error) error {
	return s.backend.InTx(ctx, fn)
}

// Wake tells the relays of this process, soon and without waiting, that messages
// were committed.
func (s *Store) Wake() { s.backend.Wake() }

// Shards returns the number of shards: 1 on SQLite, 64 on PostgreSQL.
func (s *Store) Shards() int { return s.backend.Shards() }

// Check returns a [*store.MissingError] that lists all that the database lacks:
// tables, columns, a newer version of SQLite, write-ahead logging, the right to
// write. It changes nothing.
func (s *Store) Check(ctx context.Context) error { return s.backend.Check(ctx) }

// Claim renews a relay's leases and takes free ones up to its share.
func (s *Store) Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error) {
	return s.backend.Claim(ctx, r)
}

// Leave gives back a relay's leases and forgets it.
func (s *Store) Leave(ctx context.Context, owner string, doubt map[uint8]int64) error {
	return s.backend.Leave(ctx, owner, doubt)
}

// Read returns a page for each request, all of one snapshot of the database. A
// cursor that is ahead of the database, because that is another one or was
// restored, is [store.ErrCursorVoid].
func (s *Store) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	return s.backend.Read(ctx, requests...)
}

// Settle removes messages that the broker has confirmed, in one transaction, and
// keeps them in the history if told so.
func (s *Store) Settle(ctx context.Context, refs []store.Ref, keep bool) error {
	return s.backend.Settle(ctx, refs, keep)
}

// Fail stores that messages wait for another attempt, or moves them to the dead
// letters, in one transaction; or it does nothing and returns [store.ErrLeaseLost].
func (s *Store) Fail(ctx context.Context, failures []store.Failure) error {
	return s.backend.Fail(ctx, failures)
}

// Parked returns the keys whose dead letters their successors are to join.
func (s *Store) Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error) {
	return s.backend.Parked(ctx, shards)
}

// Promote makes up to limit scheduled messages pending that are due. On SQLite it
// takes the write lock only if there are some.
func (s *Store) Promote(ctx context.Context, limit int) (store.Promotion, error) {
	return s.backend.Promote(ctx, limit)
}

// Dispatch replaces pending messages by a copy for each of their routes, in one
// transaction.
func (s *Store) Dispatch(ctx context.Context, dispatches []store.Dispatch) error {
	return s.backend.Dispatch(ctx, dispatches)
}

// Listen calls wake after commits, until ctx ends. On SQLite those that this
// process tells of, by InTx or Wake on the same *sql.DB, are known at once. For all
// others it looks whether there is a new position, every 10 milliseconds while
// there are some and every 40 when it is quiet, on a connection of its own unless
// the pool is limited to one. On PostgreSQL it returns [store.ErrPollOnly]:
// database/sql has no notifications.
func (s *Store) Listen(ctx context.Context, wake func()) error { return s.backend.Listen(ctx, wake) }
