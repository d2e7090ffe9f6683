package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/track"
)

// trackMinimum is the version of PostgreSQL that has functions with a body by the
// SQL standard, which know columns by their numbers.
const trackMinimum = 140000

// columnTypeSQL is the type of column a with its schema, unless that is the database's
// own, where format_type leaves out those that are in the search_path.
const columnTypeSQL = `(SELECT CASE WHEN ns.nspname <> 'pg_catalog' AND pg_type_is_visible(e.oid) THEN quote_ident(ns.nspname) || '.' ELSE '' END
			|| format_type(a.atttypid, a.atttypmod)
		FROM pg_catalog.pg_type t JOIN pg_catalog.pg_type e ON e.oid = CASE WHEN t.typlen = -1 AND t.typelem <> 0 THEN t.typelem ELSE t.oid END
		JOIN pg_catalog.pg_namespace ns ON ns.oid = e.typnamespace WHERE t.oid = a.atttypid)`

// trackSubjectSQL describes a table as JSON, for trackSubject.
const trackSubjectSQL = `SELECT json_build_object(
	'oid', c.oid::text, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind, 'persistence', c.relpersistence,
	'ours', n.nspname = $2::name AND c.relname = ANY ($3::name[]),
	'columns', (SELECT coalesce(json_agg(json_build_object('name', a.attname, 'type', ` + columnTypeSQL + `) ORDER BY a.attnum), '[]')
		FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
	'triggers', (SELECT coalesce(json_agg(t.tgname), '[]') FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid),
	'primary_key', (SELECT coalesce(json_agg(a.attname ORDER BY k.place), '[]')
		FROM pg_catalog.pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
		JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
		WHERE i.indrelid = c.oid AND i.indisprimary)
	)::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass($1)`

// trackSubject is a table that is to be tracked, or is no longer.
type trackSubject struct {
	OID         string         `json:"oid"`
	Schema      string         `json:"schema"`
	Name        string         `json:"name"`
	Kind        string         `json:"kind"`
	Persistence string         `json:"persistence"`
	Ours        bool           `json:"ours"` // a table of the outbox
	Columns     []track.Column `json:"columns"`
	Triggers    []string       `json:"triggers"` // names of all, whoever made them
	PrimaryKey  []string       `json:"primary_key"`
}

// trackKinds are the kinds of relations that have no triggers as they are needed.
var trackKinds = map[string]string{
	"v": "is a view: track the tables that it is of",
	"m": "is a materialized view: track the tables that it is of",
	"f": "is a foreign table: track it where it is",
	"i": "is an index", "I": "is an index", "S": "is a sequence", "c": "is a composite type", "t": "is a TOAST table",
}

func (s *trackSubject) subject() track.Subject {
	subject := track.Subject{Schema: s.Schema, Name: s.Name, Columns: s.Columns, PrimaryKey: s.PrimaryKey, Fault: trackKinds[s.Kind]}
	switch {
	case s.Ours:
		subject.Fault = "is one of the outbox itself"
	case s.Persistence == "t":
		subject.Fault = "is a temporary table"
	case s.Schema == "pg_catalog" || s.Schema == "information_schema":
		subject.Fault = "is the database's own"
	}
	return subject
}

// quoted returns the table's name as in SQL.
func (s *trackSubject) quoted() string { return Quote(s.Schema) + "." + Quote(s.Name) }

// among returns the table if it is there and tracked, or nil.
func (s *trackSubject) among(tracked []trackedTable) *trackedTable {
	if s == nil {
		return nil
	}
	i := slices.IndexFunc(tracked, func(t trackedTable) bool { return t.OID == s.OID })
	if i < 0 {
		return nil
	}
	return &tracked[i]
}

// nameFaults are the SQLSTATEs of what is not the name of a table of this database.
var nameFaults = []string{"42601", "42602", "0A000", "22021"}

// findSubject looks for a table by its name as in SQL.
func (c *Core) findSubject(ctx context.Context, q Querier, table string) (*trackSubject, error) {
	ours := make([]string, len(objects))
	for i, name := range objects {
		ours[i] = c.names.Prefix + name
	}
	var text string
	found, err := queryRow(ctx, q, trackSubjectSQL, []any{table, c.names.Schema, textArray(ours)}, &text)
	switch {
	case slices.Contains(nameFaults, sqlState(err)):
		return nil, &track.FieldError{Field: "Table", Value: table, Reason: "is no name as in SQL: give schema.table, what is not plain in double quotes"}
	case err != nil:
		return nil, err
	case !found:
		return nil, &track.FieldError{Field: "Table", Value: table,
			Reason: "is not there: write it as in SQL, with its schema unless that is in the search_path, and in double quotes if it has capitals"}
	}
	s := &trackSubject{}
	return s, json.Unmarshal([]byte(text), s)
}

// Track implements [track.Tracker].
func (c *Core) Track(ctx context.Context, table string, config *track.Config) error {
	err := config.Validate()
	if err == nil {
		err = c.changeTracking(ctx, func(q Querier) (string, error) {
			plan, err := c.planTrack(ctx, q, table, config)
			if err != nil {
				return "", err
			}
			// What the plan goes by must stay so until the triggers are there.
			if err := q.Exec(ctx, plan.lock); err != nil {
				return "", err
			}
			plan, err = c.planTrack(ctx, q, table, config)
			return plan.text, err
		})
	}
	if err != nil {
		return fmt.Errorf("track %s: %w", table, err)
	}
	return nil
}

// Untrack implements [track.Tracker].
func (c *Core) Untrack(ctx context.Context, table string) error {
	err := c.changeTracking(ctx, func(q Querier) (string, error) { return c.untrackSQL(ctx, q, table) })
	if err != nil {
		return fmt.Errorf("untrack %s: %w", table, err)
	}
	return nil
}

// changeTracking runs what plan returns, in the same transaction. Like a migration
// it waits for who has the table, but not long at a time: behind it all others wait.
func (c *Core) changeTracking(ctx context.Context, plan func(q Querier) (string, error)) error {
	return whileLocked(ctx, func() error {
		return c.db.InTx(ctx, ReadWrite, func(q Querier) error {
			if err := q.Exec(ctx, migrateLock); err != nil {
				return err
			}
			// Functions of two tables of one name need two names.
			if err := q.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended("+Literal("outbox track "+c.names.Schema)+", 0))"); err != nil {
				return err
			}
			statements, err := plan(q)
			if err != nil {
				return err
			}
			return q.Exec(ctx, statements)
		})
	})
}

// TrackSQL implements [track.Tracker].
func (c *Core) TrackSQL(ctx context.Context, table string, config *track.Config) (string, error) {
	if err := config.Validate(); err != nil {
		return "", fmt.Errorf("track %s: %w", table, err)
	}
	return c.printTracking(ctx, "track "+table, func(q Querier) (string, error) {
		plan, err := c.planTrack(ctx, q, table, config)
		return plan.text, err
	})
}

// UntrackSQL implements [track.Tracker].
func (c *Core) UntrackSQL(ctx context.Context, table string) (string, error) {
	return c.printTracking(ctx, "untrack "+table, func(q Querier) (string, error) { return c.untrackSQL(ctx, q, table) })
}

func (c *Core) printTracking(ctx context.Context, operation string, plan func(q Querier) (string, error)) (text string, err error) {
	err = c.db.InTx(ctx, OneSnapshot, func(q Querier) error {
		text, err = plan(q)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w", operation, err)
	}
	return "BEGIN;\n\n" + text + "COMMIT;\n", nil
}

// trackPlan is how a table is tracked.
type trackPlan struct {
	lock string // the statement with which text begins, the search path apart
	text string
}

// planTrack looks at the table.
func (c *Core) planTrack(ctx context.Context, q Querier, table string, config *track.Config) (plan trackPlan, err error) {
	if err := c.checkTracking(ctx, q); err != nil {
		return plan, err
	}
	subject, err := c.findSubject(ctx, q, table)
	if err != nil {
		return plan, err
	}
	definition, err := track.Resolve(config, subject.subject())
	if err != nil {
		return plan, err
	}
	definition.Into = c.names.Qualified("message")
	tracked, err := c.trackedTables(ctx, q)
	if err != nil {
		return plan, err
	}
	before := subject.among(tracked)
	function, err := c.trackFunction(ctx, q, subject, before)
	if err != nil {
		return plan, err
	}
	return c.names.writeTrack(subject, definition, function, before)
}

// untrackSQL returns the statements that remove what tracks the table.
func (c *Core) untrackSQL(ctx context.Context, q Querier, table string) (string, error) {
	subject, err := c.findSubject(ctx, q, table)
	if err != nil {
		return "", err
	}
	tracked, err := c.trackedTables(ctx, q)
	if err != nil {
		return "", err
	}
	before := subject.among(tracked)
	if before == nil {
		return "", track.ErrNotTracked
	}
	return c.names.writeUntrack(before), nil
}

// checkTracking reports a server that is too old, and an outbox that is not there:
// triggers could be made, and each write would fail.
func (c *Core) checkTracking(ctx context.Context, q Querier) error {
	var version int
	var there bool
	if _, err := queryRow(ctx, q, `SELECT current_setting('server_version_num')::integer`, nil, &version); err != nil {
		return err
	}
	if version < trackMinimum {
		return fmt.Errorf("tables are tracked by PostgreSQL 14 or later, and this is %d", version/10000)
	}
	if _, err := queryRow(ctx, q, tableExists, []any{c.names.Schema, c.names.Prefix + "message"}, &there); err != nil {
		return err
	}
	if !there {
		return &store.MissingError{Missing: []string{"table " + c.names.Qualified("message") + " is missing"}}
	}
	return nil
}
