package scratch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

// Database is an outbox of a run's own, without its tables until Store.Migrate has
// made them.
type Database struct {
	Config config.Database
	Store  wire.Store

	// One of them is Store, the other one nil.
	Postgres *wire.PostgresStore
	SQLite   *wire.SQLiteStore
}

// Schema returns the quoted name of the schema (PostgreSQL).
func (d *Database) Schema() string { return pgx.Identifier{d.Config.Schema}.Sanitize() }

// Database returns a schema in the PostgreSQL database that url names, which does not
// exist before Migrate, with at most that many connections; or the SQLite file that
// it names, which must not exist; or without url an SQLite file in s.Dir. Whatever
// else the caller makes in it is removed as well.
func (s *Scratch) Database(ctx context.Context, url string, connections int, logger *slog.Logger) (*Database, error) {
	name := s.Name
	if s.databases++; s.databases > 1 {
		name = fmt.Sprintf("%s_%d", s.Name, s.databases)
	}
	if wire.DatabaseKind(url) == wire.Postgres {
		return s.postgres(ctx, config.Database{URL: url, Schema: name}, connections, logger)
	}
	path := filepath.Join(s.Dir, name+".db")
	if url != "" {
		path = strings.TrimPrefix(url, "sqlite:")
		if _, err := os.Lstat(path); err == nil {
			return nil, fmt.Errorf("the file %s exists: a database is made here and removed in the end, so name a new file", path)
		}
	}
	return s.sqlite(path)
}

func (s *Scratch) postgres(ctx context.Context, c config.Database, connections int, logger *slog.Logger) (*Database, error) {
	store, err := wire.OpenPostgres(ctx, c, connections, logger)
	if err != nil {
		return nil, err
	}
	d := &Database{Config: c, Store: store, Postgres: store}
	s.onRemove(func(ctx context.Context) error {
		err := store.Store.Close()
		if _, dropErr := store.Pool.Exec(ctx, "DROP SCHEMA IF EXISTS "+d.Schema()+" CASCADE"); dropErr != nil {
			err = errors.Join(err, fmt.Errorf("drop schema %s, which remains: %w", d.Schema(), dropErr))
		}
		store.Pool.Close()
		return err
	})
	return d, nil
}

// Schemas returns n outboxes with their tables in schemas of their own, which share a
// few connections to the PostgreSQL database that url names.
func (s *Scratch) Schemas(ctx context.Context, url string, n int, logger *slog.Logger) ([]wire.Store, error) {
	if n == 0 {
		return nil, nil
	}
	configs := make([]config.Database, n)
	for i := range configs {
		s.databases++
		configs[i] = config.Database{URL: url, Schema: fmt.Sprintf("%s_%d", s.Name, s.databases)}
	}
	const busy = 2 // relays at once
	stores, err := wire.OpenStores(ctx, configs, busy, logger)
	if err != nil {
		return nil, err
	}
	pool := stores[0].(*wire.PostgresStore).Pool
	for i, store := range stores { // each has its own time
		s.onRemove(func(ctx context.Context) error {
			_, err := pool.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{configs[i].Schema}.Sanitize()+" CASCADE")
			if err != nil {
				err = fmt.Errorf("drop schema %s, which remains: %w", configs[i].Schema, err)
			}
			return errors.Join(err, store.Close()) // the last one closes the connections
		})
	}
	for _, store := range stores {
		if err := store.Migrate(ctx); err != nil {
			return nil, err
		}
	}
	return stores, nil
}

func (s *Scratch) sqlite(path string) (*Database, error) {
	c := config.Database{URL: "sqlite:" + path}
	store, err := wire.OpenSQLite(c)
	if err != nil {
		return nil, err
	}
	s.onRemove(func(context.Context) error {
		err := store.Close()
		for _, end := range []string{"", "-wal", "-shm"} {
			if removeErr := os.Remove(path + end); removeErr != nil && !os.IsNotExist(removeErr) {
				err = errors.Join(err, removeErr)
			}
		}
		return err
	})
	return &Database{Config: c, Store: store, SQLite: store}, nil
}
