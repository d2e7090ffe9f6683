package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/demo"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

// demoFlags are the flags of the demo itself.
type demoFlags struct {
	messages, keys, relays int
	timeout                time.Duration
	json                   bool
}

func (a *app) demo() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job on real servers: no message lost, none invented, each key in order",
		Long: `Places orders, each with its message in one transaction, about one in ten of which rolls back;
relays bring the messages to a broker, and a worker compares what arrives with what was committed.

Without URLs it uses an SQLite file and a JetStream server inside the process, in a temporary folder.
With them it makes a schema (an SQLite file must not exist yet) and an exchange with its queue, or a
stream, of its own, and removes them afterwards. On PostgreSQL one transaction in 200 stays open for
50 to 500 ms after its emit, while others commit, and another order of its account follows at once.

Latency is from just before the commit to the start of the handler, throughput from the first emit to
the last delivery. Only flags configure the demo: it reads neither variables nor a file.

Exits with 1 if a message is lost, phantom (delivered though rolled back) or out of order, and if it was
interrupted or took too long.`,
		Example: `  outbox demo
  outbox demo --messages 100000 --relays 4 \
    --database-url postgres://postgres@localhost/postgres --broker-url amqp://guest:guest@localhost/`,
		Args: noArguments,
	}
	var f demoFlags
	flags := cmd.Flags()
	flags.IntVar(&f.messages, "messages", 10_000, "orders to commit")
	flags.IntVar(&f.keys, "keys", 100, "accounts, which are the messages' keys")
	flags.IntVar(&f.relays, "relays", 2, "relays that share the work")
	flags.DurationVar(&f.timeout, "timeout", 0, "time after which to give up (default 2m and 2s for each 1,000 messages)")
	flags.BoolVar(&f.json, "json", false, "print the result as one JSON object")
	// Not what says what the program drains, or gives messages other topics.
	names := append(keysBelow("relay", "route", "outboxes", "listen", "rename"), "database.url", "broker.url", "log")
	keys := a.keyFlags(flags, false, names...)
	_ = flags.MarkHidden("relay-name") // each relay has its own
	flags.Lookup("database-url").Usage = "postgres://, postgresql:// or sqlite:PATH, instead of a temporary SQLite file"
	flags.Lookup("broker-url").Usage = "amqp://, amqps:// or nats://, instead of a JetStream server in this process"
	flags.Lookup("log-level").DefValue = "warn"
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runDemo(cmd, &f, keys) }
	return cmd
}

func (a *app) runDemo(cmd *cobra.Command, f *demoFlags, keys *configFlags) error {
	if _, ok := keys.given["log.level"]; !ok {
		keys.given["log.level"] = []string{"warn"}
	}
	l := keys.load()
	checkDemo(l, f)
	if err := l.Err(); err != nil {
		return err
	}
	o := demo.Options{
		Messages: f.messages, Keys: f.keys, Relays: f.relays, Timeout: f.timeout,
		DatabaseURL: l.Database.URL, BrokerURL: l.Broker.URL, Relay: l.Relay, Logger: l.Log.Logger(a.stderr),
	}
	if isTerminal(a.stderr) {
		o.Progress = a.stderr
	}
	result, err := demo.Run(cmd.Context(), o)
	if result == nil {
		return err
	}
	return errors.Join(err, f.report(a.stdout, o.Title(), result))
}

// report writes the result. Its error says if that is not what was promised.
func (f *demoFlags) report(w io.Writer, title string, result *demo.Result) error {
	if f.json {
		return errors.Join(result.Err(), result.WriteJSON(w))
	}
	fmt.Fprintf(w, "%s\n\n", title)
	return errors.Join(result.Err(), result.WriteTable(w))
}

// checkDemo reports what is wrong with the flags.
func checkDemo(l *config.Loaded, f *demoFlags) {
	if l.Database.URL != "" {
		wire.CheckDatabase(l)
	}
	if l.Broker.URL != "" {
		wire.CheckBroker(l)
		switch wire.BrokerKind(l.Broker.URL) {
		case wire.Stdout, wire.HTTP, wire.STOMP:
			l.Fault("broker.url", "delivers to no worker of the demo: use amqp://, amqps:// or nats://")
		case wire.RabbitMQ:
			checkOneHost(l)
		}
	}
	within(l, "--messages", f.messages, 1, 100_000_000)
	within(l, "--keys", f.keys, 1, 1_000_000)
	within(l, "--relays", f.relays, 1, 64)
	if f.timeout < 0 {
		l.Add(config.Problem{Key: "--timeout", Value: f.timeout.String(), Reason: "must be a positive duration"})
	}
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd())) //nolint:gosec // a descriptor is small
}
