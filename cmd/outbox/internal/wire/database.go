package wire

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/store/sqlstore"
	"github.com/outbox-go/outbox/store/track"
	"github.com/outbox-go/outbox/worker"
)

// Store is the outbox that a URL names.
type Store interface {
	relay.Store
	store.Admin
	track.Tracker

	// View is the same outbox as a relay of the route drains it.
	View(route string) relay.Store

	// Migrate creates or upgrades the tables.
	Migrate(ctx context.Context) error

	// Emit writes events in a transaction of its own, for each of the routes, or
	// for the way of all if there is none.
	Emit(ctx context.Context, routes []string, events ...outbox.Event) error

	// Insert writes messages in a transaction of its own: all or none.
	Insert(ctx context.Context, msgs []outbox.Message) error

	// PurgeInbox deletes up to limit rows of the inbox that are older than age.
	PurgeInbox(ctx context.Context, age time.Duration, limit int) (int, error)

	// CountInbox counts them all.
	CountInbox(ctx context.Context, age time.Duration) (int, error)

	// Handle registers a handler that runs in a transaction with a row of the inbox,
	// so that a message for which it has succeeded is known again.
	Handle(w *worker.Worker, pattern string, handler func(context.Context, *worker.Delivery[[]byte]) error, opts ...worker.HandleOption)

	// Close releases the store and its connections.
	Close() error
}

// PostgresStore is an outbox in PostgreSQL.
type PostgresStore struct {
	*pgxstore.Store
	Pool   *pgxpool.Pool
	Outbox *outbox.Outbox[pgx.Tx]

	users *users
}

// SQLiteStore is an outbox in an SQLite file.
type SQLiteStore struct {
	*sqlstore.Store
	DB     *sql.DB
	Outbox *outbox.Outbox[*sql.Tx]

	users *users
}

// OpenStore returns the outbox that c names, which [CheckDatabase] has found to be
// right. Nothing is connected yet.
func OpenStore(ctx context.Context, c config.Database, logger *slog.Logger) (Store, error) {
	stores, err := OpenStores(ctx, []config.Database{c}, 0, logger)
	if err != nil {
		return nil, err
	}
	return stores[0], nil
}

// connectionsOfRelay is how many connections a relay uses at once.
const connectionsOfRelay = 4

// OpenStores returns outboxes of one database, at least one, which share its
// connections: enough for that many relays, unless the URL says how many.
func OpenStores(ctx context.Context, outboxes []config.Database, relays int, logger *slog.Logger) ([]Store, error) {
	if DatabaseKind(outboxes[0].URL) == SQLite {
		return openSQLites(outboxes)
	}
	connections := 0
	if relays > 1 && !strings.Contains(outboxes[0].URL, "pool_max_conns") {
		connections = connectionsOfRelay * relays
	}
	pool, err := openPool(ctx, outboxes[0], connections)
	if err != nil {
		return nil, err
	}
	users := &users{left: len(outboxes), close: func() error { pool.Close(); return nil }}
	var stores []Store
	for _, c := range outboxes {
		s, err := newPostgres(pool, c, users, logger)
		if err != nil {
			pool.Close()
			return nil, err
		}
		stores = append(stores, s)
	}
	return stores, nil
}

// users closes what several use, when the last one closes it.
type users struct {
	left  int
	close func() error
}

func (u *users) leave() error {
	if u.left--; u.left > 0 {
		return nil
	}
	return u.close()
}

// OpenPostgres is [OpenStore] for PostgreSQL. Of connections there are at most
// that many, or with 0 as many as the URL or the driver says.
func OpenPostgres(ctx context.Context, c config.Database, connections int, logger *slog.Logger) (*PostgresStore, error) {
	pool, err := openPool(ctx, c, connections)
	if err != nil {
		return nil, err
	}
	s, err := newPostgres(pool, c, &users{left: 1, close: func() error { pool.Close(); return nil }}, logger)
	if err != nil {
		pool.Close()
	}
	return s, err
}

func openPool(ctx context.Context, c config.Database, connections int) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, errNotURL
	}
	if _, ok := pc.ConnConfig.RuntimeParams["application_name"]; !ok {
		pc.ConnConfig.RuntimeParams["application_name"] = "outbox"
	}
	if connections > 0 {
		pc.MaxConns = int32(connections) //nolint:gosec // a small number of ours
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return pool, nil
}

func newPostgres(pool *pgxpool.Pool, c config.Database, users *users, logger *slog.Logger) (*PostgresStore, error) {
	s, err := pgxstore.Open(pool, &pgxstore.Config{
		Schema: c.Schema, TablePrefix: c.TablePrefix, ListenURL: c.ListenURL, Logger: logger,
	})
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return &PostgresStore{Store: s, Pool: pool, Outbox: outbox.New(s), users: users}, nil
}

// View is the same outbox as a relay of the route drains it.
func (s *PostgresStore) View(route string) relay.Store {
	return s.Store.Route(route)
}

// Emit writes events in a transaction of its own; see [Store].
func (s *PostgresStore) Emit(ctx context.Context, routes []string, events ...outbox.Event) error {
	ob := outbox.New(s.Store, outbox.WithRoutes(func(*outbox.Message) []string { return routes }))
	return ob.InTx(ctx, func(tx pgx.Tx) error { return ob.Emit(ctx, tx, events...) })
}

// Insert writes messages in a transaction of its own; see [Store].
func (s *PostgresStore) Insert(ctx context.Context, msgs []outbox.Message) error {
	return s.InTx(ctx, func(tx pgx.Tx) error { return s.Store.Insert(ctx, tx, msgs) })
}

// Close releases the store and its connections.
func (s *PostgresStore) Close() error {
	return errors.Join(s.Store.Close(), s.users.leave())
}

// OpenSQLite is [OpenStore] for SQLite.
func OpenSQLite(c config.Database) (*SQLiteStore, error) {
	stores, err := openSQLites([]config.Database{c})
	if err != nil {
		return nil, err
	}
	return stores[0].(*SQLiteStore), nil
}

func openSQLites(outboxes []config.Database) ([]Store, error) {
	db, err := sql.Open("sqlite", sqlstore.SQLiteDSN(sqlitePath(outboxes[0].URL)))
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	users := &users{left: len(outboxes), close: db.Close}
	var stores []Store
	for _, c := range outboxes {
		s, err := sqlstore.Open(db, sqlstore.SQLite, &sqlstore.Config{TablePrefix: c.TablePrefix})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open database: %w", err), db.Close())
		}
		stores = append(stores, &SQLiteStore{Store: s, DB: db, Outbox: outbox.New(s), users: users})
	}
	return stores, nil
}

// View is the same outbox as a relay of the route drains it.
func (s *SQLiteStore) View(route string) relay.Store {
	return s.Store.Route(route)
}

// Emit writes events in a transaction of its own; see [Store].
func (s *SQLiteStore) Emit(ctx context.Context, routes []string, events ...outbox.Event) error {
	ob := outbox.New(s.Store, outbox.WithRoutes(func(*outbox.Message) []string { return routes }))
	return ob.InTx(ctx, func(tx *sql.Tx) error { return ob.Emit(ctx, tx, events...) })
}

// Insert writes messages in a transaction of its own; see [Store].
func (s *SQLiteStore) Insert(ctx context.Context, msgs []outbox.Message) error {
	return s.InTx(ctx, func(tx *sql.Tx) error { return s.Store.Insert(ctx, tx, msgs) })
}

// Close closes the database.
func (s *SQLiteStore) Close() error { return s.users.leave() }

// CheckNames reports what is wrong with the names of the tables on that kind of
// database.
func CheckNames(l *config.Loaded, kind string) {
	switch kind {
	case Postgres:
		fault(l, "database.schema", (&pgxstore.Config{Schema: l.Database.Schema}).Validate())
		fault(l, "database.table_prefix", (&pgxstore.Config{TablePrefix: l.Database.TablePrefix}).Validate())
	case SQLite:
		_, err := sqlstore.MigrationSQL(sqlstore.SQLite, &sqlstore.Config{TablePrefix: l.Database.TablePrefix})
		fault(l, "database.table_prefix", err)
	}
}

// MigrationSQL returns the SQL that makes the tables on that kind of database,
// under the names in c.
func MigrationSQL(kind string, c config.Database) (string, error) {
	if kind == SQLite {
		return sqlstore.MigrationSQL(sqlstore.SQLite, &sqlstore.Config{TablePrefix: c.TablePrefix})
	}
	return pgxstore.MigrationSQL(&pgxstore.Config{Schema: c.Schema, TablePrefix: c.TablePrefix})
}

func postgresFault(rawURL string) error {
	_, err := pgxpool.ParseConfig(rawURL)
	if err == nil {
		return nil
	}
	if DatabaseKind(rawURL) != Postgres || !strings.Contains(rawURL, "://") {
		return errNotURL
	}
	if _, urlErr := url.Parse(rawURL); urlErr != nil {
		return errNotURL
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return errors.New("cannot be used: " + config.Scrub(err.Error(), rawURL))
}

func sqlitePath(rawURL string) string { return strings.TrimPrefix(rawURL, "sqlite:") }

func sqliteFault(rawURL string) error {
	path := sqlitePath(rawURL)
	switch {
	case path == "":
		return errors.New("names no file: write sqlite:PATH")
	case strings.HasPrefix(path, "//") && !strings.HasPrefix(path, "///"):
		return errors.New("has two slashes before the path: write sqlite:PATH for a relative path, sqlite:/PATH for an absolute one")
	case strings.HasPrefix(path, ":memory:"):
		return errors.New("is in memory, where no other process and no other connection sees it: name a file")
	case strings.HasSuffix(path, string(filepath.Separator)):
		return errors.New("names a folder: name a file")
	}
	return nil
}

// DatabaseError adds to err, if it is not nil, what was done and where, without the
// secrets of the URL.
func DatabaseError(operation string, c config.Database, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s in %s: %w%s", operation, config.Redact(c.URL), err, hint(err))
}

// hint says what to do about common errors.
func hint(err error) string {
	var pg *pgconn.PgError
	const undefinedTable, invalidSchema = "42P01", "3F000"
	if errors.As(err, &pg) && (pg.Code == undefinedTable || pg.Code == invalidSchema) || strings.Contains(err.Error(), "no such table") {
		return "\nrun `outbox migrate` first, with the same schema and table prefix"
	}
	return ""
}
