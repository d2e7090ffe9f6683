// Package postgres is the part that the stores for PostgreSQL share, whatever
// driver they use: the schema and its migrations, and the statements of a relay.
// PostgreSQL 13 or later is needed, for xid8 and pg_snapshot.
package postgres

import (
	"errors"
	"fmt"
	"strings"
)

// Defaults of [NewNames].
const (
	DefaultSchema = "outbox"
	DefaultPrefix = ""
)

// maxPrefix leaves room for the longest name in an identifier of 63 bytes.
const maxPrefix = 32

// Names are the database's objects under the user's schema and prefix, quoted.
type Names struct {
	Schema  string // as the user gave it
	Prefix  string
	Channel string // of LISTEN and NOTIFY
	Route   string // that {route} stands for
	replace *strings.Replacer
}

// objects are the names that SQL text refers to in braces.
var objects = []string{
	"message", "lease", "relay", "incarnation", "armed", "wake", "emit", "inbox", "migration",
	"scheduled", "dead", "sent", "sent_default", "sent_place", "pause",
}

// parts are the names of constraints, indexes and triggers, which have no schema.
var parts = []string{
	"message_pk", "message_txid", "lease_pk", "relay_pk", "incarnation_pk", "inbox_pk", "inbox_received", "migration_pk", "wake_trigger",
	"scheduled_pk", "scheduled_due", "scheduled_id", "dead_pk", "dead_id", "dead_key",
	"sent_places", "sent_id", "sent_time", "pause_pk",
}

// NewNames checks schema, which defaults to "outbox", and prefix.
func NewNames(schema, prefix string) (*Names, error) {
	if schema == "" {
		schema = DefaultSchema
	}
	var errs []error
	if len(schema) > 63 || strings.ContainsRune(schema, 0) {
		errs = append(errs, fmt.Errorf("schema %q: at most 63 bytes and no NUL are allowed", schema))
	}
	if len(prefix) > maxPrefix || strings.ContainsRune(prefix, 0) {
		errs = append(errs, fmt.Errorf("table prefix %q: at most %d bytes and no NUL are allowed", prefix, maxPrefix))
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	return newNames(schema, prefix, ""), nil
}

func newNames(schema, prefix, route string) *Names {
	n := &Names{Schema: schema, Prefix: prefix, Channel: channel(schema, prefix), Route: route}
	pairs := []string{"{schema}", Quote(schema), "{channel}", Literal(n.Channel), "{route}", Literal(route)}
	for _, name := range objects {
		pairs = append(pairs, "{"+name+"}", Quote(schema)+"."+Quote(prefix+name))
	}
	for _, name := range []string{"armed", "sent", "sent_default", "sent_place"} {
		pairs = append(pairs, "{"+name+"_literal}", Literal(Quote(schema)+"."+Quote(prefix+name))+"::regclass")
	}
	for _, name := range parts {
		pairs = append(pairs, "{"+name+"}", Quote(prefix+name))
	}
	n.replace = strings.NewReplacer(pairs...)
	return n
}

// WithRoute returns the same names with another route.
func (n *Names) WithRoute(route string) *Names { return newNames(n.Schema, n.Prefix, route) }

// SQL returns text with the names in braces replaced.
func (n *Names) SQL(text string) string { return n.replace.Replace(text) }

// Qualified returns the schema and the object's name, unquoted, for messages.
func (n *Names) Qualified(object string) string { return n.Schema + "." + n.Prefix + object }

// channel keeps outboxes apart within a database; a channel's name has at most
// 63 bytes.
func channel(schema, prefix string) string {
	name := schema + "." + prefix + "message"
	if len(name) > 63 {
		name = name[len(name)-63:]
	}
	return name
}

// Quote returns s as a quoted identifier.
func Quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// Literal returns s as a string literal.
func Literal(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.ContainsRune(s, '\\') {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
