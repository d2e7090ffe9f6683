package oteloutbox_test

import (
	"context"
	"fmt"
	"log/slog"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/memstore"
	oteloutbox "github.com/outbox-go/outbox/telemetry/otel"
	"github.com/outbox-go/outbox/worker"
)

// A request emits an event; the relay publishes it and a worker handles it in the
// same trace. Store and broker are in memory here; in a service they are a database
// and a broker, and the parts run in several processes.
func Example() {
	spans := tracetest.NewInMemoryExporter() // in a service: otlptracegrpc.New
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	config := &oteloutbox.Config{TracerProvider: provider, Propagator: propagation.TraceContext{}}
	quiet := slog.New(slog.DiscardHandler)

	store, broker := memstore.New(nil), membroker.New()
	ob := outbox.New(store, outbox.WithContextHeaders(oteloutbox.ContextHeaders(config.Propagator)))

	hook := oteloutbox.NewHook("memory", config)
	defer hook.Close()
	r := relay.New(store, broker.Publisher(), &relay.Config{Hooks: []relay.Hook{hook}, Logger: quiet})

	w := worker.New(broker.Subscriber(), &worker.Config{
		Queue: "billing", Logger: quiet,
		Middleware: []worker.Middleware{oteloutbox.Middleware("memory", config)},
	})
	ctx, stop := context.WithCancel(context.Background())
	worker.Handle(w, "order.placed", func(context.Context, *worker.Delivery[string]) error {
		stop() // here after the first message; otherwise on SIGTERM
		return nil
	})

	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	<-w.Ready()
	go func() { ended <- r.Run(ctx) }()

	request, span := provider.Tracer("shop").Start(ctx, "POST /orders")
	err := ob.InTx(request, func(tx *memstore.Tx) error {
		return ob.Emit(request, tx, outbox.Event{Topic: "order.placed", Key: "A-7", Payload: "A-7"})
	})
	span.End()
	fmt.Println(err, <-ended, <-ended)

	inTrace := map[string]bool{}
	for _, s := range spans.GetSpans() {
		inTrace[s.Name] = s.SpanContext.TraceID() == span.SpanContext().TraceID()
	}
	fmt.Println(inTrace)
	// Output:
	// <nil> <nil> <nil>
	// map[POST /orders:true process order.placed:true publish order.placed:true]
}
