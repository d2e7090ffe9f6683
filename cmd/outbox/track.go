package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/store/track"
)

// trackFlags say what a table is to publish, or what to tell of those that do.
type trackFlags struct {
	flags       *pflag.FlagSet
	on          []string
	config      track.Config
	print       bool
	list, check bool
	json        bool
}

func (a *app) track() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "track [TABLE]",
		Short: "Have a table publish what is written to it, by triggers, whatever writes it",
		Long: `Makes triggers by which a table publishes each row that is inserted, updated or deleted, in the
transaction of who does it: in any language, by COPY, and by updates of many rows. What the table has
published before is replaced, with nothing lost or doubled in between. The payload is a JSON object of the
fields, by default of all columns that there are; the key is the primary key, unless --key names other
columns. In the topic {op}, {table} and {schema} stand for insert, update or delete, and the names.

TABLE is written as in SQL; on SQLite it is the name alone, without quotes. Who writes it must be allowed
to insert into the outbox. TRUNCATE publishes nothing. On PostgreSQL, 14 or later, a column may be renamed
and is published under its old name, while a column that is published cannot be dropped and keeps its type
until "outbox untrack"; what is written to a partition by its own name is not seen. On SQLite a table that
is made anew is to be tracked again.

With --print the SQL goes to standard output instead, for a migration tool of your own, made for the table
as it is in the database now. It has a BEGIN and a COMMIT of its own: take them off if the tool or another
change has the transaction. --list lists the tables that are tracked, and --check says what has changed
about them since, and exits with 1 if something has: all of them, or those that are named.`,
		Example: `  outbox track users --on insert,update,delete --fields id,name --topic users.{op} --key id
  outbox track shop.orders --print > migrations/0042_track_orders.sql
  outbox track --check`,
		Args: cobra.ArbitraryArgs,
	}
	f := &trackFlags{flags: cmd.Flags()}
	f.flags.StringSliceVar(&f.on, "on", []string{"insert", "update", "delete"}, "`changes` that are published")
	f.flags.StringSliceVar(&f.config.Fields, "fields", nil, "`columns` that the payload has; else all")
	f.flags.StringVar(&f.config.Topic, "topic", track.DefaultTopic, "the messages' topic")
	f.flags.StringSliceVar(&f.config.Key, "key", nil, "`columns` that make the messages' key; else the primary key")
	f.flags.BoolVar(&f.print, "print", false, "print the SQL and change nothing")
	f.flags.BoolVar(&f.list, "list", false, "list the tables that are tracked")
	f.flags.BoolVar(&f.check, "check", false, "say what has changed about tracked tables")
	f.flags.BoolVar(&f.json, "json", false, "with --list or --check, print each table as a line of JSON")
	return a.administer(cmd, f.validate, func(cmd *cobra.Command, s wire.Store, args []string) error {
		switch {
		case f.list:
			return f.listTables(cmd, s, args, a.stdout)
		case f.check:
			return f.checkTables(cmd, s, args, a.stdout)
		}
		return f.run(cmd, s, args[0], a.stdout)
	})
}

// validate reports what is wrong with the flags whatever the table.
func (f *trackFlags) validate(l *config.Loaded, args []string) {
	f.config.On = nil
	for _, op := range f.on {
		f.config.On = append(f.config.On, track.Op(op))
	}
	for _, problem := range trackProblems(f.config.Validate()) {
		l.Add(problem)
	}
	for _, name := range []string{"on", "fields", "topic", "key"} {
		if value := f.flags.Lookup(name).Value.String(); f.flags.Changed(name) && (value == "" || value == "[]") {
			l.Add(config.Problem{Key: "--" + name, Reason: "is empty: leave it out or name one"})
		}
	}
	telling := f.list || f.check
	for _, name := range []string{"on", "fields", "topic", "key", "print"} {
		if telling && f.flags.Changed(name) {
			l.Add(config.Problem{Key: "--" + name, Reason: "is given beside --list or --check, which change nothing: leave out one of them"})
		}
	}
	switch {
	case f.list && f.check:
		l.Add(config.Problem{Key: "--check", Reason: "is given beside --list: leave out one of them"})
	case !telling && len(args) == 0:
		l.Add(config.Problem{Key: "TABLE", Reason: "is not given: name the table, or give --list or --check"})
	case !telling && len(args) > 1:
		l.Add(config.Problem{Key: "TABLE", Value: strings.Join(args, " "), Reason: "is more than one: track them one by one"})
	}
	if f.json && !telling {
		l.Add(config.Problem{Key: "--json", Reason: "is of use with --list or --check alone"})
	}
}

func (f *trackFlags) run(cmd *cobra.Command, t track.Tracker, table string, out io.Writer) error {
	if f.print {
		return printSQL(out, func() (string, error) { return t.TrackSQL(cmd.Context(), table, &f.config) })
	}
	if err := t.Track(cmd.Context(), table, &f.config); err != nil {
		return trackError(err)
	}
	_, err := fmt.Fprintf(out, "tracked: %s\n", table)
	return err
}

func printSQL(out io.Writer, write func() (string, error)) error {
	text, err := write()
	if err != nil {
		return trackError(err)
	}
	_, err = io.WriteString(out, text)
	return err
}

func (f *trackFlags) listTables(cmd *cobra.Command, t track.Tracker, names []string, out io.Writer) error {
	tables, err := t.Tracked(cmd.Context(), names...)
	switch {
	case err != nil:
		return trackError(err)
	case f.json:
		return encodeTables(out, tables)
	}
	w := newTable(out)
	if len(tables) > 0 {
		fmt.Fprintln(w, "TABLE\tON\tTOPIC\tKEY\tFIELDS\tCHANGES")
	}
	for _, table := range tables {
		ops := make([]string, len(table.On))
		for i, op := range table.On {
			ops[i] = string(op)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\n", cell(table.Name), strings.Join(ops, ","), cell(table.Topic),
			cell(strings.Join(table.Key, ",")), cell(strings.Join(table.Fields, ",")), len(table.Changes))
	}
	return w.Flush()
}

// checkTables prints what has changed, or as JSON the tables of which something has.
func (f *trackFlags) checkTables(cmd *cobra.Command, t track.Tracker, names []string, out io.Writer) error {
	tables, err := t.Tracked(cmd.Context(), names...)
	if err != nil {
		return trackError(err)
	}
	changed := slices.DeleteFunc(tables, func(table track.Table) bool { return len(table.Changes) == 0 })
	if f.json {
		err = encodeTables(out, changed)
	} else {
		for _, table := range changed {
			for _, change := range table.Changes {
				fmt.Fprintf(out, "%s: %s\n", printable(table.Name), printable(change))
			}
		}
	}
	if err == nil && len(changed) > 0 {
		err = outcome(count(len(changed), "table has", "tables have") + " changed since being tracked; to publish what there is now, run `outbox track` again")
	}
	return err
}

func encodeTables(out io.Writer, tables []track.Table) error {
	for i := range tables {
		if err := encodeLine(out, &tables[i]); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) untrack() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "untrack TABLE",
		Short: "End that a table publishes what is written to it",
		Long: `Removes the triggers and functions that "outbox track" has made for the table, and nothing else. With
--print the SQL goes to standard output instead, with a BEGIN and a COMMIT of its own. A table that is not tracked is an error.`,
		Example: `  outbox untrack users`,
		Args:    cobra.ExactArgs(1),
	}
	var show bool
	cmd.Flags().BoolVar(&show, "print", false, "print the SQL and change nothing")
	none := func(*config.Loaded, []string) {}
	return a.administer(cmd, none, func(cmd *cobra.Command, s wire.Store, args []string) error {
		if show {
			return printSQL(a.stdout, func() (string, error) { return s.UntrackSQL(cmd.Context(), args[0]) })
		}
		if err := s.Untrack(cmd.Context(), args[0]); err != nil {
			return trackError(err)
		}
		_, err := fmt.Fprintf(a.stdout, "not tracked any more: %s\n", args[0])
		return err
	})
}

// trackError tells what is wrong with the flags by their names.
func trackError(err error) error {
	if problems := trackProblems(err); len(problems) > 0 {
		return &config.Error{Problems: problems}
	}
	if errors.Is(err, track.ErrNotTracked) {
		return outcome(err.Error() + "; see `outbox track --list`")
	}
	return err
}

// trackProblems returns the faults in err, by the names of the flags.
func trackProblems(err error) (problems []config.Problem) {
	switch fault := err.(type) { //nolint:errorlint // the whole tree of errors is gone through
	case *track.FieldError:
		name := "--" + strings.ToLower(fault.Field)
		if fault.Field == "Table" {
			name = "TABLE"
		}
		return []config.Problem{{Key: name, Value: fault.Value, Reason: fault.Reason}}
	case interface{ Unwrap() []error }:
		for _, one := range fault.Unwrap() {
			problems = append(problems, trackProblems(one)...)
		}
	case interface{ Unwrap() error }:
		return trackProblems(fault.Unwrap())
	}
	return problems
}
