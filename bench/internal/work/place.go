package work

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outbox-go/outbox/broker/rabbitmq"
)

// NewName returns the name for a run.
func NewName() string { return "peer_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:16] }

// OpenPool connects to the database with the schema of the run as the only one of the
// search path.
func OpenPool(ctx context.Context, s *Settings, conns int) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(s.DatabaseURL)
	if err != nil {
		return nil, err
	}
	config.MaxConns = int32(conns) //nolint:gosec // a few
	config.ConnConfig.RuntimeParams["search_path"] = s.Name
	return pgxpool.NewWithConfig(ctx, config)
}

// OpenConn connects like OpenPool.
func OpenConn(ctx context.Context, s *Settings) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(s.DatabaseURL)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["search_path"] = s.Name
	return pgx.ConnectConfig(ctx, config)
}

// Place is a schema, and an exchange with its queue, that belong to one run.
type Place struct {
	settings *Settings
	conn     *pgx.Conn
	snapshot *pgx.Conn // that holds a snapshot open; nil for none
}

// OpenPlace makes the schema. With HoldSnapshot it has a session hold a snapshot from
// now on.
func OpenPlace(ctx context.Context, s *Settings) (*Place, error) {
	conn, err := pgx.Connect(ctx, s.DatabaseURL)
	if err != nil {
		return nil, err
	}
	p := &Place{settings: s, conn: conn}
	if _, err := conn.Exec(ctx, "CREATE SCHEMA "+p.schema()); err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	if s.HoldSnapshot {
		if err := p.holdSnapshot(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("hold a snapshot: %w", err), p.Remove())
		}
	}
	return p, nil
}

func (p *Place) schema() string { return pgx.Identifier{p.settings.Name}.Sanitize() }

func (p *Place) holdSnapshot(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.settings.DatabaseURL)
	if err != nil {
		return err
	}
	p.snapshot = conn
	// The first statement takes the snapshot.
	_, err = conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
	return err
}

// Analyze gives the planner the statistics that a table has had for long in real life.
func (p *Place) Analyze(ctx context.Context) error {
	rows, err := p.conn.Query(ctx, "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = $1", p.settings.Name)
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, table := range tables {
		_, failed := p.conn.Exec(ctx, "ANALYZE "+p.schema()+"."+table)
		err = errors.Join(err, failed)
	}
	return err
}

// Remove removes all that the run has made.
func (p *Place) Remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if p.snapshot != nil {
		_ = p.snapshot.Close(ctx)
	}
	_, err := p.conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+p.schema()+" CASCADE")
	return errors.Join(err, p.conn.Close(ctx), RemoveQueue(p.settings))
}

// Subscriber returns the consumer's side of the exchange of the run.
func Subscriber(s *Settings) (*rabbitmq.Subscriber, error) {
	return rabbitmq.NewSubscriber(s.BrokerURL, &rabbitmq.SubscriberConfig{Exchange: s.Name, QueueType: s.QueueType})
}

// Publisher returns outbox's own publisher to the exchange of the run.
func Publisher(s *Settings) (*rabbitmq.Publisher, error) {
	return rabbitmq.NewPublisher(s.BrokerURL, &rabbitmq.PublisherConfig{Exchange: s.Name})
}

// RemoveQueue removes exchange and queue, and those of the dead letters.
func RemoveQueue(s *Settings) error {
	conn, err := amqp.Dial(s.BrokerURL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	for _, queue := range []string{s.Name, s.Name + ".dlq"} {
		if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
			return err
		}
	}
	return errors.Join(ch.ExchangeDelete(s.Name, false, false), ch.ExchangeDelete(s.Name+".dlx", false, false))
}
