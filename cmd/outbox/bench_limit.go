package main

import (
	"github.com/spf13/cobra"

	"github.com/outbox-go/outbox/cmd/outbox/internal/bench"
)

func (a *app) benchLimit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "limit",
		Short: "Measure how fast a broker takes messages from memory: the limit of every relay",
		Long: `Publishes messages from memory by the publisher of the relays, with as many unconfirmed as a relay's window,
and without a database: no relay can be faster than that. Run it turn by turn with "outbox bench drain", with
the same flags. The clock runs from the first message to the last one's arrival at the consumer, or with
--no-consumer to its confirm.

Exits with 1 if a message is lost, comes out of order, or was never sent, and if it took too long.`,
		Example: `  outbox bench limit
  outbox bench limit --broker-url amqp://guest:guest@localhost/ --messages 500000 --json
  outbox bench limit --broker-url amqp://guest:guest@localhost/ --queue-type classic --no-consumer`,
		Args: noArguments,
	}
	var f trafficFlags
	keys := f.add(a, cmd.Flags(), "relay.window")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l := f.loadKeys(keys)
		if err := l.Err(); err != nil {
			return err
		}
		result, err := bench.Limit(cmd.Context(), f.options(a, l))
		return f.report(a.stdout, result, err)
	}
	return cmd
}
