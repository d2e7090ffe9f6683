package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/relay"
)

func (a *app) relay() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "relay",
		Short: "Bring committed messages to the broker, until told to stop",
		Long: `Brings committed messages to the broker and removes each one when the broker has confirmed it. Any
number of relays, on any number of machines, share the work and take over from one another.

SIGTERM or SIGINT lets it wait for the confirms that are outstanding, give back its share, and exit
with 0; a second signal ends it at once, with 1. What was sent and not confirmed is sent again.`,
		Example: `  outbox relay --database-url postgres://app@localhost/shop --broker-url amqp://guest:guest@localhost/
  outbox relay --config /etc/outbox.yaml
  outbox relay --database-url sqlite:shop.db --broker-url stdout:`,
		Args: cobra.NoArgs,
	}
	keys := a.keyFlags(cmd.Flags(), true, "database", "broker", "relay", "log").withFile()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l := keys.load()
		wire.CheckDatabase(l)
		wire.CheckFile(l)
		wire.CheckBroker(l)
		if err := l.Err(); err != nil {
			return err
		}
		return a.runRelay(cmd.Context(), l)
	}
	return cmd
}

func (a *app) runRelay(ctx context.Context, l *config.Loaded) (err error) {
	logger := l.Log.Logger(a.stderr)
	s, err := wire.OpenStore(ctx, l.Database, logger)
	if err != nil {
		return err
	}
	defer closeStore(s, &err)
	pub, err := wire.OpenPublisher(l.Broker, a.stdout, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pub.Close()) }()
	c := l.Relay
	c.Logger = logger
	r := relay.New(s, pub, &c)
	logger.Info("relay started", "version", version().Version,
		"database", config.Redact(l.Database.URL), "schema", l.Database.Schema, "table_prefix", l.Database.TablePrefix,
		"broker", config.Redact(l.Broker.URL), "window", c.Window, "memory_bytes", c.Memory)
	stop := context.AfterFunc(ctx, func() {
		logger.Info("relay is stopping", "reason", context.Cause(ctx), "drain_timeout", c.DrainTimeout.String())
	})
	defer stop()
	if err := r.Run(ctx); err != nil {
		return err
	}
	logger.Info("relay stopped", "confirmed", r.Stats().Confirmed, "settled", r.Stats().Settled)
	return nil
}

func closeStore(s wire.Store, err *error) { *err = errors.Join(*err, s.Close()) }
