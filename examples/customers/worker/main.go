// Worker notes each customer once, of those that a Django service or the app publishes.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/outbox-go/outbox/broker/stomp"
	"github.com/outbox-go/outbox/store/sqlstore"
	"github.com/outbox-go/outbox/worker"
)

// Customer is the payload.
type Customer struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
	City string `json:"city"`
}

// Validate is called before the handler.
func (c Customer) Validate() error {
	if c.Name == "" {
		return fmt.Errorf("customer %d has no name", c.ID)
	}
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer db.Close()
	store := sqlstore.New(db, sqlstore.PostgreSQL, nil)
	if err := store.Migrate(ctx); err != nil {
		return err
	}
	subscriber, err := stomp.NewSubscriber(os.Getenv("BROKER_URL"), &stomp.SubscriberConfig{DOP: true})
	if err != nil {
		return err
	}
	defer subscriber.Close()
	w := worker.New(subscriber, &worker.Config{Queue: stomp.QueueName("/topic/customers")})
	worker.HandleTx(w, store, "customers", func(ctx context.Context, tx *sql.Tx, d *worker.Delivery[Customer]) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO known (id, name) VALUES ($1, $2)`, d.Payload.ID, d.Payload.Name)
		return err // nil acknowledges; an error is tried again, and in the end goes to DLQ.customers
	})
	return w.Run(ctx)
}
