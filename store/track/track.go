// Package track says what a table is to publish by itself: triggers in the database
// put a message into the outbox for each row that a statement inserts, updates or
// deletes, in its transaction, whatever language it comes from. The stores in
// pgxstore and sqlstore are [Tracker]s, and the program does it as "outbox track".
//
// The payload is a JSON object of the row's fields in the order of the config, without
// spaces, of a deleted row as it was; of an updated one all of them, whether they have
// changed or not. Numbers have all their digits, bytes are "\x" and hexadecimal digits,
// infinities are "Infinity" and "-Infinity", times of PostgreSQL are in UTC, and what is
// JSON in PostgreSQL stands there as the column has it. The message's type is the
// table's name. A key of more than 512 bytes is shortened, always in the same way: to its
// first 100 characters, a colon, and its SHA-256 on PostgreSQL or its length on SQLite.
//
// Of one statement, messages of different keys are in no order that means anything. An
// update that changes the key is published under the new one alone: no message tells
// those of the old key, nor is it in order with them. Where an AFTER trigger for each row
// writes the table itself, its change can be published before the one that it follows:
// let a BEFORE trigger change the row instead.
//
// TRUNCATE publishes nothing, on either database. What else is particular to one:
//
// PostgreSQL 14 or later: a statement publishes all its rows by one INSERT, so that
// COPY, MERGE and updates of many rows are cheap. Columns are known by their number:
// one that is renamed is still published under the name that it had. The database
// refuses to drop a published column, to change its type, or to drop the table: untrack
// it first, in the same transaction if no write is to be missed. What is written to a
// partition or to a child by its own name is not seen by the parent's triggers; it can
// be tracked beside it. Who writes the table needs USAGE on the outbox's schema and
// INSERT on its table message. INSERT ... ON CONFLICT DO UPDATE and MERGE publish what
// they insert and what they update one after the other, which shows in the order if
// several of their rows have one key. After an INSERT lastval() is of the outbox's
// sequence: use RETURNING or currval. Where session_replication_role is replica, as for
// a subscription, nothing is published.
//
// SQLite, 3.38 or later in all that write: there is a trigger for each row, and a table
// that is dropped and made again has lost them. Where REPLACE takes the place of another
// row, the deletion of that is published only if PRAGMA recursive_triggers is on. With
// older versions, such as 3.40, a number beyond 1e100 can lose its last digit.
package track

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/outbox-go/outbox"
)

// Tracker is a database whose tables publish by themselves. All methods are safe for
// concurrent use, also while others write the tables.
//
// A table's name is as in SQL on PostgreSQL: with its schema unless that is in the
// search_path, and in double quotes if it has capitals. On SQLite it is just the name.
type Tracker interface {
	// Track has a table publish what is written to it from now on, in place of what
	// it has published so far. A config may be nil. It is one transaction and waits
	// for those that are writing the table, so that no write is missed or published
	// twice. It returns all that is wrong with the config, as [*FieldError]s joined. On
	// PostgreSQL it needs the rights of the table's owner and CREATE on the outbox's
	// schema.
	Track(ctx context.Context, table string, c *Config) error

	// TrackSQL returns the SQL by which Track would work on the table as it is now, with
	// a BEGIN and a COMMIT, for use with a migration tool. It changes nothing. On
	// PostgreSQL the search_path is pg_catalog from there to the transaction's end.
	TrackSQL(ctx context.Context, table string, c *Config) (string, error)

	// Untrack removes all that Track has made for the table, and nothing else. If
	// there is nothing it returns [ErrNotTracked].
	Untrack(ctx context.Context, table string) error

	// UntrackSQL returns the SQL by which Untrack would work, with a BEGIN and a COMMIT.
	UntrackSQL(ctx context.Context, table string) (string, error)

	// Tracked returns the tables that publish into this outbox, by name, and what has
	// changed about them since: all, or those that are named, with [ErrNotTracked] for
	// each that does not.
	Tracked(ctx context.Context, tables ...string) ([]Table, error)
}

// ErrNotTracked is returned for a table that does not publish into the outbox.
var ErrNotTracked = errors.New("table is not tracked")

// Op is a kind of change.
type Op string

// Ops.
const (
	Insert Op = "insert"
	Update Op = "update"
	Delete Op = "delete"
)

// ops are all kinds of changes, in the order in which definitions have them.
var ops = []Op{Insert, Update, Delete}

// Config says what a table publishes.
type Config struct {
	// On is what is published. Defaults to [Insert], [Update] and [Delete].
	On []Op

	// Fields are the columns that the payload has, under their names. Defaults to all
	// that there are when the table is tracked; one that is added later is not
	// published, and is one of [Table.Changes].
	Fields []string

	// Topic is the messages' topic, in which {op}, {table} and {schema} stand for
	// insert, update or delete, and the table's and its schema's name. Defaults to
	// "{table}.{op}".
	Topic string

	// Key are the columns whose values, with commas between them, are the messages'
	// key. A row of which one is NULL has no key, and thereby no order. Defaults to the
	// primary key.
	Key []string
}

// Table is one that is tracked.
type Table struct {
	Name   string   `json:"table"` // as it is called now and to be written in SQL
	On     []Op     `json:"on"`
	Fields []string `json:"fields"` // names in the payload
	Topic  string   `json:"topic"`  // with {op} in it, perhaps
	Key    []string `json:"key"`

	// Changes are what has become of the table since it was tracked, in words:
	// columns that were renamed, whose type has changed or that are new where all are
	// published, another name, a trigger that is missing or switched off. Empty, not
	// nil, if there is nothing.
	Changes []string `json:"changes"`
}

// DefaultTopic is [Config.Topic] unless one is given.
const DefaultTopic = "{table}.{op}"

// FieldError is one thing that is wrong with what is to be tracked.
type FieldError struct {
	Field  string // name of the field of [Config], or Table
	Value  string
	Reason string // what is wrong and what would be right
}

func (e *FieldError) Error() string {
	if e.Value == "" {
		return e.Field + " " + e.Reason
	}
	return fmt.Sprintf("%s %q %s", e.Field, e.Value, e.Reason)
}

// Validate reports all that is wrong with c whatever the table, as [*FieldError]s
// joined.
func (c *Config) Validate() error {
	full := c.withDefaults()
	return errors.Join(full.validate(Subject{Schema: "schema", Name: "table"})...)
}

// validate needs the defaults to be filled in.
func (c *Config) validate(s Subject) (errs []error) {
	for i, op := range c.On {
		if !slices.Contains(ops, op) {
			errs = append(errs, &FieldError{"On", string(op), "is no change that is published: insert, update and delete are"})
		} else if slices.Contains(c.On[:i], op) {
			errs = append(errs, &FieldError{"On", string(op), "is given twice"})
		}
	}
	errs = append(errs, nameFaults("Fields", c.Fields, s)...)
	errs = append(errs, nameFaults("Key", c.Key, s)...)
	return append(errs, topicFaults(c.Topic, s)...)
}

// nameFaults reports empty and repeated names.
func nameFaults(field string, names []string, s Subject) (errs []error) {
	for i, name := range names {
		if name == "" {
			errs = append(errs, &FieldError{field, "", "has an empty name: leave it out, or name a column"})
		} else if slices.ContainsFunc(names[:i], func(other string) bool { return s.same(other, name) }) {
			errs = append(errs, &FieldError{field, name, "is given twice"})
		}
	}
	return errs
}

func topicFaults(template string, s Subject) (errs []error) {
	topic := expand(template, Insert, s)
	if strings.ContainsAny(strings.NewReplacer("{op}", "", "{table}", "", "{schema}", "").Replace(template), "{}") {
		errs = append(errs, &FieldError{"Topic", template, "has braces that are none of {op}, {table} and {schema}"})
	}
	if err := outbox.ValidateTopic(topic); err != nil {
		reason := err.Error()
		if topic != template {
			reason = fmt.Sprintf("would be %q, which %s", topic, reason)
		}
		errs = append(errs, &FieldError{"Topic", template, reason})
	}
	return errs
}

func expand(template string, op Op, s Subject) string {
	return strings.NewReplacer("{op}", string(op), "{table}", s.Name, "{schema}", s.Schema).Replace(template)
}

// withDefaults fills in what does not depend on the table.
func (c *Config) withDefaults() Config {
	var full Config
	if c != nil {
		full = *c
	}
	if len(full.On) == 0 {
		full.On = ops
	}
	if full.Topic == "" {
		full.Topic = DefaultTopic
	}
	return full
}
