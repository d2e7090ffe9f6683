// Worker handles what is told of users, until it is told to stop.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/worker"
)

// User is the payload.
type User struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
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
	subscriber, err := rabbitmq.NewSubscriber(os.Getenv("BROKER_URL"), nil)
	if err != nil {
		return err
	}
	defer subscriber.Close()
	w := worker.New(subscriber, &worker.Config{Queue: "greeter"})
	worker.Handle(w, "user.created", welcome)
	worker.Handle(w, "user.*", note)
	worker.Handle(w, "user.deleted", remove, worker.WithRetries(worker.Retries{Off: true}))
	worker.Handle(w, "user.billed", charge)
	return w.Run(ctx)
}

func welcome(_ context.Context, d *worker.Delivery[User]) error {
	fmt.Println("welcome,", d.Payload.Name)
	return nil
}

func note(_ context.Context, d *worker.Delivery[any]) error {
	fmt.Println(d.Topic, d.Payload)
	return nil
}

func remove(_ context.Context, d *worker.Delivery[User]) error {
	return fmt.Errorf("user %d has orders", d.Payload.ID) // to the dead letters: it is not tried again
}

var (
	errBusy    = errors.New("the bank is busy")
	errExpired = errors.New("the card has expired")
)

func charge(_ context.Context, d *worker.Delivery[User]) error {
	switch d.Payload.Name {
	case "Bob":
		return worker.Retry(errBusy) // tried again, whatever the settings
	case "Eve":
		return worker.Abort(errExpired) // not tried again, whatever the settings
	}
	fmt.Println("charged", d.Payload.Name)
	return nil
}
