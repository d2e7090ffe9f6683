package sqlite

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/outbox-go/outbox/store"
)

// wantedTable is a table with the columns that the statements use.
type wantedTable struct {
	table   string
	columns []string
}

// relayVersion is the version of the schema that a relay needs.
const relayVersion = 3

var wantedInbox = []wantedTable{{"inbox", []string{"consumer", "message_id", "received_at"}}}

// contentColumns are those that a message has wherever it stands.
var contentColumns = append(strings.Split(content, ", "), "route")

// wantedRelay is what a relay and those who look after it need.
var wantedRelay = []wantedTable{
	{"message", withContent("position", "attempts", "last_error", "retry_at")},
	{"lease", []string{"route", "shard", "owner", "token", "expires_at", "doubt", "wanted_by", "wanted_until"}},
	{"relay", []string{"id", "name", "started_at", "expires_at", "route", "rate"}},
	{"scheduled", withContent("place")},
	{"dead", withContent("place", "position", "attempts", "last_error", "reason", "parked", "died_at")},
	{"sent", withContent("place", "position", "attempts", "last_error", "sent_at")},
	{"pause", []string{"topic", "tenant", "key"}},
	{"migration", []string{"version", "name", "applied_at"}},
}

func withContent(columns ...string) []string { return append(columns, contentColumns...) }

// Check reports all that a relay misses as a [*store.MissingError]. It waits for
// the write lock, to see whether it can be had, and changes nothing.
func (s *Store) Check(ctx context.Context) error {
	if err := s.check(ctx, wantedRelay); err != nil {
		return err
	}
	return s.checkVersion(ctx)
}

// CheckInbox is [Store.Check] for an inbox.
func (s *Store) CheckInbox(ctx context.Context) error { return s.check(ctx, wantedInbox) }

func (s *Store) check(ctx context.Context, wanted []wantedTable) error {
	missing, err := s.missing(ctx, wanted)
	if err != nil {
		return fmt.Errorf("check the database: %w", err)
	}
	if missing != nil {
		return &store.MissingError{Missing: missing}
	}
	return nil
}

func (s *Store) missing(ctx context.Context, wanted []wantedTable) ([]string, error) {
	var missing []string
	err := s.snapshot(ctx, func(c runner) (err error) {
		if missing, err = checkServer(ctx, c); err != nil {
			return err
		}
		for _, w := range wanted {
			lines, err := checkTable(ctx, c, s.names.table(w.table), w.columns)
			if err != nil {
				return err
			}
			missing = append(missing, lines...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if slices.Contains(missing, noTable(s.names.table(wanted[0].table))) {
		return missing, nil
	}
	err = s.write(ctx, func(c runner) error {
		_, err := c.ExecContext(ctx, s.names.sql("DELETE FROM {"+wanted[0].table+"} WHERE false"))
		return err
	})
	if isReadOnly(err) {
		return append(missing, "the right to write: the database is read-only"), nil
	}
	return missing, err
}

// checkServer looks at SQLite itself. Without write-ahead logging readers and the
// writer block one another, and a COMMIT may fail because somebody reads.
func checkServer(ctx context.Context, c runner) (missing []string, err error) {
	var version, journal string
	var clock bool
	if err := c.QueryRowContext(ctx, `SELECT sqlite_version(), unixepoch('subsec') IS NOT NULL`).Scan(&version, &clock); err != nil {
		return nil, err
	}
	if !clock {
		missing = append(missing, "SQLite 3.42 or later: this is "+version)
	}
	if err := c.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&journal); err != nil {
		return nil, err
	}
	if journal != "wal" {
		missing = append(missing, "journal mode wal: it is "+journal+": open the database as SQLiteDSN says, or run PRAGMA journal_mode = wal")
	}
	return missing, nil
}

func checkTable(ctx context.Context, c runner, table string, columns []string) (missing []string, err error) {
	rows, err := c.QueryContext(ctx, `SELECT name FROM pragma_table_info(?)`, table)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var there []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		there = append(there, name)
	}
	if there == nil {
		return []string{noTable(table)}, rows.Err()
	}
	for _, column := range columns {
		if !slices.Contains(there, column) {
			missing = append(missing, "column "+column+" of table "+table+" is missing")
		}
	}
	return missing, rows.Err()
}

func noTable(table string) string { return "table " + table + " is missing" }

func (s *Store) checkVersion(ctx context.Context) error {
	list, err := migrations(s.names)
	if err != nil {
		return err
	}
	version, err := s.version(ctx)
	if err != nil {
		return err
	}
	newest := list[len(list)-1].version
	switch {
	case version < relayVersion:
		return &store.MissingError{Missing: []string{fmt.Sprintf("schema version %d: the tables %s* are at version %d", relayVersion, s.names.prefix, version)}}
	case version > newest:
		return fmt.Errorf("the tables %s* are at version %d, newer than this program, which knows up to %d: upgrade it", s.names.prefix, version, newest)
	}
	return nil
}
