package sqlite

import (
	"context"
	"embed"
	"fmt"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one file: 0001_name.sql.
type migration struct {
	version int
	name    string
	text    string
}

const (
	createMigrationTable = `CREATE TABLE IF NOT EXISTS {migration} (
	version    INTEGER PRIMARY KEY,
	name       TEXT    NOT NULL,
	applied_at INTEGER NOT NULL DEFAULT ({now})
)`
	recordMigrationSQL = `INSERT INTO {migration} (version, name) VALUES (%d, %s)`
	hasMigrationsSQL   = `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = {migration_literal})`
	versionSQL         = `SELECT coalesce(max(version), 0) FROM {migration}`
)

// migrations returns all migrations, in their order, with the names replaced.
func migrations(n *Names) ([]migration, error) {
	entries, err := migrationFiles.ReadDir("migrations") // sorted by name
	if err != nil {
		return nil, err
	}
	list := make([]migration, len(entries))
	for i, entry := range entries {
		number, _, _ := strings.Cut(entry.Name(), "_")
		version, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", entry.Name(), err)
		}
		text, err := migrationFiles.ReadFile("migrations/" + entry.Name())
		if err != nil {
			return nil, err
		}
		list[i] = migration{version, strings.TrimSuffix(entry.Name(), ".sql"), n.sql(string(text))}
	}
	return list, nil
}

// MigrationSQL returns the SQL that brings an empty database to the newest
// version, as one transaction.
func MigrationSQL(n *Names) (string, error) {
	list, err := migrations(n)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(beginWrite + ";\n\n" + n.sql(createMigrationTable) + ";\n")
	for _, m := range list {
		fmt.Fprintf(&b, "\n-- %s\n\n%s\n%s;\n", m.name, m.text, recordSQL(n, m))
	}
	b.WriteString("\nCOMMIT;\n")
	return b.String(), nil
}

func recordSQL(n *Names, m migration) string {
	return fmt.Sprintf(n.sql(recordMigrationSQL), m.version, literal(m.name))
}

// Migrate brings the database to the newest version, each step in a transaction
// that has the write lock before it looks what there is. It writes nothing when
// all is there already.
func (s *Store) Migrate(ctx context.Context) error {
	list, err := migrations(s.names)
	if err != nil {
		return err
	}
	version, err := s.version(ctx)
	if err != nil {
		return err
	}
	for _, m := range list {
		if m.version <= version {
			continue
		}
		err := s.write(ctx, func(c runner) error { return s.apply(ctx, c, m) })
		if err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
	}
	s.prepareEmit(ctx)
	return nil
}

// apply does nothing if another process has been faster.
func (s *Store) apply(ctx context.Context, c runner, m migration) error {
	if _, err := c.ExecContext(ctx, s.names.sql(createMigrationTable)); err != nil {
		return err
	}
	var version int
	if err := c.QueryRowContext(ctx, s.names.sql(versionSQL)).Scan(&version); err != nil || m.version <= version {
		return err
	}
	if _, err := c.ExecContext(ctx, m.text); err != nil {
		return err
	}
	_, err := c.ExecContext(ctx, recordSQL(s.names, m))
	return err
}

// version returns that of the database, 0 when there is nothing yet.
func (s *Store) version(ctx context.Context) (version int, err error) {
	err = s.snapshot(ctx, func(c runner) error {
		var there bool
		version = 0
		if err := c.QueryRowContext(ctx, s.names.sql(hasMigrationsSQL)).Scan(&there); err != nil || !there {
			return err
		}
		return c.QueryRowContext(ctx, s.names.sql(versionSQL)).Scan(&version)
	})
	if err != nil {
		return 0, fmt.Errorf("read the schema's version: %w", err)
	}
	return version, nil
}
