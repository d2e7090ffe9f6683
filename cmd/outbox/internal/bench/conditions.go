package bench

import (
	"context"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/internal/measure"
)

// Conditions are what a benchmark ran on.
type Conditions struct {
	Machine  measure.Machine `json:"machine"`
	Program  string          `json:"program"`            // version
	Database string          `json:"database,omitempty"` // kind, version, and how it writes
	Broker   string          `json:"broker,omitempty"`   // kind and version
}

// String is the conditions in lines that begin with indent.
func (c *Conditions) String() string {
	var b strings.Builder
	for _, line := range []string{c.Database, c.Broker, c.Machine.String(), "outbox " + c.Program} {
		if line != "" {
			b.WriteString("  on " + line + "\n")
		}
	}
	return b.String()
}

// conditionsOf asks the database and the broker; each of them may be nil.
func conditionsOf(ctx context.Context, program string, d *scratch.Database, broker *config.Broker) (c Conditions, err error) {
	c = Conditions{Machine: measure.ThisMachine(), Program: program}
	if d != nil {
		if c.Database, err = describeDatabase(ctx, d); err != nil {
			return c, fmt.Errorf("ask the database for its version: %w", err)
		}
	}
	if broker != nil {
		if c.Broker, err = describeBroker(broker.URL); err != nil {
			return c, fmt.Errorf("ask the broker for its version: %s", config.Scrub(err.Error(), broker.URL))
		}
	}
	return c, nil
}

func describeDatabase(ctx context.Context, d *scratch.Database) (text string, err error) {
	if d.Postgres != nil {
		const ask = `SELECT format('PostgreSQL %s, fsync %s, synchronous_commit %s',
			current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit'))`
		return text, d.Postgres.Pool.QueryRow(ctx, ask).Scan(&text)
	}
	var version, journal string
	var synchronous int
	err = d.SQLite.DB.QueryRowContext(ctx, `SELECT sqlite_version(), journal_mode, synchronous FROM pragma_journal_mode, pragma_synchronous`).
		Scan(&version, &journal, &synchronous)
	levels := map[int]string{0: "off", 1: "normal", 2: "full", 3: "extra"}
	return fmt.Sprintf("SQLite %s, journal_mode %s, synchronous %s", version, journal, levels[synchronous]), err
}

func describeBroker(url string) (string, error) {
	if wire.BrokerKind(url) == wire.RabbitMQ {
		conn, err := amqp.Dial(url)
		if err != nil {
			return "", err
		}
		defer func() { _ = conn.Close() }()
		return fmt.Sprintf("RabbitMQ %v", conn.Properties["version"]), nil
	}
	conn, err := nats.Connect(url)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return "JetStream of nats-server " + conn.ConnectedServerVersion(), nil
}
