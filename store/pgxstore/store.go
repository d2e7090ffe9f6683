// Package pgxstore keeps the outbox in PostgreSQL, by jackc/pgx v5. It emits in
// the caller's pgx.Tx and is drained by a relay. It is a worker's inbox too.
// PostgreSQL 13 or later.
//
// Programs in other languages emit in the transaction of their business data, by
// the function or by a plain INSERT, of which only topic and payload are required:
//
//	SELECT outbox.emit('user.created', '{"id": 123}', '123')
//	INSERT INTO outbox.message (topic, key, payload) VALUES ('user.created', '123', convert_to('{"id": 123}', 'UTF8'))
package pgxstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store/internal/postgres"
)

// Config changes the defaults of [New].
type Config struct {
	// Schema holds the outbox's tables and functions. Defaults to "outbox". It is
	// quoted, so any name will do, up to 63 bytes.
	Schema string

	// TablePrefix goes before the name of each table and function. Defaults to
	// none; at most 32 bytes. With a prefix, several outboxes share a schema.
	TablePrefix string

	// ListenURL is the connection that notifications come by, when the pool's own
	// cannot be used: LISTEN does not work behind a pooler in transaction mode.
	// Defaults to the pool's configuration.
	ListenURL string

	// NoListen makes the relay poll only.
	NoListen bool

	// NoHandover has relays of this process read what its InTx commits, as those of
	// others do, and Emit need the right to INSERT alone. Else Emit in a transaction of
	// InTx returns the row's place, which takes SELECT (position, shard, xmin) as well: of
	// the role that the transaction sets, if it does.
	NoHandover bool

	// Logger gets what happens in the background: a notification that could not
	// be sent, a listening connection that was lost. Defaults to slog.Default().
	Logger *slog.Logger
}

// Store is an outbox in PostgreSQL. It is safe for concurrent use.
type Store struct {
	*postgres.Core
	pool      *pgxpool.Pool
	names     *postgres.Names
	insertOne string
	insertAll string
	timed     string
	config    Config
	notifier  *postgres.Notifier
	id        string    // of its notifications
	own       *sync.Map // transactions of InTx whose messages are handed over, by *pgx.Conn: *ownTx

	inboxInsert string
}

// New returns a store on pool, which stays the caller's to close, after the
// store. It connects to nothing; a config may be nil. It panics if the config
// cannot be used: see [Config.Validate].
func New(pool *pgxpool.Pool, config *Config) *Store {
	s, err := Open(pool, config)
	if err != nil {
		panic("pgxstore: " + err.Error())
	}
	return s
}

// Validate reports all that is wrong with the config.
func (c *Config) Validate() error {
	_, err := postgres.NewNames(c.Schema, c.TablePrefix)
	if c.ListenURL != "" {
		if _, parseErr := pgx.ParseConfig(c.ListenURL); parseErr != nil {
			err = errors.Join(err, fmt.Errorf("listen URL: %w", parseErr))
		}
	}
	return err
}

// Open is [New] for a config that comes from a user: it returns what is wrong.
func Open(pool *pgxpool.Pool, config *Config) (*Store, error) {
	var c Config
	if config != nil {
		c = *config
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	names, err := postgres.NewNames(c.Schema, c.TablePrefix)
	if err != nil {
		return nil, err
	}
	s := &Store{
		Core:      postgres.NewCore(&db{pool}, names, postgres.Notified),
		pool:      pool,
		names:     names,
		insertOne: names.SQL(postgres.InsertOne),
		insertAll: names.SQL(postgres.InsertMany),
		timed:     names.SQL(postgres.InsertTimed),
		config:    c,
		id:        uuid.NewString(),
		own:       &sync.Map{},

		inboxInsert: names.SQL(postgres.InboxInsert),
	}
	s.notifier = postgres.NewNotifier(s.notify)
	return s, nil
}

// Close sends a notification that is due and stops the store's background work.
// It leaves the pool open.
func (s *Store) Close() error {
	s.notifier.Close()
	return nil
}

// Migrate creates or upgrades the tables. Several processes may do so at once. It
// needs no rights when all is there.
func (s *Store) Migrate(ctx context.Context) error {
	return postgres.Migrate(ctx, &db{s.pool}, s.names)
}

// MigrationSQL returns the SQL of all migrations under the configured names.
func MigrationSQL(config *Config) (string, error) {
	var c Config
	if config != nil {
		c = *config
	}
	names, err := postgres.NewNames(c.Schema, c.TablePrefix)
	if err != nil {
		return "", err
	}
	return postgres.MigrationSQL(names)
}

// Shards returns 64.
func (s *Store) Shards() int { return postgres.Shards }

// Insert writes msgs in tx with one statement.
func (s *Store) Insert(ctx context.Context, tx pgx.Tx, msgs []outbox.Message) error {
	sql, args, err := s.insertArgs(msgs)
	if err != nil {
		return err
	}
	if own := s.ownTx(tx); own != nil && len(msgs) > 0 {
		return own.insert(ctx, tx, s, sql, args, msgs)
	}
	if len(msgs) > 0 && s.noted(ctx, tx) {
		return silently(ctx, tx, sql, args)
	}
	_, err = tx.Exec(ctx, sql, args...)
	return err
}

// Queue puts the insert of msgs, which Outbox.Prepare made, into the caller's
// batch, so that it costs no round trip of its own. The batch must run in the
// transaction of the business data: by tx.SendBatch, or by itself, since a batch
// without one is a transaction.
func (s *Store) Queue(batch *pgx.Batch, msgs []outbox.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	sql, args, err := s.insertArgs(msgs)
	if err != nil {
		return err
	}
	batch.Queue(sql, args...)
	return nil
}

// Route returns a view of the same outbox for the relays of a route: it reads,
// claims and fails what is of that route alone. All else is as with s, which is the
// view of the route without a name. A view needs no Close.
func (s *Store) Route(name string) *Store {
	view := *s
	view.Core, view.names = s.Core.Route(name), s.names.WithRoute(name)
	return &view
}

// TxStore is a view of an outbox in a transaction: see [Store.Within].
type TxStore struct {
	*postgres.Within
}

// Within returns a view of the outbox to send messages in a transaction of one's
// own, by relay.RunOnce for example. What it takes is hidden from relays until tx has
// ended; nothing of what it did remains if tx is rolled back. The transaction must be
// READ COMMITTED.
func (s *Store) Within(tx pgx.Tx) *TxStore { return &TxStore{s.Core.Within(querier{tx})} }

// InTx runs fn in a transaction, commits it when fn returns nil, and wakes the
// relay. Where transactions come close upon one another it does so after the commit:
// notifying inside them would make commits wait for one another, and is switched off.
// The messages of a small transaction are handed to a relay of this process that drains
// the same Store, which need not read them: see [Config.NoHandover].
func (s *Store) InTx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	if !s.config.NoHandover && s.notifier.Followed() {
		return s.inOwnTx(ctx, fn)
	}
	var took time.Duration
	itself := s.notifier.Begin()
	defer func() { s.notifier.End(itself, took) }()
	options := silent("off")
	if itself {
		options = pgx.TxOptions{}
	}
	committing, err := s.inTx(ctx, options, fn)
	if committing.IsZero() {
		return err
	}
	took = time.Since(committing)
	if err == nil && itself {
		s.notifier.Tell()
	} else {
		s.Wake() // also if the answer to the commit was lost
	}
	return err
}

// silent are the options of a transaction that does not notify, with that value of
// outbox.wake.
func silent(wake string) pgx.TxOptions {
	return pgx.TxOptions{BeginQuery: "BEGIN; SET LOCAL outbox.wake = '" + wake + "'"}
}

// inTx runs fn in a transaction. It returns when the commit began, if fn wanted it.
func (s *Store) inTx(ctx context.Context, options pgx.TxOptions, fn func(tx pgx.Tx) error) (committing time.Time, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, options, func(tx pgx.Tx) error {
		err := fn(tx)
		if err == nil {
			committing = time.Now()
		}
		return err
	})
	return committing, err
}

func (s *Store) insertArgs(msgs []outbox.Message) (string, []any, error) {
	timed := postgres.Timed(msgs)
	if len(msgs) == 1 && !timed {
		m := &msgs[0]
		headers, err := postgres.Headers(m)
		if err != nil {
			return "", nil, err
		}
		return s.insertOne, []any{
			m.ID, m.Topic, m.Key, m.Tenant, m.Type, m.Version, m.ContentType, headers, postgres.Payload(m), m.CreatedAt,
		}, nil
	}
	n := len(msgs)
	ids, created := make([]uuid.UUID, n), make([]time.Time, n)
	topics, keys, tenants, types := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	versions, contentTypes, headers := make([]string, n), make([]string, n), make([]string, n)
	payloads := make([][]byte, n)
	for i := range msgs {
		m := &msgs[i]
		var err error
		if ids[i], err = uuid.Parse(m.ID); err != nil {
			return "", nil, fmt.Errorf("id %q of message %d: %w", m.ID, i, err)
		}
		if headers[i], err = postgres.Headers(m); err != nil {
			return "", nil, err
		}
		topics[i], keys[i], tenants[i], types[i] = m.Topic, m.Key, m.Tenant, m.Type
		versions[i], contentTypes[i], payloads[i], created[i] = m.Version, m.ContentType, postgres.Payload(m), m.CreatedAt
	}
	args := []any{ids, topics, keys, tenants, types, versions, contentTypes, headers, payloads, created}
	if timed {
		return s.timed, append(args, timedArgs(msgs)...), nil
	}
	return s.insertAll, args, nil
}

// timedArgs returns the columns that only [postgres.InsertTimed] has.
func timedArgs(msgs []outbox.Message) []any {
	routes := make([]string, len(msgs))
	deliver, expire := make([]*time.Time, len(msgs)), make([]*time.Time, len(msgs))
	for i := range msgs {
		m := &msgs[i]
		routes[i] = m.Route
		if !m.DeliverAt.IsZero() {
			deliver[i] = &m.DeliverAt
		}
		if !m.ExpiresAt.IsZero() {
			expire[i] = &m.ExpiresAt
		}
	}
	return []any{routes, deliver, expire}
}

var _ outbox.Store[pgx.Tx] = (*Store)(nil)
