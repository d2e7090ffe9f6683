// Relay brings what was emitted to RabbitMQ, until it is told to stop.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/pgxstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	store := pgxstore.New(pool, nil)
	defer store.Close()
	publisher, err := rabbitmq.NewPublisher(os.Getenv("BROKER_URL"), nil)
	if err != nil {
		return err
	}
	defer publisher.Close()
	return relay.New(store, publisher, nil).Run(ctx)
}
