package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/internal/postgres"
	"github.com/outbox-go/outbox/store/sqlstore/internal/sqlite"
	"github.com/outbox-go/outbox/store/track"
)

// Dialect is a kind of database.
type Dialect int

const (
	// SQLite is SQLite 3.42 or later, in a file, with write-ahead logging. See
	// [SQLiteDSN].
	SQLite Dialect = iota + 1

	// PostgreSQL is PostgreSQL 13 or later, by any driver: pgx's stdlib package and
	// lib/pq are known to work. The tables are those of package pgxstore, which is
	// faster and is notified of commits; a relay on this one polls, from every
	// millisecond while there is work to five times a second while there is none.
	PostgreSQL
)

func (d Dialect) String() string {
	switch d {
	case SQLite:
		return "SQLite"
	case PostgreSQL:
		return "PostgreSQL"
	}
	return fmt.Sprintf("Dialect(%d)", int(d))
}

// backend is what a dialect does. The statements are in its own package below
// internal/.
type backend interface {
	Insert(ctx context.Context, tx *sql.Tx, msgs []outbox.Message) error
	InTx(ctx context.Context, fn func(tx *sql.Tx) error) error
	Wake()
	Migrate(ctx context.Context) error

	once
	route(name string) backend
	within(tx *sql.Tx) once
	Check(ctx context.Context) error
	Promote(ctx context.Context, limit int) (store.Promotion, error)
	Dispatch(ctx context.Context, dispatches []store.Dispatch) error
	Listen(ctx context.Context, wake func()) error
	store.Admin
	track.Tracker

	Once(ctx context.Context, consumer, id string, fn func(ctx context.Context, tx *sql.Tx) error) (first bool, err error)
	Transient(err error) bool
	PurgeInbox(ctx context.Context, age time.Duration, limit int) (int, error)
	CountInbox(ctx context.Context, age time.Duration) (int, error)
	CheckInbox(ctx context.Context) error
}

// backend checks the config for the dialect and returns its backend on db.
func (d Dialect) backend(db *sql.DB, c *Config) (backend, error) {
	switch d {
	case SQLite:
		names, err := sqlite.NewNames(c.TablePrefix)
		if err != nil {
			return nil, err
		}
		return sqliteBackend{sqlite.New(db, names)}, nil
	case PostgreSQL:
		names, err := postgres.NewNames(c.Schema, c.TablePrefix)
		if err != nil {
			return nil, err
		}
		return newPostgres(db, names), nil
	}
	return nil, fmt.Errorf("dialect %v is unknown: use one of this package's constants", d)
}

// MigrationSQL returns the SQL of all migrations of a dialect, under the
// configured names, as one transaction on an empty database: for those who use a
// migration tool of their own. A config may be nil.
func MigrationSQL(d Dialect, config *Config) (string, error) {
	c := config.orDefault()
	switch d {
	case SQLite:
		names, err := sqlite.NewNames(c.TablePrefix)
		if err != nil {
			return "", err
		}
		return sqlite.MigrationSQL(names)
	case PostgreSQL:
		names, err := postgres.NewNames(c.Schema, c.TablePrefix)
		if err != nil {
			return "", err
		}
		return postgres.MigrationSQL(names)
	}
	return "", fmt.Errorf("dialect %v is unknown: use one of this package's constants", d)
}
