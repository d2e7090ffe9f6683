package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/outbox-go/outbox/cmd/outbox/internal/bench"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

// drainFlags are the flags of `bench drain`.
type drainFlags struct {
	trafficFlags
	order        string
	relays       int
	relayProcess bool
	holdSnapshot bool
	idle         int
}

func (a *app) benchDrain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Measure how fast relays bring a backlog to a broker, with a consumer",
		Long: `Emits a backlog, then starts the relays, and measures from there to the arrival of the last message at a
consumer, or with --no-consumer until the outbox is empty. A tenth of the messages, at most 1,000, is emitted
beside them and rolled back. "By tenths" is the rate of each tenth of the messages: it tells whether the
relays slow down.

With --relay-process each relay is a process of its own, as in production, and the result has the processor
time and the most memory that it took; its start is on the clock.

Exits with 1 if a message is lost, phantom (delivered though never committed) or out of order, and if it took
too long.`,
		Example: `  outbox bench drain
  outbox bench drain --database-url postgres://postgres@localhost/postgres \
    --broker-url amqp://guest:guest@localhost/ --messages 1000000 --relay-process
  outbox bench drain --database-url postgres://postgres@localhost/postgres --hold-snapshot --json`,
		Args: noArguments,
	}
	var f drainFlags
	flags := cmd.Flags()
	flags.StringVar(&f.order, "order", "strict", "strict has one message of a key in flight, pipelined several; `word`")
	flags.IntVar(&f.relays, "relays", 1, "relays that share the work")
	flags.BoolVar(&f.relayProcess, "relay-process", false, "run each relay in a process of its own")
	flags.BoolVar(&f.holdSnapshot, "hold-snapshot", false, "have another session hold a snapshot, which keeps dead rows from being cleaned up (PostgreSQL)")
	flags.IntVar(&f.idle, "idle-outboxes", 0, "outboxes in schemas of their own beside it, each with an idle relay in this process (PostgreSQL)")
	keys := append(keysBelow("relay", "name", "route", "outboxes", "listen", "rename", "pipelined"), "database.url")
	given := f.add(a, flags, keys...)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.order == "pipelined" {
			given.given["relay.pipelined"] = []string{"#"}
		}
		l := f.loadKeys(given)
		f.check(l)
		if err := l.Err(); err != nil {
			return err
		}
		o := f.options(a, l)
		o.DatabaseURL, o.Relays, o.HoldSnapshot, o.IdleOutboxes = l.Database.URL, f.relays, f.holdSnapshot, f.idle
		if f.relayProcess {
			var err error
			if o.Process, err = a.relayProcess(given); err != nil {
				return err
			}
		}
		result, err := bench.Drain(cmd.Context(), o)
		return f.report(a.stdout, result, err)
	}
	return cmd
}

// check reports what is wrong with the flags.
func (f *drainFlags) check(l *config.Loaded) {
	if l.Database.URL != "" {
		wire.CheckDatabase(l)
	}
	within(l, "--relays", f.relays, 1, 64)
	within(l, "--idle-outboxes", f.idle, 0, 1000)
	fault := func(key, reason string) { l.Add(config.Problem{Key: key, Reason: reason}) }
	if f.order != "strict" && f.order != "pipelined" {
		l.Add(config.Problem{Key: "--order", Value: f.order, Reason: "must be strict or pipelined"})
	}
	if wire.DatabaseKind(l.Database.URL) != wire.Postgres {
		if f.holdSnapshot {
			fault("--hold-snapshot", "is of PostgreSQL: name one by --database-url")
		}
		if f.idle > 0 {
			fault("--idle-outboxes", "are schemas of PostgreSQL: name one by --database-url")
		}
	}
	if f.noConsumer && f.relayProcess {
		fault("--no-consumer", "does not go with --relay-process, of which only a consumer knows what it has sent: leave out one of them")
	}
}

// relayProcess says how to run relays with the keys that were given.
func (a *app) relayProcess(given *configFlags) (*bench.Process, error) {
	executable, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &bench.Process{Executable: executable, Environ: a.environ, Keys: map[string]string{}, Stderr: a.stderr, Children: &a.children}
	for name, values := range given.given {
		p.Keys[name] = strings.Join(values, ",")
	}
	return p, nil
}
