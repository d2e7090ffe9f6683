package wire

import (
	"slices"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/store/sqlstore"
)

// CheckOutboxes reports what is wrong with relay.outboxes on that kind of database,
// and returns each of them as a database of its own; without any, that of database.*.
func CheckOutboxes(l *config.Loaded, kind string) []config.Database {
	if len(l.Drain.Outboxes) == 0 {
		return []config.Database{l.Database}
	}
	var all []config.Database
	for _, o := range l.Drain.Outboxes {
		one := l.Database
		one.TablePrefix = o.TablePrefix
		if o.Schema != "" {
			one.Schema = o.Schema
		}
		switch {
		case kind == SQLite && o.Schema != "":
			l.Fault("relay.outboxes", "names the schema "+o.Schema+", and SQLite has none: write /"+o.Schema+" for a table prefix")
		case kind == Postgres:
			fault(l, "relay.outboxes", (&pgxstore.Config{Schema: one.Schema, TablePrefix: one.TablePrefix}).Validate())
		case kind == SQLite:
			_, err := sqlstore.MigrationSQL(sqlstore.SQLite, &sqlstore.Config{TablePrefix: one.TablePrefix})
			fault(l, "relay.outboxes", err)
		}
		if slices.Contains(all, one) {
			l.Fault("relay.outboxes", "has "+OutboxName(one)+" twice: remove one of them")
		}
		all = append(all, one)
	}
	return all
}

// NamedOutboxes is [CheckOutboxes] for a command that goes over all of them, unless
// flags name one.
func NamedOutboxes(l *config.Loaded, kind string) []config.Database {
	if oneNamed(l) {
		return []config.Database{l.Database}
	}
	return CheckOutboxes(l, kind)
}

// CheckOneOutbox reports that there are several outboxes and no flag says which one is
// meant: database.* is mostly none of them.
func CheckOneOutbox(l *config.Loaded) {
	if len(l.Drain.Outboxes) > 0 && !oneNamed(l) {
		l.Fault("relay.outboxes", "is set, and this command is for one outbox: name it by --database-schema or --database-table-prefix")
	}
}

func oneNamed(l *config.Loaded) bool {
	return l.ByFlag("database.schema") || l.ByFlag("database.table_prefix")
}

// OutboxName returns what people call one of several outboxes in a database, as
// relay.outboxes has it.
func OutboxName(c config.Database) string {
	name := c.Schema
	if DatabaseKind(c.URL) == SQLite {
		name = ""
	}
	if c.TablePrefix != "" {
		name += "/" + c.TablePrefix
	}
	return name
}
