package sqlite

import (
	"errors"
	"fmt"
	"strings"
)

// DefaultPrefix is the table prefix unless one is given.
const DefaultPrefix = "outbox_"

const maxPrefix = 32

const (
	// content are the columns that a message has wherever it stands, its route apart.
	content = `id, topic, key, tenant, type, version, content_type, headers, payload, created_at, deliver_at, expires_at`

	// living are the same, without the end of a message that has come to it.
	living = `id, topic, key, tenant, type, version, content_type, headers, payload, created_at, deliver_at,
		iif(expires_at <= ` + now + `, NULL, expires_at)`

	// never is the retry_at of a message that waits until somebody acts.
	never = `9223372036854775807`

	// now is the database's clock in microseconds. It ticks in milliseconds. Columns
	// have it as their default, which the SQLite of whoever writes works out: that of
	// before 3.42 knows no unixepoch('subsec'), and would make it NULL.
	now = `CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000`

	// uuid makes a version 4 UUID (RFC 9562).
	uuid = `lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-' ||
		substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))`
)

// tables are all names of tables and indexes.
var tables = []string{
	"message", "message_route", "message_retry", "scheduled", "scheduled_due", "scheduled_id",
	"dead", "dead_id", "dead_parked", "sent", "sent_at", "sent_id", "pause",
	"lease", "lease_old", "relay", "inbox", "inbox_received", "migration",
}

// Names are the database's tables under the user's prefix.
type Names struct {
	prefix  string
	replace *strings.Replacer
}

// NewNames checks prefix, which defaults to "outbox_".
func NewNames(prefix string) (*Names, error) {
	if prefix == "" {
		prefix = DefaultPrefix
	}
	var errs []error
	if len(prefix) > maxPrefix || strings.ContainsRune(prefix, 0) {
		errs = append(errs, fmt.Errorf("table prefix %q: at most %d bytes and no NUL are allowed", prefix, maxPrefix))
	}
	if len(prefix) >= len("sqlite_") && strings.EqualFold(prefix[:len("sqlite_")], "sqlite_") {
		errs = append(errs, fmt.Errorf("table prefix %q: SQLite keeps names that begin with sqlite_ for itself", prefix))
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	pairs := []string{"{now}", now, "{uuid}", uuid, "{content}", content, "{living}", living, "{never}", never}
	for _, table := range tables {
		pairs = append(pairs,
			"{"+table+"}", `"`+strings.ReplaceAll(prefix+table, `"`, `""`)+`"`,
			"{"+table+"_literal}", literal(prefix+table))
	}
	return &Names{prefix: prefix, replace: strings.NewReplacer(pairs...)}, nil
}

// sql returns text with the names in braces replaced.
func (n *Names) sql(text string) string { return n.replace.Replace(text) }

func (n *Names) table(name string) string { return n.prefix + name }

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
