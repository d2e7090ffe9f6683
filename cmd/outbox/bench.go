package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outbox-go/outbox/cmd/outbox/internal/bench"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/internal/measure"
)

func (a *app) bench() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure on your own servers what emitting and relaying cost, and how fast they are",
		Long: `Measures on your own servers what emitting and relaying cost, and how fast they are.

Each run makes a schema (an SQLite file must not exist yet) and an exchange with its queue, or a stream, of
its own, and removes them afterwards. Without URLs it uses an SQLite file and a JetStream server inside the
process, in a temporary folder. It checks whether a message is lost, comes twice or out of order, and prints
what it ran on. Flags configure it, and no file. URLs, which may have passwords, may stand in the variables
OUTBOX_BENCH_DATABASE_URL and OUTBOX_BENCH_BROKER_URL instead, where other users of the machine do not see
them. No other variable is read: nobody measures a server of production because its URL is there.

A rate says something beside another one of the same machine and minute alone: compare "drain" with "limit",
turn by turn, several times.`,
		Args: noArguments,
	}
	cmd.AddCommand(a.benchDrain(), a.benchSteady(), a.benchEmit(), a.benchLimit())
	return cmd
}

// trafficFlags are what `bench drain` and `bench limit` have in common.
type trafficFlags struct {
	load       measure.Load
	prefetch   int
	noConsumer bool
	timeout    time.Duration
	json       bool
	profile    string
}

// shortNames are what keys of the configuration are called where the command leaves no
// doubt. Their long names work, too.
var shortNames = map[string]string{"relay-window": "window", "broker-queue-type": "queue-type", "broker-connections": "connections"}

func shorten(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if short, ok := shortNames[name]; ok {
		name = short
	}
	return pflag.NormalizedName(name)
}

// add adds the flags, and those of the keys of that name.
func (f *trafficFlags) add(a *app, flags *pflag.FlagSet, keys ...string) *configFlags {
	flags.SetNormalizeFunc(shorten)
	flags.IntVar(&f.load.Messages, "messages", 100_000, "messages to send")
	flags.IntVar(&f.load.Keys, "keys", 10_000, "different keys of the messages, in turn; 0 for messages without keys")
	flags.IntVar(&f.load.Payload, "payload", 250, "bytes of each payload")
	flags.IntVar(&f.prefetch, "prefetch", 2000, "messages that the consumer has taken and not yet acknowledged")
	flags.BoolVar(&f.noConsumer, "no-consumer", false, "consume only after the clock has stopped, to check what arrived")
	flags.DurationVar(&f.timeout, "timeout", 0, "time after which to give up (default 2m and 2s for each 1,000 messages)")
	flags.BoolVar(&f.json, "json", false, "print the result as one JSON object")
	flags.StringVar(&f.profile, "profile", "", "`folder` for cpu.pprof, heap.pprof and allocs.pprof of this process, while it was measured")
	given := a.benchKeyFlags(flags, append(keys, "broker.url", "broker.queue_type", "broker.connections", "log")...)
	flags.Lookup("queue-type").Usage = "quorum or classic (RabbitMQ); else quorum"
	return given
}

// benchEnvPrefix is that of the variables that benchmarks read: not of those that the
// other commands do, by which one would measure what they are for.
const benchEnvPrefix = "OUTBOX_BENCH_"

// benchEnv looks up the variables that benchmarks have.
func (a *app) benchEnv(name string) (string, bool) {
	switch name {
	case benchEnvPrefix + "DATABASE_URL", benchEnvPrefix + "BROKER_URL":
		return a.env(name)
	}
	return "", false
}

// benchKeyFlags adds flags for keys as keyFlags does, as benchmarks have them.
func (a *app) benchKeyFlags(flags *pflag.FlagSet, names ...string) *configFlags {
	c := a.keyFlags(flags, false, names...)
	c.bench = true
	for name, usage := range map[string]string{
		"database-url": "postgres://, postgresql:// or sqlite:PATH, instead of a temporary SQLite file [" + benchEnvPrefix + "DATABASE_URL]",
		"broker-url":   "amqp://, amqps:// or nats://, instead of a JetStream server in this process [" + benchEnvPrefix + "BROKER_URL]",
	} {
		if flag := flags.Lookup(name); flag != nil {
			flag.Usage = usage
		}
	}
	flags.Lookup("log-level").DefValue = "warn"
	return c
}

// loadKeys reads the keys, and checks all that both commands have.
func (f *trafficFlags) loadKeys(keys *configFlags) *config.Loaded {
	if _, ok := keys.given["log.level"]; !ok {
		keys.given["log.level"] = []string{"warn"}
	}
	l := keys.load()
	within(l, "--messages", f.load.Messages, 1, 100_000_000)
	within(l, "--keys", f.load.Keys, 0, 10_000_000)
	within(l, "--payload", f.load.Payload, measure.MinPayload, 1<<20)
	within(l, "--prefetch", f.prefetch, 1, 65_535)
	if f.timeout < 0 {
		l.Add(config.Problem{Key: "--timeout", Value: f.timeout.String(), Reason: "must be a positive duration"})
	}
	checkConsumed(l)
	return l
}

// checkConsumed reports what is wrong with a broker that is to be consumed from. It may
// be none.
func checkConsumed(l *config.Loaded) {
	if l.Broker.URL == "" {
		if l.IsSet("broker.queue_type") {
			l.Fault("broker.queue_type", "is of RabbitMQ, and no --broker-url names one")
		}
		return
	}
	wire.CheckBroker(l)
	switch wire.BrokerKind(l.Broker.URL) {
	case wire.Stdout, wire.HTTP, wire.STOMP:
		l.Fault("broker.url", "delivers to no consumer here: use amqp://, amqps:// or nats://")
	case wire.RabbitMQ:
		checkOneHost(l)
	case wire.JetStream:
		if l.IsSet("broker.queue_type") {
			l.Fault("broker.queue_type", "is of RabbitMQ: leave it out")
		}
	}
}

// checkOneHost reports a URL of RabbitMQ with several hosts. Relays try one after the
// other; what makes and removes the names of a run does not.
func checkOneHost(l *config.Loaded) {
	_, hosts, _ := strings.Cut(l.Broker.URL, "://")
	if end := strings.IndexAny(hosts, "/?#"); end >= 0 {
		hosts = hosts[:end]
	}
	if strings.Contains(hosts[strings.LastIndex(hosts, "@")+1:], ",") {
		l.Fault("broker.url", "has several hosts: name one of them here")
	}
}

// within reports a flag whose value is not between least and most.
func within(l *config.Loaded, flag string, value, least, most int) {
	if value < least || value > most {
		l.Add(config.Problem{Key: flag, Value: fmt.Sprint(value), Reason: fmt.Sprintf("must be %d to %d", least, most)})
	}
}

func (f *trafficFlags) options(a *app, l *config.Loaded) bench.Options {
	return bench.Options{
		Load: f.load, Broker: l.Broker, Relay: l.Relay, NoConsumer: f.noConsumer, Prefetch: f.prefetch,
		Timeout: f.timeout, Profile: f.profile, Program: version().Version, Logger: l.Log.Logger(a.stderr),
	}
}

// report writes the result, if there is one. Its error is err, and what says that the
// result is not what was promised: of a run that was not finished, what is missing is
// not lost.
func (f *trafficFlags) report(w io.Writer, result *bench.Result, err error) error {
	if result == nil {
		return err
	}
	if err == nil || result.Phantom+result.OutOfOrder > 0 {
		err = errors.Join(err, result.Err())
	}
	if f.json {
		return errors.Join(err, result.WriteJSON(w))
	}
	return errors.Join(err, result.WriteTable(w))
}
