package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/outbox-go/outbox/cmd/outbox/internal/bench"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/internal/measure"
)

// benchEmitFlags are the flags of the command that are no keys.
type benchEmitFlags struct {
	connections, rounds, payload int
	slice                        time.Duration
	profile                      string
	json                         bool
}

func (a *app) benchEmit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "emit",
		Short: "Measure what emitting costs, against the same transaction without the outbox",
		Long: `Runs the same business transaction with the outbox and without it, and compares the rates. It updates one
row, which no other transaction touches, and inserts one row with a primary key; the message has a key and
--payload bytes. Nothing relays: the outbox is emptied between the slices.

Each round runs a slice of every variant, in an order of its own. Ratios are those of each round, and of
them the median, with --json also the least and the greatest. Each variant is compared with "none", the transaction whose statements take
a round trip each, and with its counterpart: the one without the outbox that sends its statements likewise.

On PostgreSQL a relay that waits to be notified has transactions notify as they commit, which has commits
wait for one another, but for those of InTx. A relay that is busy, with 3,000 messages a second or more,
switches that off. So variants come with notifications off, and as *-armed with them on: the
database is set as a busy or an idle relay would leave it. Another connection listens all the time.

On SQLite there is one connection, and the variants are with synchronous = FULL, as sqlstore.SQLiteDSN
has it, and NORMAL.

After each slice one transaction rolls back on each connection, and messages are compared with business
rows. Exits with 1 if a message is lost or phantom (there though its transaction rolled back).`,
		Example: `  outbox bench emit
  outbox bench emit --database-url postgres://postgres@localhost/postgres --connections 8 --json`,
		Args: noArguments,
	}
	var f benchEmitFlags
	flags := cmd.Flags()
	flags.IntVar(&f.connections, "connections", 0, "transactions at once (default 32; SQLite 1)")
	flags.IntVar(&f.rounds, "rounds", 5, "slices of each variant")
	flags.DurationVar(&f.slice, "slice", 500*time.Millisecond, "time of each slice")
	flags.IntVar(&f.payload, "payload", 250, "bytes of a message's payload")
	flags.StringVar(&f.profile, "profile", "", "`folder` to write cpu.pprof, heap.pprof and allocs.pprof of this process to")
	flags.BoolVar(&f.json, "json", false, "print the result as one JSON object")
	keys := a.benchKeyFlags(flags, "database.url", "log")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runBenchEmit(cmd, &f, keys) }
	return cmd
}

func (a *app) runBenchEmit(cmd *cobra.Command, f *benchEmitFlags, keys *configFlags) error {
	if _, ok := keys.given["log.level"]; !ok {
		keys.given["log.level"] = []string{"warn"}
	}
	l := keys.load()
	if !cmd.Flags().Changed("connections") {
		f.connections = bench.DefaultEmitConnections(l.Database.URL)
	}
	f.check(l)
	if err := l.Err(); err != nil {
		return err
	}
	result, err := bench.Emit(cmd.Context(), bench.EmitOptions{
		DatabaseURL: l.Database.URL, Connections: f.connections, Rounds: f.rounds, Slice: f.slice, Payload: f.payload,
		Profile: f.profile, Program: version().Version, Logger: l.Log.Logger(a.stderr),
	})
	if result == nil {
		return err
	}
	write := result.WriteTable
	if f.json {
		write = result.WriteJSON
	}
	return errors.Join(err, result.Err(), write(a.stdout))
}

// check reports what is wrong with the flags.
func (f *benchEmitFlags) check(l *config.Loaded) {
	const most = 1000
	mostConnections, hint := most, ""
	if l.Database.URL != "" {
		wire.CheckDatabase(l)
	}
	if wire.DatabaseKind(l.Database.URL) != wire.Postgres {
		mostConnections, hint = 1, ": SQLite has one writer"
	}
	within := func(flag string, value, least, most int, hint string) {
		if value < least || value > most {
			l.Add(config.Problem{Key: flag, Value: fmt.Sprint(value), Reason: fmt.Sprintf("must be %d to %d%s", least, most, hint)})
		}
	}
	within("--connections", f.connections, 1, mostConnections, hint)
	within("--rounds", f.rounds, 1, most, "")
	within("--payload", f.payload, measure.MinPayload, 1<<20, "")
	if f.slice < time.Millisecond || f.slice > time.Hour {
		l.Add(config.Problem{Key: "--slice", Value: f.slice.String(), Reason: "must be 1ms to 1h"})
	}
}
