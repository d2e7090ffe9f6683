package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/worker"
)

type Order struct {
	ID    string `json:"id"`
	Cents int    `json:"cents"`
}

// Validate is called before a handler gets the order.
func (o *Order) Validate() error {
	if o.Cents < 0 {
		return errors.New("cents must not be negative")
	}
	return nil
}

func ExampleHandle() {
	broker := membroker.New()
	w := worker.New(broker.Subscriber(), &worker.Config{Queue: "billing"})

	ctx, stop := context.WithCancel(context.Background())
	worker.Handle(w, "order.*", func(_ context.Context, d *worker.Delivery[Order]) error {
		fmt.Printf("%s: order %s of %d cents\n", d.Topic, d.Payload.ID, d.Payload.Cents)
		stop() // here after the first message; otherwise on SIGTERM
		return nil
	})

	go func() {
		<-w.Ready()
		m := outbox.Message{ID: "1", Topic: "order.placed", ContentType: "application/json", Payload: []byte(`{"id":"A-7","cents":1250}`)}
		broker.Publisher().Publish(ctx, &m, func(error) {})
	}()
	if err := w.Run(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: order.placed: order A-7 of 1250 cents
}

// billing is a service with what its handlers need.
type billing struct {
	out  io.Writer
	done func()
}

func (b *billing) orderPlaced(_ context.Context, d *worker.Delivery[Order]) error {
	fmt.Fprintln(b.out, "placed", d.Payload.ID)
	return nil
}

func (b *billing) audit(_ context.Context, d *worker.Delivery[json.RawMessage]) error {
	fmt.Fprintln(b.out, "audit", d.Topic, string(d.Payload))
	b.done()
	return nil
}

// A handler gets its dependencies by being a method, and the most specific
// pattern decides which handler gets a message.
func ExampleWorker() {
	broker := membroker.New()
	ctx, stop := context.WithCancel(context.Background())
	service := &billing{out: printer{}, done: stop}

	w := worker.New(broker.Subscriber(), &worker.Config{Queue: "billing", Concurrency: 1, Logger: slog.New(slog.DiscardHandler)})
	worker.Handle(w, "order.placed", service.orderPlaced)
	worker.Handle(w, "#", service.audit)

	go func() {
		<-w.Ready()
		pub := broker.Publisher()
		for _, topic := range []string{"order.placed", "order.cancelled"} {
			m := outbox.Message{Topic: topic, ContentType: "application/json", Payload: []byte(`{"id":"A-7"}`)}
			pub.Publish(ctx, &m, func(error) {})
		}
	}()
	if err := w.Run(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// placed A-7
	// audit order.cancelled {"id":"A-7"}
}

// printer writes to the standard output of the moment, which an example's run
// replaces.
type printer struct{}

func (printer) Write(p []byte) (int, error) { return fmt.Print(string(p)) }
