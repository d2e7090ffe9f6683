package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/track"
)

// mainSchema is what SQLite calls the file that was opened.
const mainSchema = "main"

const (
	trackSubjectSQL = `SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE`

	// trackColumnsSQL leaves out the hidden columns of virtual tables, and not those
	// that are computed.
	trackColumnsSQL = `SELECT name, type, pk FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid`

	trackTakenSQL = `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name = ? COLLATE NOCASE)`
)

// trackFaults are why what is no plain table cannot publish.
var trackFaults = map[string]string{
	"view":    "is a view: track the tables that it is of",
	"virtual": "is a virtual table, which has no triggers",
	"shadow":  "is a part of a virtual table",
}

// Track implements [track.Tracker].
func (s *Store) Track(ctx context.Context, table string, config *track.Config) error {
	err := config.Validate()
	if err == nil {
		err = s.changeTracking(ctx, func(c runner) (string, error) { return s.trackSQL(ctx, c, table, config) })
	}
	if err != nil {
		return fmt.Errorf("track %s: %w", table, err)
	}
	return nil
}

// Untrack implements [track.Tracker].
func (s *Store) Untrack(ctx context.Context, table string) error {
	err := s.changeTracking(ctx, func(c runner) (string, error) { return s.untrackSQL(ctx, c, table) })
	if err != nil {
		return fmt.Errorf("untrack %s: %w", table, err)
	}
	return nil
}

// changeTracking runs what plan returns, in the same transaction.
func (s *Store) changeTracking(ctx context.Context, plan func(c runner) (string, error)) error {
	return s.write(ctx, func(c runner) error {
		text, err := plan(c)
		if err != nil {
			return err
		}
		_, err = c.ExecContext(ctx, text)
		return err
	})
}

// TrackSQL implements [track.Tracker].
func (s *Store) TrackSQL(ctx context.Context, table string, config *track.Config) (string, error) {
	if err := config.Validate(); err != nil {
		return "", fmt.Errorf("track %s: %w", table, err)
	}
	return s.printTracking(ctx, "track "+table, func(c runner) (string, error) { return s.trackSQL(ctx, c, table, config) })
}

// UntrackSQL implements [track.Tracker].
func (s *Store) UntrackSQL(ctx context.Context, table string) (string, error) {
	return s.printTracking(ctx, "untrack "+table, func(c runner) (string, error) { return s.untrackSQL(ctx, c, table) })
}

func (s *Store) printTracking(ctx context.Context, operation string, plan func(c runner) (string, error)) (text string, err error) {
	err = s.snapshot(ctx, func(c runner) error {
		text, err = plan(c)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w", operation, err)
	}
	return beginWrite + ";\n\n" + text + "COMMIT;\n", nil
}

func (s *Store) trackSQL(ctx context.Context, c runner, table string, config *track.Config) (string, error) {
	subject, err := s.findSubject(ctx, c, table)
	if err != nil {
		return "", err
	}
	d, err := track.Resolve(config, *subject)
	if err != nil {
		return "", err
	}
	d.Into = s.names.table("message")
	// Triggers could be made without the table of messages, and each write would fail.
	switch _, err := s.findSubject(ctx, c, d.Into); {
	case errors.As(err, new(*track.FieldError)):
		return "", &store.MissingError{Missing: []string{"table " + d.Into + " is missing"}}
	case err != nil:
		return "", err
	}
	before, err := s.trackedTables(ctx, c)
	if err != nil {
		return "", err
	}
	var drops strings.Builder
	base := ""
	if t := before[subject.Name]; t != nil {
		base = t.base
		writeDrops(&drops, t)
	} else if base, err = s.freeBase(ctx, c, subject.Name); err != nil {
		return "", err
	}
	creates, err := s.names.writeTrack(d, base)
	return drops.String() + creates, err
}

func (s *Store) untrackSQL(ctx context.Context, c runner, table string) (string, error) {
	subject, err := s.findSubject(ctx, c, table)
	if err != nil {
		return "", err
	}
	before, err := s.trackedTables(ctx, c)
	if err != nil {
		return "", err
	}
	t := before[subject.Name]
	if t == nil {
		return "", track.ErrNotTracked
	}
	var drops strings.Builder
	writeDrops(&drops, t)
	return drops.String(), nil
}

// findSubject looks for a table by its name.
func (s *Store) findSubject(ctx context.Context, c runner, table string) (*track.Subject, error) {
	subject := &track.Subject{Schema: mainSchema, FoldCase: true}
	var kind string
	err := c.QueryRowContext(ctx, trackSubjectSQL, table).Scan(&subject.Name, &kind)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, &track.FieldError{Field: "Table", Value: table, Reason: "is not there"}
	case err != nil:
		return nil, err
	}
	subject.Fault = trackFaults[kind]
	if strings.HasPrefix(strings.ToLower(subject.Name), "sqlite_") {
		subject.Fault = "is the database's own"
	}
	if slices.ContainsFunc(tables, func(name string) bool { return strings.EqualFold(s.names.table(name), subject.Name) }) {
		subject.Fault = "is one of the outbox itself"
	}
	subject.Columns, subject.PrimaryKey, err = columnsOf(ctx, c, subject.Name)
	return subject, err
}

func columnsOf(ctx context.Context, c runner, table string) (columns []track.Column, key []string, err error) {
	rows, err := c.QueryContext(ctx, trackColumnsSQL, table)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = rows.Close() }()
	places := map[int]string{}
	for rows.Next() {
		var column track.Column
		var place int
		if err := rows.Scan(&column.Name, &column.Type, &place); err != nil {
			return nil, nil, err
		}
		columns = append(columns, column)
		if place > 0 {
			places[place] = column.Name
		}
	}
	for place := 1; place <= len(places); place++ {
		key = append(key, places[place])
	}
	return columns, key, rows.Err()
}

// freeBase returns what the names of the table's triggers are to begin with. A table
// that was renamed keeps its triggers, and another one may have its name now.
func (s *Store) freeBase(ctx context.Context, c runner, table string) (string, error) {
	base := s.names.table(trackPrefix + table)
	for n := 2; ; n++ {
		taken := false
		for _, op := range []track.Op{track.Insert, track.Update, track.Delete} {
			var one bool
			if err := c.QueryRowContext(ctx, trackTakenSQL, triggerName(base, op)).Scan(&one); err != nil {
				return "", err
			}
			taken = taken || one
		}
		if !taken {
			return base, nil
		}
		base = s.names.table(trackPrefix + table + "_" + strconv.Itoa(n))
	}
}
