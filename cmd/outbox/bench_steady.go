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

// benchSteadyFlags are the flags of the command that are no keys.
type benchSteadyFlags struct {
	load               measure.Load
	rate               float64
	duration, warmUp   time.Duration
	emitters, prefetch int
	hold               time.Duration
	holdShare          float64
	relay              string
	timeout            time.Duration
	profile            string
	json               bool
}

// Where the relay of `bench steady` is.
const (
	relayHere    = "here"
	relayProcess = "process"
	relayNone    = "none"
)

func (a *app) benchSteady() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "steady",
		Short: "Measure the time from commit to handler while transactions are committed at a rate",
		Long: `Commits transactions at a rate, each with a business row and a message, and measures how long each message
takes from just before the commit is sent to the handler that consumes it. After --hold-share of the INSERTs
the transaction stays open for --hold. One in a hundred transactions is followed by another one that rolls
back.

Each transaction has its time, whatever became of those before: a slow commit does not lower the rate that is
offered, and what is late is made up for. "Began late" says how well that went; whether the rate was reached is
reported. The messages of a key are emitted on one connection, in the order in which they are to arrive.

--relay=here has the relay in this process. --relay=process has it in a process
of its own, which the database notifies. --relay=none leaves it to a relay that drains the outbox in
--database-schema already, to the exchange or stream that is named; there only a queue is made, and removed
afterwards, but for the stream <stream>-dead of JetStream, which stays. Nothing else may be emitted to it
meanwhile. PostgreSQL only.

Transactions run by Outbox.InTx, which hands their messages to a relay of this process, if it can.

Exits with 1 if a message is lost, phantom (delivered though never committed) or out of order, and if it took
too long.`,
		Example: `  outbox bench steady --rate 100
  outbox bench steady --database-url postgres://postgres@localhost/postgres \
    --broker-url amqp://guest:guest@localhost/ --relay process --hold 3ms --hold-share 0.5
  outbox bench steady --database-url postgres://app@localhost/shop --database-schema outbox \
    --broker-url amqp://guest:guest@localhost/ --relay none --json`,
		Args: noArguments,
	}
	var f benchSteadyFlags
	keys := f.add(a, cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runBenchSteady(cmd, &f, keys) }
	return cmd
}

func (f *benchSteadyFlags) add(a *app, cmd *cobra.Command) *configFlags {
	flags := cmd.Flags()
	flags.SetNormalizeFunc(shorten)
	flags.Float64Var(&f.rate, "rate", 1000, "transactions a second of all emitters together")
	flags.DurationVar(&f.duration, "duration", 10*time.Second, "how long to emit, without the warming up")
	flags.DurationVar(&f.warmUp, "warm-up", time.Second, "how long to emit before that, which does not count")
	flags.IntVar(&f.emitters, "emitters", 0, "connections that transactions run on (default 8; SQLite 1)")
	flags.DurationVar(&f.hold, "hold", 0, "how long a transaction that is held stays open after its INSERT (default 3ms; SQLite 0s)")
	flags.Float64Var(&f.holdShare, "hold-share", 0.5, "share of the transactions that are held, 0 to 1")
	flags.IntVar(&f.load.Keys, "keys", 10_000, "different keys of the messages, in turn, at least as many as emitters; 0 for messages without keys")
	flags.IntVar(&f.load.Payload, "payload", 250, "bytes of each payload")
	flags.StringVar(&f.relay, "relay", relayHere, "here, process or none: where the relay is; `word`")
	flags.IntVar(&f.prefetch, "prefetch", 2000, "messages that the consumer has taken and not yet acknowledged")
	flags.DurationVar(&f.timeout, "timeout", 0, "time after which to give up (default 1m and twice the time of emitting)")
	flags.BoolVar(&f.json, "json", false, "print the result as one JSON object")
	flags.StringVar(&f.profile, "profile", "", "`folder` for cpu.pprof, heap.pprof and allocs.pprof of this process, warming up included")
	names := append(keysBelow("relay", "name", "route", "outboxes", "listen", "rename"),
		"database.url", "database.schema", "database.table_prefix", "broker.url", "broker.exchange", "broker.stream", "broker.subject_prefix",
		"broker.queue_type", "broker.connections", "log")
	given := a.benchKeyFlags(flags, names...)
	flags.Lookup("queue-type").Usage = "quorum or classic (RabbitMQ); else quorum"
	for _, name := range benchElsewhereFlags {
		flags.Lookup(name).Usage += ", with --relay=none"
	}
	return given
}

// benchElsewhereFlags say where somebody else's relay is.
var benchElsewhereFlags = []string{"database-schema", "database-table-prefix", "broker-exchange", "broker-stream", "broker-subject-prefix"}

func (a *app) runBenchSteady(cmd *cobra.Command, f *benchSteadyFlags, keys *configFlags) error {
	if _, ok := keys.given["log.level"]; !ok {
		keys.given["log.level"] = []string{"warn"}
	}
	l := keys.load()
	f.setDefaults(cmd, wire.DatabaseKind(l.Database.URL) == wire.Postgres)
	f.check(cmd, l)
	if err := l.Err(); err != nil {
		return err
	}
	o := bench.SteadyOptions{
		Options: bench.Options{
			Load: f.load, DatabaseURL: l.Database.URL, Broker: l.Broker, Relay: l.Relay, Prefetch: f.prefetch,
			Timeout: f.timeout, Profile: f.profile, Program: version().Version, Logger: l.Log.Logger(a.stderr),
		},
		Rate: f.rate, Duration: f.duration, WarmUp: f.warmUp, Emitters: f.emitters, Hold: f.hold, HoldShare: f.holdShare,
	}
	switch f.relay {
	case relayNone:
		o.Elsewhere = &l.Database
	case relayProcess:
		process, err := a.relayProcess(keys)
		if err != nil {
			return err
		}
		o.Process = process
	}
	result, err := bench.Steady(cmd.Context(), o)
	if result == nil {
		return err
	}
	write := result.WriteTable
	if f.json {
		write = result.WriteJSON
	}
	return errors.Join(err, result.Err(), write(a.stdout))
}

// setDefaults sets what is another on SQLite: one writer at a time.
func (f *benchSteadyFlags) setDefaults(cmd *cobra.Command, postgres bool) {
	emitters, hold := 1, time.Duration(0)
	if postgres {
		emitters, hold = 8, 3*time.Millisecond
	}
	if !cmd.Flags().Changed("emitters") {
		f.emitters = emitters
	}
	if !cmd.Flags().Changed("hold") {
		f.hold = hold
	}
}

// check reports what is wrong with the flags.
func (f *benchSteadyFlags) check(cmd *cobra.Command, l *config.Loaded) {
	if l.Database.URL != "" {
		wire.CheckDatabase(l)
	}
	checkConsumed(l)
	fault := func(flag string, value any, reason string) {
		l.Add(config.Problem{Key: flag, Value: fmt.Sprint(value), Reason: reason})
	}
	if !(f.rate >= 0.1 && f.rate <= 1_000_000) {
		fault("--rate", f.rate, "must be 0.1 to 1000000")
	} else if messages := f.rate * (f.warmUp + f.duration).Seconds(); f.rate*f.duration.Seconds() < 1 || messages > 100_000_000 {
		fault("--duration", f.duration, "must be so long that it has 1 to 100000000 transactions at that rate")
	}
	lasts := func(flag string, value, most time.Duration) {
		if value < 0 || value > most {
			fault(flag, value, "must be 0s to "+most.String())
		}
	}
	lasts("--warm-up", f.warmUp, time.Hour)
	lasts("--hold", f.hold, time.Minute)
	lasts("--timeout", f.timeout, 1000*time.Hour)
	if !(f.holdShare >= 0 && f.holdShare <= 1) {
		fault("--hold-share", f.holdShare, "must be 0 to 1")
	}
	within(l, "--emitters", f.emitters, 1, 1000)
	within(l, "--keys", f.load.Keys, 0, 10_000_000)
	if f.load.Keys > 0 && f.load.Keys < f.emitters {
		fault("--keys", f.load.Keys, "must be 0, or at least as many as --emitters: each key is one emitter's")
	}
	within(l, "--payload", f.load.Payload, measure.MinPayload, 1<<20)
	within(l, "--prefetch", f.prefetch, 1, 65_535)
	f.checkRelay(cmd, l)
}

func (f *benchSteadyFlags) checkRelay(cmd *cobra.Command, l *config.Loaded) {
	fault := func(flag, value, reason string) { l.Add(config.Problem{Key: flag, Value: value, Reason: reason}) }
	switch f.relay {
	case relayNone:
		if wire.DatabaseKind(l.Database.URL) != wire.Postgres || l.Broker.URL == "" {
			fault("--relay", f.relay, "needs --database-url of PostgreSQL and --broker-url, which that relay has")
		}
		return
	case relayHere, relayProcess:
	default:
		fault("--relay", f.relay, "must be here, process or none")
		return
	}
	for _, name := range benchElsewhereFlags {
		if cmd.Flags().Changed(name) {
			fault("--"+name, "", "is of use with --relay=none alone: else all names are the run's own")
		}
	}
}
