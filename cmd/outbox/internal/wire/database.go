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
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/store/sqlstore"
)

// Store is the outbox that a URL names.
type Store interface {
	relay.Store

	// Migrate creates or upgrades the tables.
	Migrate(ctx context.Context) error

	// Emit writes events in a transaction of its own.
	Emit(ctx context.Context, events ...outbox.Event) error

	// PurgeInbox deletes up to limit rows of the inbox that are older than age.
	PurgeInbox(ctx context.Context, age time.Duration, limit int) (int, error)

	// CountInbox counts them all.
	CountInbox(ctx context.Context, age time.Duration) (int, error)

	// Close releases the store and its connections.
	Close() error
}

// PostgresStore is an outbox in PostgreSQL.
type PostgresStore struct {
	*pgxstore.Store
	Pool   *pgxpool.Pool
	Outbox *outbox.Outbox[pgx.Tx]
}

// SQLiteStore is an outbox in an SQLite file.
type SQLiteStore struct {
	*sqlstore.Store
	DB     *sql.DB
	Outbox *outbox.Outbox[*sql.Tx]
}

// OpenStore returns the outbox that c names, which [CheckDatabase] has found to be
// right. Nothing is connected yet.
func OpenStore(ctx context.Context, c config.Database, logger *slog.Logger) (Store, error) {
	if DatabaseKind(c.URL) == SQLite {
		return OpenSQLite(c)
	}
	return OpenPostgres(ctx, c, 0, logger)
}

// OpenPostgres is [OpenStore] for PostgreSQL. Of connections there are at most
// that many, or with 0 as many as the URL or the driver says.
func OpenPostgres(ctx context.Context, c config.Database, connections int, logger *slog.Logger) (*PostgresStore, error) {
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
	s, err := pgxstore.Open(pool, &pgxstore.Config{
		Schema: c.Schema, TablePrefix: c.TablePrefix, ListenURL: c.ListenURL, Logger: logger,
	})
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("open database: %w", err)
	}
	return &PostgresStore{Store: s, Pool: pool, Outbox: outbox.New(s)}, nil
}

// Emit writes events in a transaction of its own.
func (s *PostgresStore) Emit(ctx context.Context, events ...outbox.Event) error {
	return s.Outbox.InTx(ctx, func(tx pgx.Tx) error { return s.Outbox.Emit(ctx, tx, events...) })
}

// Close releases the store and its connections.
func (s *PostgresStore) Close() error {
	err := s.Store.Close()
	s.Pool.Close()
	return err
}

// OpenSQLite is [OpenStore] for SQLite.
func OpenSQLite(c config.Database) (*SQLiteStore, error) {
	db, err := sql.Open("sqlite", sqlstore.SQLiteDSN(sqlitePath(c.URL)))
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	s, err := sqlstore.Open(db, sqlstore.SQLite, &sqlstore.Config{TablePrefix: c.TablePrefix})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database: %w", err), db.Close())
	}
	return &SQLiteStore{Store: s, DB: db, Outbox: outbox.New(s)}, nil
}

// Emit writes events in a transaction of its own.
func (s *SQLiteStore) Emit(ctx context.Context, events ...outbox.Event) error {
	return s.Outbox.InTx(ctx, func(tx *sql.Tx) error { return s.Outbox.Emit(ctx, tx, events...) })
}

// Close closes the database.
func (s *SQLiteStore) Close() error { return s.DB.Close() }

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
