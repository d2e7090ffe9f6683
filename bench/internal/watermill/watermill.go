// Package watermill brings messages through Watermill's forwarder
// (watermill.io/advanced/forwarder) from its PostgreSQL topic to RabbitMQ.
package watermill

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	wmsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/outbox-go/outbox/bench/internal/work"
	"github.com/outbox-go/outbox/internal/measure"
)

const (
	group = "forwarder"

	// batchSize is Watermill's default. The forwarder waits for the broker's confirm of
	// one message before it takes the next; a batch is what one transaction reads and
	// notes as done.
	batchSize = 100

	// pollInterval is how often an empty table is looked at: Watermill is not notified.
	pollInterval = time.Millisecond

	channels     = 1 // of AMQP and each forwarder, which publishes one message at a time
	backlogBatch = 1000
	keyMetadata  = "key"
)

// System is the forwarder.
type System struct {
	settings *work.Settings
	db       *sql.DB
	schema   wmsql.DefaultPostgreSQLSchema
	offsets  wmsql.DefaultPostgreSQLOffsetsAdapter
	logger   watermill.LoggerAdapter
	logged   *slog.LevelVar // the least level that is logged
}

// New prepares to connect to the database.
func New(_ context.Context, s *work.Settings) (*System, error) {
	config, err := pgx.ParseConfig(s.DatabaseURL)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["search_path"] = s.Name
	level := new(slog.LevelVar)
	level.Set(slog.LevelWarn)
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	return &System{
		settings: s, db: stdlib.OpenDB(*config), logger: watermill.NewSlogLogger(logger), logged: level,
		schema: wmsql.DefaultPostgreSQLSchema{SubscribeBatchSize: batchSize},
	}, nil
}

// Describe names the versions and what Watermill is run with.
func (s *System) Describe() work.Description {
	return work.Description{
		Name: "watermill",
		Modules: []string{
			"github.com/ThreeDotsLabs/watermill", "github.com/ThreeDotsLabs/watermill-sql/v3", "github.com/ThreeDotsLabs/watermill-amqp/v3",
		},
		Settings: map[string]string{
			"schema": "DefaultPostgreSQLSchema", "subscribe_batch_size": strconv.Itoa(batchSize),
			"poll_interval": pollInterval.String(), "confirm_delivery": "true", "channel_pool_size": strconv.Itoa(channels),
			"topics": strconv.Itoa(s.settings.Topics),
			"driver": "pgx/v5/stdlib", "publisher": "Watermill's own for AMQP",
		},
	}
}

// topic returns the name of topic n, which a forwarder takes messages from.
func topic(n int) string { return "messages_" + strconv.Itoa(n) }

// topicOf returns the topic of an event: the messages of a key stay in order.
func (s *System) topicOf(e work.Event) string {
	if e.Key == "" {
		return topic(e.Number % s.settings.Topics)
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(e.Key))
	return topic(int(h.Sum32()) % s.settings.Topics)
}

// SetUp makes the tables of the topics.
func (s *System) SetUp(ctx context.Context) error {
	subscriber, err := s.subscriber()
	if err != nil {
		return err
	}
	for n := range s.settings.Topics {
		if err := subscriber.SubscribeInitialize(topic(n)); err != nil {
			return err
		}
	}
	_, err = s.db.ExecContext(ctx, work.BusinessTable)
	return err
}

func (s *System) subscriber() (*wmsql.Subscriber, error) {
	return wmsql.NewSubscriber(s.db, wmsql.SubscriberConfig{
		ConsumerGroup: group, PollInterval: pollInterval, SchemaAdapter: s.schema, OffsetsAdapter: s.offsets,
	}, s.logger)
}

// publisher returns what emits to a topic by db, a transaction or not.
func (s *System) publisher(db wmsql.ContextExecutor, topic string) (*forwarder.Publisher, error) {
	p, err := wmsql.NewPublisher(db, wmsql.PublisherConfig{SchemaAdapter: s.schema}, s.logger)
	if err != nil {
		return nil, err
	}
	return forwarder.NewPublisher(p, forwarder.PublisherConfig{ForwarderTopic: topic}), nil
}

func messageOf(e work.Event) *message.Message {
	m := message.NewMessage(watermill.NewUUID(), e.Payload)
	m.Metadata.Set(keyMetadata, e.Key)
	return m
}

// Fill inserts many rows a statement.
func (s *System) Fill(_ context.Context, load measure.Load) error {
	batches := map[string][]*message.Message{} // by topic
	flush := func(topic string) error {
		p, err := s.publisher(s.db, topic)
		if err != nil {
			return err
		}
		batch := batches[topic]
		delete(batches, topic)
		return p.Publish(measure.Topic, batch...)
	}
	for n := range load.Messages {
		e := work.EventOf(&load, n)
		topic := s.topicOf(e)
		batches[topic] = append(batches[topic], messageOf(e))
		if len(batches[topic]) == backlogBatch {
			if err := flush(topic); err != nil {
				return err
			}
		}
	}
	var errs []error
	for topic := range batches {
		errs = append(errs, flush(topic))
	}
	return errors.Join(errs...)
}

// Relay runs a forwarder for each topic.
func (s *System) Relay(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, s.settings.Topics)
	var starting atomic.Int64
	starting.Store(int64(s.settings.Topics))
	var running sync.WaitGroup
	for n := range errs {
		running.Go(func() {
			defer cancel() // the end of one is the end of all
			errs[n] = s.forward(ctx, topic(n), func() {
				if starting.Add(-1) == 0 {
					ready()
				}
			})
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// forward runs the forwarder of a topic.
func (s *System) forward(ctx context.Context, topic string, ready func()) (err error) {
	subscriber, err := s.subscriber()
	if err != nil {
		return err
	}
	publisher, err := wmamqp.NewPublisher(s.amqpConfig(), s.logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, publisher.Close()) }()
	f, err := forwarder.NewForwarder(subscriber, publisher, s.logger, forwarder.Config{ForwarderTopic: topic})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- f.Run(context.WithoutCancel(ctx)) }()
	select {
	case <-f.Running():
	case err := <-ended:
		return err
	}
	ready()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		s.logged.Set(slog.LevelError + 1) // it logs its own end as errors
		return errors.Join(f.Close(), <-ended)
	}
}

// amqpConfig is Watermill's for a durable topic exchange, with confirms.
func (s *System) amqpConfig() wmamqp.Config {
	c := wmamqp.NewDurableTopicConfig(s.settings.BrokerURL, s.settings.Name, "")
	c.Exchange.Durable = true
	c.Publish.ConfirmDelivery = true
	c.Publish.ChannelPoolSize = channels
	return c
}

// Close closes the connections.
func (s *System) Close() { _ = s.db.Close() }

type emitter struct {
	system *System
	conn   *sql.Conn
}

// Emitter returns one with a connection of its own.
func (s *System) Emitter(ctx context.Context) (work.Emitter, error) {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &emitter{system: s, conn: conn}, nil
}

// Emit runs a transaction.
func (e *emitter) Emit(ctx context.Context, event work.Event, end func() error) error {
	tx, err := e.conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, work.BusinessInsert, event.Number); err != nil {
		return err
	}
	p, err := e.system.publisher(tx, e.system.topicOf(event))
	if err != nil {
		return err
	}
	if err := p.Publish(measure.Topic, messageOf(event)); err != nil {
		return fmt.Errorf("publish into the transaction: %w", err)
	}
	if err := end(); err != nil {
		return err
	}
	return tx.Commit()
}

// Close gives the connection back.
func (e *emitter) Close() { _ = e.conn.Close() }
