// Package river brings messages from River (riverqueue.com) to RabbitMQ: a job for each
// message, and a worker that publishes it and waits for the broker's confirm.
package river

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/bench/internal/work"
	"github.com/outbox-go/outbox/internal/measure"
	"github.com/outbox-go/outbox/relay"
)

const (
	workers = 1000
	// fetchCooldown is the least that River allows; it is also how often a client that
	// inserts notifies the others at most.
	fetchCooldown = river.FetchCooldownMin
	// fetchPollInterval finds what no notification has told of; it is the least, too.
	fetchPollInterval = river.FetchPollIntervalMin
	conns             = 20
	backlogBatch      = 5000
)

// args are those of a job.
type args struct {
	ID      string `json:"id"`
	Topic   string `json:"topic"`
	Key     string `json:"key"`
	Payload []byte `json:"payload"`
}

// Kind names the jobs.
func (args) Kind() string { return "publish" }

func argsOf(e work.Event) (args, error) {
	id, err := uuid.NewV7()
	return args{ID: id.String(), Topic: measure.Topic, Key: e.Key, Payload: e.Payload}, err
}

// System is River with a worker that publishes.
type System struct {
	settings *work.Settings
	pool     *pgxpool.Pool
	inserts  *river.Client[pgx.Tx]
}

// New connects to the database.
func New(ctx context.Context, s *work.Settings) (*System, error) {
	pool, err := work.OpenPool(ctx, s, conns)
	if err != nil {
		return nil, err
	}
	inserts, err := river.NewClient(riverpgxv5.New(pool), config(s))
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &System{settings: s, pool: pool, inserts: inserts}, nil
}

func config(s *work.Settings) *river.Config {
	return &river.Config{
		Schema: s.Name, FetchCooldown: fetchCooldown, FetchPollInterval: fetchPollInterval,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// Describe names the version and what River is run with.
func (s *System) Describe() work.Description {
	return work.Description{
		Name:    "river",
		Modules: []string{"github.com/riverqueue/river", "github.com/riverqueue/river/riverdriver/riverpgxv5"},
		Settings: map[string]string{
			"max_workers": strconv.Itoa(workers), "fetch_cooldown": fetchCooldown.String(),
			"fetch_poll_interval": fetchPollInterval.String(), "pool": strconv.Itoa(conns),
			"publisher": "outbox's own for RabbitMQ, a worker waits for its confirm",
		},
	}
}

// SetUp runs River's migrations.
func (s *System) SetUp(ctx context.Context) error {
	m, err := rivermigrate.New(riverpgxv5.New(s.pool), &rivermigrate.Config{Schema: s.settings.Name, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	_, err = s.pool.Exec(ctx, work.BusinessTable)
	return err
}

// Fill inserts by COPY.
func (s *System) Fill(ctx context.Context, load measure.Load) error {
	batch := make([]river.InsertManyParams, 0, backlogBatch)
	for n := range load.Messages {
		a, err := argsOf(work.EventOf(&load, n))
		if err != nil {
			return err
		}
		if batch = append(batch, river.InsertManyParams{Args: a}); len(batch) < backlogBatch && n < load.Messages-1 {
			continue
		}
		if _, err := s.inserts.InsertManyFast(ctx, batch); err != nil {
			return err
		}
		batch = batch[:0]
	}
	return nil
}

type worker struct {
	river.WorkerDefaults[args]

	publish outbox.PublishFunc
}

// Work returns when the broker has confirmed the message.
func (w *worker) Work(ctx context.Context, job *river.Job[args]) error {
	a := &job.Args
	return w.publish(ctx, &outbox.Message{
		ID: a.ID, Topic: a.Topic, Key: a.Key, ContentType: outbox.ContentTypeBytes, Payload: a.Payload,
	})
}

// Relay runs a client with the worker, and River's maintenance as it is by default.
func (s *System) Relay(ctx context.Context, ready func()) error {
	publisher, err := work.Publisher(s.settings)
	if err != nil {
		return err
	}
	defer func() { _ = publisher.Close() }()
	workersOf := river.NewWorkers()
	river.AddWorker(workersOf, &worker{publish: relay.Wait(publisher)})
	c := config(s.settings)
	c.Workers = workersOf
	c.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}}
	client, err := river.NewClient(riverpgxv5.New(s.pool), c)
	if err != nil {
		return err
	}
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := client.Stop(stopping); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

// Close closes the connections.
func (s *System) Close() { s.pool.Close() }

// Emitter returns one with a connection of its own.
func (s *System) Emitter(ctx context.Context) (work.Emitter, error) {
	conn, err := work.OpenConn(ctx, s.settings)
	if err != nil {
		return nil, err
	}
	return &work.TxEmitter{Conn: conn, Insert: func(ctx context.Context, tx pgx.Tx, e work.Event) error {
		a, err := argsOf(e)
		if err != nil {
			return err
		}
		_, err = s.inserts.InsertTx(ctx, tx, a, nil)
		return err
	}}, nil
}
