package worker_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/store/memstore"
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

// exchange is a broker in memory with one worker on the queue "billing".
type exchange struct {
	broker *membroker.Broker
	worker *worker.Worker
}

func newExchange(config worker.Config) *exchange {
	config.Queue, config.Logger = "billing", slog.New(slog.DiscardHandler)
	broker := membroker.New()
	return &exchange{broker, worker.New(broker.Subscriber(), &config)}
}

// run publishes messages of JSON and runs the worker until ctx ends.
func (e *exchange) run(ctx context.Context, topic string, payloads ...string) {
	go func() {
		<-e.worker.Ready()
		for i, p := range payloads {
			m := outbox.Message{ID: fmt.Sprint("m", i+1), Topic: topic, Key: "k", ContentType: "application/json", Payload: []byte(p)}
			e.broker.Publisher().Publish(ctx, &m, func(error) {})
		}
	}()
	if err := e.worker.Run(ctx); err != nil {
		fmt.Println(err)
	}
}

// The handler's writes and the row that says that the message was handled are one
// transaction: the second delivery of a message does nothing.
func ExampleHandleTx() {
	store := memstore.New(nil) // in a service: pgxstore or sqlstore
	e := newExchange(worker.Config{})
	ctx, stop := context.WithCancel(context.Background())

	worker.HandleTx(e.worker, store, "order.placed", func(_ context.Context, tx *memstore.Tx, d *worker.Delivery[Order]) error {
		fmt.Println("book", d.Payload.ID)
		return tx.Put("booked/"+d.Payload.ID, "yes")
	})
	worker.Handle(e.worker, "end", func(context.Context, *worker.Delivery[any]) error { stop(); return nil })

	go func() {
		<-e.worker.Ready()
		pub := e.broker.Publisher()
		m := outbox.Message{ID: "m1", Topic: "order.placed", Key: "k", ContentType: "application/json", Payload: []byte(`{"id":"A-7"}`)}
		pub.Publish(ctx, &m, func(error) {})
		pub.Publish(ctx, &m, func(error) {}) // again, as after a crash
		pub.Publish(ctx, &outbox.Message{ID: "m2", Topic: "end", Key: "k", Payload: []byte("{}")}, func(error) {})
	}()
	if err := e.worker.Run(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: book A-7
}

// The error decides whether, and when, there is another attempt.
func ExampleRetries() {
	e := newExchange(worker.Config{Retries: worker.Retries{Delays: worker.Exponential(time.Millisecond, time.Second, 3)}})
	ctx, stop := context.WithCancel(context.Background())

	worker.Handle(e.worker, "order.placed", func(_ context.Context, d *worker.Delivery[Order]) error {
		fmt.Println("attempt", d.Attempt)
		switch d.Attempt {
		case 1:
			return errors.New("the database is away") // as configured: after 1 ms
		case 2:
			return worker.RetryAfter(5*time.Millisecond, errors.New("too many requests"))
		}
		defer stop()
		return worker.Abort(errors.New("the card has expired")) // to the dead letters
	})
	e.run(ctx, "order.placed", `{"id":"A-7"}`)
	for _, letter := range e.broker.DeadLetters("billing") {
		fmt.Printf("%s is dead after %d attempts: %s\n", letter.Message.ID, letter.Failure.Attempts, letter.Failure.Reason)
	}
	// Output:
	// attempt 1
	// attempt 2
	// attempt 3
	// m1 is dead after 3 attempts: the card has expired
}

// A worker of its own handles the dead letters of a queue.
func ExampleConfig_deadLetters() {
	e := newExchange(worker.Config{})
	ctx, stop := context.WithCancel(context.Background())
	worker.Handle(e.worker, "order.placed", func(context.Context, *worker.Delivery[Order]) error {
		defer stop()
		return worker.Abort(errors.New("the card has expired"))
	})
	e.run(ctx, "order.placed", `{"id":"A-7"}`)

	ctx, stop = context.WithCancel(context.Background())
	w := worker.New(e.broker.Subscriber(), &worker.Config{Queue: "billing", DeadLetters: true, Logger: slog.New(slog.DiscardHandler)})
	worker.Handle(w, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
		defer stop()
		fmt.Printf("%s of %s, handled by %q: %s\n", d.ID, d.Topic, d.Failure.Handler, d.Failure.Reason)
		return nil // it is removed
	})
	if err := w.Run(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: m1 of order.placed, handled by "order.placed": the card has expired
}

// csvCodec is a codec of one's own: lines of a comma-separated file.
type csvCodec struct{}

func (csvCodec) ContentType() string { return "text/csv" }

func (csvCodec) Encode(v any) ([]byte, error) {
	records, ok := v.([][]string)
	if !ok {
		return nil, fmt.Errorf("%T is no [][]string", v)
	}
	var buf bytes.Buffer
	err := csv.NewWriter(&buf).WriteAll(records)
	return buf.Bytes(), err
}

func (csvCodec) Decode(data []byte, v any) (err error) {
	records, ok := v.(*[][]string)
	if !ok {
		return fmt.Errorf("%T is no *[][]string", v)
	}
	*records, err = csv.NewReader(bytes.NewReader(data)).ReadAll()
	return err
}

// A message's content type chooses the codec, so a queue may carry several.
func ExampleConfig_codecs() {
	e := newExchange(worker.Config{Codecs: []outbox.Codec{csvCodec{}}})
	ctx, stop := context.WithCancel(context.Background())
	worker.Handle(e.worker, "prices", func(_ context.Context, d *worker.Delivery[[][]string]) error {
		fmt.Println(d.ContentType, d.Payload)
		if d.ContentType == "text/csv" {
			stop()
		}
		return nil
	})
	go func() {
		<-e.worker.Ready()
		pub := e.broker.Publisher()
		pub.Publish(ctx, &outbox.Message{ID: "1", Topic: "prices", Key: "k", ContentType: "application/json", Payload: []byte(`[["tea","3.20"]]`)}, func(error) {})
		pub.Publish(ctx, &outbox.Message{ID: "2", Topic: "prices", Key: "k", ContentType: "text/csv", Payload: []byte("tea,3.50\n")}, func(error) {})
	}()
	if err := e.worker.Run(ctx); err != nil {
		fmt.Println(err)
	}
	// Output:
	// application/json [[tea 3.20]]
	// text/csv [[tea 3.50]]
}

// session is something that is made for each message and closed after it.
type session struct{ tenant string }

func (s *session) Close() { fmt.Println("close the session of", s.tenant) }

type sessionKey struct{}

// withSession is middleware that makes a session for each message.
func withSession(next worker.Handler) worker.Handler {
	return func(ctx context.Context, d *worker.Delivery[[]byte]) error {
		s := &session{tenant: d.Key}
		defer s.Close()
		return next(context.WithValue(ctx, sessionKey{}, s), d)
	}
}

// What is needed for each message is made by middleware, which also closes it; what
// lives longer comes by a closure or a method, as in the example of Worker.
func ExampleMiddleware() {
	e := newExchange(worker.Config{Middleware: []worker.Middleware{withSession}})
	ctx, stop := context.WithCancel(context.Background())
	worker.Handle(e.worker, "order.placed", func(ctx context.Context, d *worker.Delivery[Order]) error {
		defer stop()
		s, _ := ctx.Value(sessionKey{}).(*session)
		fmt.Println("order", d.Payload.ID, "of", s.tenant)
		return nil
	})
	e.run(ctx, "order.placed", `{"id":"A-7"}`)
	// Output:
	// order A-7 of k
	// close the session of k
}

// printer writes to the standard output of the moment, which an example's run
// replaces.
type printer struct{}

func (printer) Write(p []byte) (int, error) { return fmt.Print(string(p)) }
