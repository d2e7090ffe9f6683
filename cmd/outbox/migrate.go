package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

// dialects are what --dialect takes.
var dialects = map[string]string{"postgres": wire.Postgres, "sqlite": wire.SQLite}

func (a *app) migrate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create or upgrade the tables of outbox and inbox, or print the SQL that does",
		Long: `Creates the tables of the outbox, and of the inbox by which workers handle each message once, or
upgrades them. Several processes may do so at once, and nothing is done, nor any right needed to do it,
when all is there. With relay.outboxes it does so for each of them, unless --database-schema or
--database-table-prefix names one.

With --print the SQL goes to standard output instead, as one transaction for an empty database, for
those who use a migration tool of their own: one part for each version, under its name. To upgrade, take
the parts of the later versions. The database is not asked.`,
		Example: `  outbox migrate --database-url postgres://app@localhost/shop
  outbox migrate --print --dialect postgres --database-schema messaging | psql shop`,
		Args: noArguments,
	}
	var show bool
	var dialect string
	cmd.Flags().BoolVar(&show, "print", false, "print the SQL and change nothing")
	cmd.Flags().StringVar(&dialect, "dialect", "", "what to print SQL for, `postgres or sqlite`; else what database.url is")
	keys := a.keyFlags(cmd.Flags(), true, "database", "log").withFile()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l := keys.load()
		kind := checkMigrate(l, show, dialect)
		outboxes := wire.NamedOutboxes(l, kind)
		if err := l.Err(); err != nil {
			return err
		}
		if show {
			return printMigrations(a.stdout, kind, outboxes)
		}
		return a.runMigrate(cmd, l, outboxes)
	}
	return cmd
}

// checkMigrate reports what is wrong and returns the kind of database.
func checkMigrate(l *config.Loaded, show bool, dialect string) string {
	if dialect == "" {
		wire.CheckDatabase(l)
		return wire.DatabaseKind(l.Database.URL)
	}
	kind, ok := dialects[dialect]
	problem := config.Problem{Key: "--dialect", Value: dialect}
	switch {
	case !ok:
		problem.Reason = "must be postgres or sqlite"
		l.Add(problem)
	case !show:
		problem.Reason = "is of use with --print alone: what is migrated is database.url"
		l.Add(problem)
	default:
		wire.CheckNames(l, kind)
	}
	return kind
}

func printMigrations(w io.Writer, kind string, outboxes []config.Database) error {
	for _, o := range outboxes {
		text, err := wire.MigrationSQL(kind, o)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) runMigrate(cmd *cobra.Command, l *config.Loaded, outboxes []config.Database) (err error) {
	ctx := cmd.Context()
	stores, err := wire.OpenStores(ctx, outboxes, 0, l.Log.Logger(a.stderr))
	if err != nil {
		return err
	}
	for _, s := range stores {
		defer closeStore(s, &err)
	}
	for i, s := range stores {
		of := ""
		if len(stores) > 1 {
			of = " of outbox " + wire.OutboxName(outboxes[i])
		}
		if err := s.Migrate(ctx); err != nil {
			return wire.DatabaseError("migrate"+of, l.Database, err)
		}
		if err := s.Check(ctx); err != nil {
			return wire.DatabaseError("check what was migrated"+of, l.Database, err)
		}
		fmt.Fprintf(a.stderr, "outbox: the tables%s in %s are up to date\n", of, config.Redact(l.Database.URL))
	}
	return nil
}
