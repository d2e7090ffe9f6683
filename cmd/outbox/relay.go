package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

// relayFlags are the flags of the command that are no keys.
type relayFlags struct {
	once  bool
	limit int
}

func (a *app) relay() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "relay",
		Short: "Bring committed messages to the broker, until told to stop",
		Long: `Brings committed messages to the broker and removes each one when the broker has confirmed it. Any
number of relays, on any number of machines, share the work and take over from one another.

SIGTERM, SIGINT or SIGHUP lets it wait for the confirms that are outstanding, give back its share, and exit
with 0; a second signal ends it at once, with 1. What was sent and not confirmed is sent again.

With --once it sends what is due, one message after another and at most --limit, deletes what relay.keep
no longer keeps, and ends. It exits with 1 if the broker did not take a message that was tried, though that
one may be a dead letter by now; if the database failed or did not answer within 30s; or if a signal came.
Messages that are left to the next run, wait, are paused or have expired are no failure. Beside running
relays it takes what they leave, and rates are not heeded.

With relay.listen it answers /healthz, /readyz and /metrics by HTTP. With "routes" in the file, messages
take the routes that match them, and each route has a relay of its own, with the broker that it names:

  routes:
    audit: {topics: [audit.#, user.*], broker_url: 'nats://audit:4222', stream: audit}
    mail: {topics: [mail.#], tenants: [acme], headers: {class: urgent}, rates: ['#=10/s']}

A message that matches several takes each of them, and one that matches none becomes a dead letter.
relay.rates are for each relay: each route and outbox of each process. A route has those, or its own. So it is
with broker.tls, all of it: a route has that, or its own tls_ca, tls_cert, tls_key, tls_key_password and
tls_server_name.`,
		Example: `  outbox relay --database-url postgres://app@localhost/shop --broker-url amqp://guest:guest@localhost/
  outbox relay --config /etc/outbox.yaml --relay-listen :9464
  outbox relay --database-url sqlite:shop.db --broker-url stdout: --once --limit 10`,
		Args: noArguments,
	}
	var f relayFlags
	flags := cmd.Flags()
	flags.BoolVar(&f.once, "once", false, "send what is due, and end")
	flags.IntVar(&f.limit, "limit", defaultOnce, "most messages of each outbox that --once sends, 1 to 10000")
	keys := a.keyFlags(flags, true, append(publisherKeys(), "database", "relay", "log")...).withFile()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l := keys.load()
		wire.CheckDatabase(l)
		wire.CheckFile(l)
		outboxes := wire.CheckOutboxes(l, wire.DatabaseKind(l.Database.URL))
		ways := f.check(l, flags)
		if err := l.Err(); err != nil {
			return err
		}
		return a.runRelay(cmd.Context(), l, outboxes, ways, &f)
	}
	return cmd
}

const (
	defaultOnce = 100
	maxOnce     = 10_000
)

// check reports what is wrong with the flags, the routes and their brokers, and
// returns the ways that messages go.
func (f *relayFlags) check(l *config.Loaded, flags *pflag.FlagSet) []way {
	if f.limit < 1 || f.limit > maxOnce {
		l.Add(config.Problem{Key: "--limit", Value: strconv.Itoa(f.limit), Reason: fmt.Sprintf("must be 1 to %d", maxOnce)})
	} else if flags.Changed("limit") && !f.once {
		l.Add(config.Problem{Key: "--limit", Value: strconv.Itoa(f.limit), Reason: "is of use with --once alone"})
	}
	for _, name := range []string{"relay-rates", "relay-listen"} {
		if f.once && flags.Changed(name) {
			l.Add(config.Problem{Key: "--" + name, Reason: "is given with --once, which does not heed it: leave out one of them"})
		}
	}
	wire.CheckRoutes(l)
	ways := waysOf(l)
	switch {
	case len(ways) == 0:
		l.Fault("relay.route", "is none of the routes in the file: leave it out, or add it there")
	case f.once && len(ways) > 1:
		l.Add(config.Problem{Key: "--once", Reason: "drains one route: name it by relay.route"})
	}
	return ways
}

func (a *app) runRelay(ctx context.Context, l *config.Loaded, outboxes []config.Database, ways []way, f *relayFlags) (err error) {
	logger := l.Log.Logger(a.stderr)
	stores, err := wire.OpenStores(ctx, outboxes, len(outboxes)*len(ways), logger)
	if err != nil {
		return err
	}
	for _, s := range stores {
		defer closeStore(s, &err)
	}
	fleet, err := newFleet(l, outboxes, stores, ways, a.stdout, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.close()) }()
	a.limitMemory(fleet.stations, l.Relay.Memory)
	if f.once {
		return a.runOnce(ctx, l, fleet, f.limit)
	}
	return fleet.run(ctx, version().Version)
}

func closeStore(s wire.Store, err *error) { *err = errors.Join(*err, s.Close()) }
