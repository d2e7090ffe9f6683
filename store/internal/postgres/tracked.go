package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/outbox-go/outbox/store/track"
)

// trackedSQL describes, as JSON, each table with triggers whose function is of the
// outbox's schema and has a definition for its comment. The columns that the payload's
// function reads are those that it depends on.
const trackedSQL = `SELECT json_build_object(
	'oid', c.oid::text, 'schema', n.nspname, 'name', c.relname, 'quoted', format('%I.%I', n.nspname, c.relname),
	'function', p.proname, 'definition', d.description, 'complete', f.oid IS NOT NULL,
	'triggers', (SELECT json_agg(json_build_object('name', t.tgname, 'enabled', t.tgenabled IN ('O', 'A'),
			'op', CASE WHEN t.tgtype & 4 <> 0 THEN 'insert' WHEN t.tgtype & 16 <> 0 THEN 'update' ELSE 'delete' END) ORDER BY t.tgname)
		FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgfoid = p.oid),
	'columns', (SELECT coalesce(json_agg(json_build_object('name', a.attname, 'type', ` + columnTypeSQL + `,
			'used', EXISTS (SELECT FROM pg_catalog.pg_depend u WHERE u.classid = 'pg_catalog.pg_proc'::regclass AND u.objid = f.oid
				AND u.refclassid = 'pg_catalog.pg_class'::regclass AND u.refobjid = c.oid AND u.refobjsubid = a.attnum)) ORDER BY a.attnum), '[]')
		FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
	)::text
FROM (SELECT DISTINCT tgrelid, tgfoid FROM pg_catalog.pg_trigger WHERE NOT tgisinternal) AS of
JOIN pg_catalog.pg_class c ON c.oid = of.tgrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_proc p ON p.oid = of.tgfoid
JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace
JOIN pg_catalog.pg_description d ON d.classoid = 'pg_catalog.pg_proc'::regclass AND d.objoid = p.oid AND d.objsubid = 0
LEFT JOIN pg_catalog.pg_proc f ON f.pronamespace = p.pronamespace AND f.proname = p.proname AND f.pronargs = 1 AND f.proargtypes[0] = c.reltype
WHERE pn.nspname = $1::name AND starts_with(p.proname, $2) AND d.description LIKE '{%'
ORDER BY 1`

// trackedTable is a table that publishes into the outbox.
type trackedTable struct {
	OID        string           `json:"oid"`
	Schema     string           `json:"schema"`
	Name       string           `json:"name"`
	Quoted     string           `json:"quoted"`
	Function   string           `json:"function"`
	Text       string           `json:"definition"`
	Complete   bool             `json:"complete"` // the payload's function is there
	Triggers   []trackedTrigger `json:"triggers"`
	Columns    []trackedColumn  `json:"columns"`
	definition track.Definition
}

type trackedTrigger struct {
	Name    string   `json:"name"`
	Op      track.Op `json:"op"`
	Enabled bool     `json:"enabled"`
}

type trackedColumn struct {
	track.Column
	Used bool `json:"used"`
}

// Tracked implements [track.Tracker].
func (c *Core) Tracked(ctx context.Context, names ...string) (list []track.Table, err error) {
	err = c.db.InTx(ctx, OneSnapshot, func(q Querier) error {
		tracked, err := c.trackedTables(ctx, q)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			if tracked, err = c.named(ctx, q, tracked, names); err != nil {
				return err
			}
		}
		list = make([]track.Table, len(tracked))
		for i := range tracked {
			list[i] = tracked[i].table()
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for tracked tables: %w", err)
	}
	slices.SortFunc(list, func(a, b track.Table) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// failedTransaction is the SQLSTATE of all that follows what has failed.
const failedTransaction = "25P02"

// named returns the tables of those names, as in SQL.
func (c *Core) named(ctx context.Context, q Querier, tracked []trackedTable, names []string) (found []trackedTable, err error) {
	var errs []error
	for _, name := range names {
		subject, err := c.findSubject(ctx, q, name)
		switch t := subject.among(tracked); {
		case len(errs) > 0 && sqlState(err) == failedTransaction: // by a name that is none
			return nil, errors.Join(errs...)
		case err != nil:
			errs = append(errs, err)
		case t == nil:
			errs = append(errs, fmt.Errorf("%s: %w", name, track.ErrNotTracked))
		default:
			found = append(found, *t)
		}
	}
	return found, errors.Join(errs...)
}

func (t *trackedTable) table() track.Table {
	d := &t.definition
	return track.Table{Name: t.Quoted, On: d.On, Fields: d.Fields, Topic: d.Topic, Key: d.Key, Changes: d.Changes(t.state())}
}

// trackedTables returns those of this outbox: others may be in the same schema.
func (c *Core) trackedTables(ctx context.Context, q Querier) (tables []trackedTable, err error) {
	rows, err := q.Query(ctx, trackedSQL, c.names.Schema, c.names.Prefix+trackPrefix)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		var t trackedTable
		if err := json.Unmarshal([]byte(text), &t); err != nil {
			return nil, err
		}
		if json.Unmarshal([]byte(t.Text), &t.definition) == nil && t.definition.Into == c.names.Qualified("message") {
			tables = append(tables, t)
		}
	}
	rows.Close()
	return tables, rows.Err()
}

// state tells what there is of the table now.
func (t *trackedTable) state() track.State {
	s := track.State{Schema: t.Schema, Table: t.Name}
	for _, op := range t.definition.On {
		i := slices.IndexFunc(t.Triggers, func(trigger trackedTrigger) bool { return trigger.Op == op })
		switch {
		case i < 0:
			s.Faults = append(s.Faults, fmt.Sprintf("the trigger for %s is missing; nothing is published of it", op))
		case !t.Triggers[i].Enabled:
			s.Faults = append(s.Faults, fmt.Sprintf("trigger %s is switched off; nothing is published of it", t.Triggers[i].Name))
		}
	}
	if !t.Complete {
		s.Faults = append(s.Faults, "the function that makes payloads is missing; all writes fail")
		return s
	}
	for _, column := range t.Columns {
		if column.Used {
			s.Used = append(s.Used, column.Column)
		} else {
			s.Unused = append(s.Unused, column.Column)
		}
	}
	return s
}
