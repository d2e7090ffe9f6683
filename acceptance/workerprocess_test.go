package acceptance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/natsjs"
	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/worker"
)

// workerChild says what a worker in a process of its own does. It prints "begin ID"
// and "end ID" around each message.
type workerChild struct {
	Queue           string
	Hold            time.Duration // a handler takes that long, whatever its context says
	ShutdownTimeout time.Duration
	DieAfterCommit  bool // writes an effect, and kills itself when it is committed
	Steps           bool // handles in order, by handleSteps
	Fire            fire // what TestEffectsOnce wants, in the place of all that
}

// startWorkerProcess starts a worker and returns when it consumes.
func (s *system) startWorkerProcess(t testing.TB, c workerChild) *child {
	t.Helper()
	return startChild(t, &childConfig{Database: s.databaseURL(), Broker: s.brokerURL(), Worker: &c})
}

func openSubscriber(url string) (outbox.Subscriber, error) {
	if strings.HasPrefix(url, "nats:") {
		b, err := natsjs.New(url, &natsjs.Config{ReconnectMaxWait: reconnectMax, AckWait: 2 * time.Second})
		if err != nil {
			return nil, err
		}
		return b.Subscriber(), nil
	}
	return rabbitmq.NewSubscriber(url, &rabbitmq.SubscriberConfig{Connection: rabbitConnection})
}

func (c *childConfig) runWorker(ctx context.Context) (err error) {
	ctx, stop := readmeSignals(ctx)
	defer stop()
	if c.Worker.Fire != "" {
		return c.runUnderFire(ctx)
	}
	sub, err := openSubscriber(c.Broker)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	config := &worker.Config{
		Queue: c.Worker.Queue, Concurrency: 1, Prefetch: 10, MessageID: capIDs, ShutdownTimeout: c.Worker.ShutdownTimeout, Logger: quiet(),
	}
	if c.Worker.Steps {
		config.InOrder, config.Concurrency = true, 4
		config.Retries = worker.Retries{Delays: []time.Duration{20 * time.Millisecond}, MaxAttempts: 100}
	}
	w := worker.New(sub, config)
	db, closeDB, err := openDatabase(c.Database)
	if err != nil {
		return err
	}
	defer closeDB()
	started := make(chan struct{}) // closed when that has been printed
	switch {
	case c.Worker.Steps:
		handleSteps(w, db)
	case c.Worker.DieAfterCommit:
		db.handleTx(w, "#", func(_ context.Context, tx transaction, d *worker.Delivery[order]) error {
			return tx.exec(`INSERT INTO effects (id, key) VALUES ($1, $2)`, d.ID, d.Payload.Key)
		}, worker.WithMiddleware(func(next worker.Handler) worker.Handler {
			return func(ctx context.Context, d *worker.Delivery[[]byte]) error {
				if err := next(ctx, d); err != nil {
					return err
				}
				killSelf()
				select {}
			}
		}))
	default:
		worker.Handle(w, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			<-started
			c.hold(d.Key)
			return nil
		})
	}
	go func() {
		<-w.Ready()
		fmt.Println("started")
		close(started)
	}()
	return w.Run(ctx)
}

func (c *childConfig) hold(key string) {
	fmt.Println("begin", key)
	time.Sleep(c.Worker.Hold)
	fmt.Println("end", key)
}
