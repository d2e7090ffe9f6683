package sqlite

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/outbox-go/outbox/store/track"
)

const trackedSQL = `SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'trigger' AND instr(sql, ?) > 0 ORDER BY name`

// trackedTable is a table that publishes into the outbox.
type trackedTable struct {
	name       string
	base       string // what the names of its triggers begin with
	triggers   []string
	used       map[string]bool // columns that the triggers read
	ops        map[track.Op]bool
	definition track.Definition
}

// Tracked implements [track.Tracker].
func (s *Store) Tracked(ctx context.Context, names ...string) (list []track.Table, err error) {
	err = s.snapshot(ctx, func(c runner) error {
		tracked, err := s.trackedTables(ctx, c)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			if tracked, err = s.named(ctx, c, tracked, names); err != nil {
				return err
			}
		}
		list = make([]track.Table, 0, len(tracked))
		for _, t := range tracked {
			columns, _, err := columnsOf(ctx, c, t.name)
			if err != nil {
				return err
			}
			d := &t.definition
			list = append(list, track.Table{Name: t.name, On: d.On, Fields: d.Fields, Topic: d.Topic, Key: d.Key, Changes: d.Changes(t.state(columns))})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for tracked tables: %w", err)
	}
	slices.SortFunc(list, func(a, b track.Table) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// named returns the tables of those names.
func (s *Store) named(ctx context.Context, c runner, tracked map[string]*trackedTable, names []string) (map[string]*trackedTable, error) {
	var errs []error
	found := map[string]*trackedTable{}
	for _, name := range names {
		subject, err := s.findSubject(ctx, c, name)
		switch {
		case err != nil:
			errs = append(errs, err)
		case tracked[subject.Name] == nil:
			errs = append(errs, fmt.Errorf("%s: %w", name, track.ErrNotTracked))
		default:
			found[subject.Name] = tracked[subject.Name]
		}
	}
	return found, errors.Join(errs...)
}

// trackedTables returns those of this outbox by their names; others may be in the
// same file.
func (s *Store) trackedTables(ctx context.Context, c runner) (map[string]*trackedTable, error) {
	rows, err := c.QueryContext(ctx, trackedSQL, trackNote)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	tracked := map[string]*trackedTable{}
	for rows.Next() {
		var name, table, text string
		if err := rows.Scan(&name, &table, &text); err != nil {
			return nil, err
		}
		var d track.Definition
		if !readNote(text, &d) || d.Into != s.names.table("message") {
			continue
		}
		t := tracked[table]
		if t == nil {
			t = &trackedTable{name: table, definition: d, used: map[string]bool{}, ops: map[track.Op]bool{}}
			tracked[table] = t
		}
		t.add(name, text)
	}
	return tracked, rows.Err()
}

func (t *trackedTable) add(name, text string) {
	t.triggers = append(t.triggers, name)
	for _, column := range usedColumns(text) {
		t.used[column] = true
	}
	for _, op := range []track.Op{track.Insert, track.Update, track.Delete} {
		if base, ok := strings.CutSuffix(name, "_"+string(op)); ok {
			t.base, t.ops[op] = base, true
		}
	}
}

// readNote reads the definition from a trigger's text.
func readNote(text string, d *track.Definition) bool {
	_, rest, _ := strings.Cut(text, trackNote)
	note, _, found := strings.Cut(rest, " */")
	return found && json.Unmarshal([]byte(note), d) == nil
}

// tokens finds what can hide a column's name, and the names: SQLite rewrites these
// when a column is renamed.
var tokens = regexp.MustCompile(`(?s)'(?:[^']|'')*'|/\*.*?\*/|\b(?:NEW|OLD)\."((?:[^"]|"")*)"|"(?:[^"]|"")*"`)

// usedColumns returns the columns that a trigger reads, with repeats.
func usedColumns(text string) (columns []string) {
	for _, m := range tokens.FindAllStringSubmatch(text, -1) {
		if m[0][0] == 'N' || m[0][0] == 'O' { // m[1] may be empty, as a name may
			columns = append(columns, strings.ReplaceAll(m[1], `""`, `"`))
		}
	}
	return columns
}

// state tells what there is of the table now.
func (t *trackedTable) state(columns []track.Column) track.State {
	s := track.State{Schema: mainSchema, Table: t.name}
	for _, op := range t.definition.On {
		if !t.ops[op] {
			s.Faults = append(s.Faults, fmt.Sprintf("the trigger for %s is missing; nothing is published of it", op))
		}
	}
	for _, column := range columns {
		if t.used[column.Name] {
			s.Used = append(s.Used, column)
		} else {
			s.Unused = append(s.Unused, column)
		}
	}
	return s
}
