package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/outbox-go/outbox/store"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one file: 0001_name.sql.
type migration struct {
	version int
	name    string
	sql     string
}

const createMigrationTable = `CREATE TABLE IF NOT EXISTS {migration} (
	version    integer     NOT NULL,
	name       text        NOT NULL,
	applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	CONSTRAINT {migration_pk} PRIMARY KEY (version)
)`

// migrations returns all migrations in their order, with the names replaced.
func migrations(n *Names) ([]migration, error) {
	entries, err := migrationFiles.ReadDir("migrations")
	if err != nil {
		return nil, err
	}
	list := make([]migration, 0, len(entries))
	for _, entry := range entries {
		number, _, _ := strings.Cut(entry.Name(), "_")
		version, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", entry.Name(), err)
		}
		text, err := migrationFiles.ReadFile("migrations/" + entry.Name())
		if err != nil {
			return nil, err
		}
		list = append(list, migration{version, strings.TrimSuffix(entry.Name(), ".sql"), n.SQL(string(text))})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].version < list[j].version })
	return list, nil
}

// MigrationSQL returns the SQL that brings an empty database to the newest
// version, as one transaction, for use with another migration tool.
func MigrationSQL(n *Names) (string, error) {
	list, err := migrations(n)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("BEGIN;\n\n" + n.SQL("CREATE SCHEMA IF NOT EXISTS {schema};\n\n"+createMigrationTable) + ";\n")
	for _, m := range list {
		fmt.Fprintf(&b, "\n-- %s\n\n%s\n%s;\n", m.name, m.sql, recordSQL(n, m))
	}
	b.WriteString("\nCOMMIT;\n")
	return b.String(), nil
}

func recordSQL(n *Names, m migration) string {
	return n.SQL(fmt.Sprintf("INSERT INTO {migration} (version, name) VALUES (%d, %s)", m.version, Literal(m.name)))
}

// Migrate brings the database to the newest version. Several processes may do so
// at once: they wait for one another. It needs no right to create anything when
// all is there already.
func Migrate(ctx context.Context, db DB, n *Names) error {
	list, err := migrations(n)
	if err != nil {
		return err
	}
	version, err := currentVersion(ctx, db, n)
	if err != nil || version >= list[len(list)-1].version {
		return err
	}
	return whileLocked(ctx, func() error { return migrateOnce(ctx, db, n, list) })
}

// whileLocked repeats do while others have a table for longer than migrateLock.
func whileLocked(ctx context.Context, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		if sqlState(err) != lockNotAvailable || try == migrateTries {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(migratePause):
		}
	}
}

const (
	// migrateLock bounds how long a migration waits for a table: behind it all wait
	// who emit. While others have the table for longer, it comes again.
	migrateLock  = `SET LOCAL lock_timeout = '2s'`
	migrateTries = 15
	migratePause = time.Second
)

func migrateOnce(ctx context.Context, db DB, n *Names, list []migration) error {
	return db.InTx(ctx, ReadWrite, func(q Querier) error {
		// By the schema, which outboxes with different prefixes create together.
		lock := "SELECT pg_advisory_xact_lock(hashtextextended(" + Literal("outbox migrate "+n.Schema) + ", 0))"
		if err := q.Exec(ctx, lock); err != nil {
			return fmt.Errorf("lock for migration: %w", err)
		}
		version, err := currentVersion(ctx, q, n)
		if err != nil {
			return err
		}
		if version == 0 {
			if err := createBase(ctx, q, n); err != nil {
				return err
			}
		}
		for _, m := range list {
			if m.version <= version {
				continue
			}
			if err := q.Exec(ctx, migrateLock); err != nil {
				return err
			}
			if err := q.Exec(ctx, m.sql); err != nil {
				return fmt.Errorf("migration %s: %w", m.name, err)
			}
			if err := q.Exec(ctx, recordSQL(n, m)); err != nil {
				return fmt.Errorf("record migration %s: %w", m.name, err)
			}
		}
		return nil
	})
}

// createBase creates the schema, unless it is there: CREATE SCHEMA asks for the
// right even when there is nothing to create.
func createBase(ctx context.Context, q Querier, n *Names) error {
	var there bool
	if _, err := queryRow(ctx, q, `SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1::name)`, []any{n.Schema}, &there); err != nil {
		return fmt.Errorf("look for schema %q: %w", n.Schema, err)
	}
	if !there {
		if err := q.Exec(ctx, n.SQL("CREATE SCHEMA {schema}")); err != nil {
			return fmt.Errorf("create schema %q: %w", n.Schema, err)
		}
	}
	if err := q.Exec(ctx, n.SQL(createMigrationTable)); err != nil {
		return fmt.Errorf("create table %s: %w", n.Qualified("migration"), err)
	}
	return nil
}

// currentVersion returns 0 when there is nothing yet.
func currentVersion(ctx context.Context, q Querier, n *Names) (int, error) {
	var there bool
	if _, err := queryRow(ctx, q, tableExists, []any{n.Schema, n.Prefix + "migration"}, &there); err != nil {
		return 0, fmt.Errorf("look for table %s: %w", n.Qualified("migration"), err)
	}
	if !there {
		return 0, nil
	}
	var version int
	if _, err := queryRow(ctx, q, n.SQL(`SELECT coalesce(max(version), 0) FROM {migration}`), nil, &version); err != nil {
		return 0, fmt.Errorf("read table %s: %w", n.Qualified("migration"), err)
	}
	return version, nil
}

const tableExists = `SELECT EXISTS (
	SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE n.nspname = $1::name AND c.relname = $2::name AND c.relkind IN ('r', 'p'))`

// The parts of the schema, which one can have rights on without the other.
const (
	relayPart = "relay"
	inboxPart = "inbox"

	// relayVersion is the version of the schema that a relay needs.
	relayVersion = 4
)

// checkSQL lists what is missing of a part, one line each. The names come as
// parameters: the role may lack even USAGE on the schema.
const checkSQL = `
WITH want(part, object, kind, columns, rights) AS (VALUES
	('relay', 'message',     'table',    'position,id,topic,key,tenant,type,version,content_type,headers,payload,created_at,attempts,last_error,retry_at,shard,txid,deliver_at,expires_at,route', 'SELECT,INSERT,UPDATE,DELETE'),
	('relay', 'lease',       'table',    'route,shard,owner,token,expires_at,doubt,wanted_by,wanted_until', 'SELECT,INSERT,UPDATE'),
	('relay', 'relay',       'table',    'id,name,most,busy,started_at,expires_at,route,rate', 'SELECT,INSERT,UPDATE,DELETE'),
	('relay', 'scheduled',   'table',    'place,id,topic,key,tenant,type,version,content_type,headers,payload,created_at,deliver_at,expires_at,route', 'SELECT,INSERT,UPDATE,DELETE'),
	('relay', 'dead',        'table',    'place,position,id,topic,key,tenant,type,version,content_type,headers,payload,created_at,deliver_at,expires_at,route,attempts,last_error,reason,parked,died_at,shard', 'SELECT,INSERT,DELETE'),
	('relay', 'sent',        'table',    'place,position,id,topic,key,tenant,type,version,content_type,headers,payload,created_at,deliver_at,expires_at,route,attempts,last_error,sent_at', 'SELECT,INSERT,DELETE'),
	('relay', 'sent_default', 'table',   'sent_at', 'SELECT,UPDATE,DELETE'),
	('relay', 'sent_place',  'sequence', '', 'USAGE'),
	('relay', 'pause',       'table',    'topic,tenant,key', 'SELECT,INSERT,DELETE'),
	('relay', 'incarnation', 'table',    'one,system,id', 'SELECT,INSERT,UPDATE'),
	('relay', 'migration',   'table',    'version,name,applied_at', 'SELECT'),
	('relay', 'armed',       'sequence', '', 'SELECT,UPDATE'),
	('inbox', 'inbox',       'table',    'consumer,message_id,received_at', 'SELECT,INSERT,UPDATE,DELETE')
), have AS (
	SELECT w.*, c.oid, $2::text || w.object AS name
	FROM want w LEFT JOIN (
		SELECT c.oid, c.relname FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1::name
	) c ON c.relname = ($2::text || w.object)::name
	WHERE w.part = $3
)
SELECT 'schema ' || $1 || ' is missing' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1::name)
UNION ALL
SELECT 'no USAGE right on schema ' || $1 FROM pg_catalog.pg_namespace n WHERE n.nspname = $1::name AND NOT has_schema_privilege(n.oid, 'USAGE')
UNION ALL
SELECT kind || ' ' || $1 || '.' || name || ' is missing' FROM have WHERE oid IS NULL
UNION ALL
SELECT 'column ' || col || ' of table ' || $1 || '.' || name || ' is missing'
FROM have CROSS JOIN LATERAL unnest(string_to_array(columns, ',')) AS col
WHERE oid IS NOT NULL AND NOT EXISTS (
	SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = have.oid AND a.attname = col::name AND NOT a.attisdropped)
UNION ALL
SELECT 'no ' || r || ' right on ' || kind || ' ' || $1 || '.' || name
FROM have CROSS JOIN LATERAL unnest(string_to_array(rights, ',')) AS r
WHERE oid IS NOT NULL AND CASE kind WHEN 'table' THEN NOT has_table_privilege(oid, r) ELSE NOT has_sequence_privilege(oid, r) END
UNION ALL
SELECT 'function ' || $1 || '.' || $2 || f || ' is missing' FROM (VALUES ('wake'), ('emit')) AS w(f)
WHERE $3 = 'relay' AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
	WHERE n.nspname = $1::name AND p.proname = ($2::text || f)::name)
UNION ALL
SELECT 'trigger ' || $2 || 'wake_trigger on table ' || $1 || '.' || name || ' is missing' FROM have
WHERE object = 'message' AND oid IS NOT NULL AND NOT EXISTS (
	SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = have.oid AND t.tgname = ($2::text || 'wake_trigger')::name)`

// Check reports all that a relay misses as a [*store.MissingError]. It changes
// nothing.
func Check(ctx context.Context, db DB, n *Names) error {
	missing, err := missingParts(ctx, db, n, relayPart)
	if err != nil {
		return err
	}
	if missing != nil {
		return &store.MissingError{Missing: missing}
	}
	return checkVersion(ctx, db, n)
}

func missingParts(ctx context.Context, db DB, n *Names, part string) (missing []string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("check the schema: %w", err)
		}
	}()
	rows, err := db.Query(ctx, checkSQL, n.Schema, n.Prefix, part)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return nil, err
		}
		missing = append(missing, line)
	}
	rows.Close()
	return missing, rows.Err()
}

func checkVersion(ctx context.Context, db DB, n *Names) error {
	list, err := migrations(n)
	if err != nil {
		return err
	}
	version, err := currentVersion(ctx, db, n)
	if err != nil {
		return err
	}
	newest := list[len(list)-1].version
	switch {
	case version < relayVersion:
		return &store.MissingError{Missing: []string{fmt.Sprintf("schema %s is at version %d, this program needs %d", n.Schema, version, relayVersion)}}
	case version > newest:
		return fmt.Errorf("schema %s is at version %d, newer than this program, which knows up to %d: upgrade it", n.Schema, version, newest)
	}
	return nil
}
