package oteloutbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/memstore"
	oteloutbox "github.com/outbox-go/outbox/telemetry/otel"
	"github.com/outbox-go/outbox/worker"
)

// spans collects what a provider made.
type spans struct {
	t        *testing.T
	exporter *tracetest.InMemoryExporter
	provider *sdktrace.TracerProvider
}

// newSpans makes a provider whose sampler does as the parent does, and without one
// as root says.
func newSpans(t *testing.T, root sdktrace.Sampler) *spans {
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter), sdktrace.WithSampler(sdktrace.ParentBased(root)))
	return &spans{t, exporter, provider}
}

func (s *spans) config() *oteloutbox.Config { return &oteloutbox.Config{TracerProvider: s.provider} }

// named returns the spans of a name, in the order in which they ended.
func (s *spans) named(name string) tracetest.SpanStubs {
	var found tracetest.SpanStubs
	for _, span := range s.exporter.GetSpans() {
		if span.Name == name {
			found = append(found, span)
		}
	}
	return found
}

// one returns the only span of a name.
func (s *spans) one(name string) tracetest.SpanStub {
	s.t.Helper()
	found := s.named(name)
	if len(found) != 1 {
		s.t.Fatalf("%d spans %q, want 1; all are %v", len(found), name, s.names())
	}
	return found[0]
}

func (s *spans) names() (names []string) {
	for _, span := range s.exporter.GetSpans() {
		names = append(names, span.Name)
	}
	return names
}

func valueOf(span tracetest.SpanStub, key string) string {
	for _, a := range span.Attributes {
		if string(a.Key) == key {
			return a.Value.String()
		}
	}
	return ""
}

func wantAttributes(t *testing.T, span tracetest.SpanStub, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if have := valueOf(span, key); have != value {
			t.Errorf("span %q has %s = %q, want %q", span.Name, key, have, value)
		}
	}
}

func wantParent(t *testing.T, child, parent tracetest.SpanStub) {
	t.Helper()
	if child.SpanContext.TraceID() != parent.SpanContext.TraceID() || child.Parent.SpanID() != parent.SpanContext.SpanID() {
		t.Errorf("span %q has the parent %s of trace %s, want %q", child.Name, child.Parent.SpanID(), child.SpanContext.TraceID(), parent.Name)
	}
}

// service is an outbox, a relay, a broker and a worker, all of them in memory and
// traced.
type service struct {
	t      *testing.T
	outbox *outbox.Outbox[*memstore.Tx]
	broker *membroker.Broker
	hook   *oteloutbox.Hook
	worker *worker.Worker
	relay  *relay.Relay
}

func newService(t *testing.T, s *spans, propagator propagation.TextMapPropagator) *service {
	config := s.config()
	config.Propagator = propagator
	quiet := slog.New(slog.DiscardHandler)
	st, b, hook := memstore.New(nil), membroker.New(), oteloutbox.NewHook("memory", config)
	return &service{
		t: t, broker: b, hook: hook,
		outbox: outbox.New(st, outbox.WithContextHeaders(oteloutbox.ContextHeaders(propagator))),
		relay:  relay.New(st, b.Publisher(), &relay.Config{Logger: quiet, Hooks: []relay.Hook{hook}}),
		worker: worker.New(b.Subscriber(), &worker.Config{
			Queue: "billing", Logger: quiet, Middleware: []worker.Middleware{oteloutbox.Middleware("memory", config)},
			Retries: worker.Retries{Delays: []time.Duration{time.Second}},
		}),
	}
}

func (s *service) emit(ctx context.Context, topic string) error {
	return s.outbox.InTx(ctx, func(tx *memstore.Tx) error {
		return s.outbox.Emit(ctx, tx, outbox.Event{Topic: topic, Key: "a", Payload: topic})
	})
}

// run runs relay and worker for an hour of a bubble's time, and do at its beginning.
func (s *service) run(do func()) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Hour)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- s.worker.Run(ctx) }()
	<-s.worker.Ready()
	go func() { ended <- s.relay.Run(ctx) }()
	do()
	for range 2 {
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	}
	s.hook.Close()
}

// TestEmitPublishAndHandleAreOneTrace runs in a bubble, which ends only when all
// goroutines have.
func TestEmitPublishAndHandleAreOneTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newSpans(t, sdktrace.AlwaysSample())
		s := newService(t, all, propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
		handled := map[string]worker.Metadata{}
		worker.Handle(s.worker, "order.placed", func(ctx context.Context, d *worker.Delivery[string]) error {
			handled[d.Topic] = d.Metadata
			return s.emit(ctx, "mail.sent")
		})
		worker.Handle(s.worker, "mail.sent", func(ctx context.Context, d *worker.Delivery[string]) error {
			handled[d.Topic] = d.Metadata
			if tier := baggage.FromContext(ctx).Member("tier").Value(); tier != "gold" {
				t.Errorf("baggage has the tier %q, want gold", tier)
			}
			return nil
		})
		s.run(func() {
			member, err := baggage.NewMember("tier", "gold")
			if err != nil {
				t.Fatal(err)
			}
			bag, err := baggage.New(member)
			if err != nil {
				t.Fatal(err)
			}
			ctx, span := all.provider.Tracer("test").Start(baggage.ContextWithBaggage(t.Context(), bag), "request")
			defer span.End()
			if err := s.emit(ctx, "order.placed"); err != nil {
				t.Fatal(err)
			}
		})
		request, process := all.one("request"), all.one("process order.placed")
		wantParent(t, all.one("publish order.placed"), request)
		wantParent(t, process, request)
		wantParent(t, all.one("publish mail.sent"), process)
		wantParent(t, all.one("process mail.sent"), process)
		if n := len(all.exporter.GetSpans()); n != 5 {
			t.Errorf("%d spans, want 5: %v", n, all.names())
		}
		wantOrderPlaced(t, all, handled["order.placed"])
	})
}

// wantOrderPlaced compares the spans of a message with what the conventions ask for.
func wantOrderPlaced(t *testing.T, all *spans, m worker.Metadata) {
	t.Helper()
	both := map[string]string{
		"messaging.system": "memory", "messaging.destination.name": "order.placed", "messaging.message.id": m.ID,
		"messaging.message.conversation_id": m.ID, "messaging.message.body.size": "14", "outbox.attempt": "1",
	}
	publish, process := all.one("publish order.placed"), all.one("process order.placed")
	for _, span := range []tracetest.SpanStub{publish, process} {
		wantAttributes(t, span, both)
		if span.Status.Code != codes.Unset {
			t.Errorf("span %q has the status %v", span.Name, span.Status)
		}
	}
	wantAttributes(t, publish, map[string]string{"messaging.operation.name": "publish", "messaging.operation.type": "send"})
	wantAttributes(t, process, map[string]string{
		"messaging.operation.name": "process", "messaging.operation.type": "process", "messaging.consumer.group.name": "billing",
	})
	if publish.SpanKind != trace.SpanKindProducer || process.SpanKind != trace.SpanKindConsumer {
		t.Errorf("the kinds are %v and %v, want producer and consumer", publish.SpanKind, process.SpanKind)
	}
}

func TestRetriedMessageKeepsItsTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newSpans(t, sdktrace.AlwaysSample())
		s := newService(t, all, nil)
		refused := false
		s.broker.Refuse(func(*outbox.Message) error {
			if refused {
				return nil
			}
			refused = true
			return errors.New("the queue is full")
		})
		worker.Handle(s.worker, "order.placed", func(_ context.Context, d *worker.Delivery[string]) error {
			if d.Attempt == 1 {
				return errors.New("no luck")
			}
			return nil
		})
		s.run(func() {
			ctx, span := all.provider.Tracer("test").Start(t.Context(), "request")
			defer span.End()
			if err := s.emit(ctx, "order.placed"); err != nil {
				t.Fatal(err)
			}
		})
		want := map[string]struct{ text, errorType string }{
			"publish order.placed": {"message refused: the queue is full", "refused"},
			"process order.placed": {"no luck", "*errors.errorString"},
		}
		for name, failure := range want {
			got := all.named(name)
			if len(got) != 2 {
				t.Fatalf("%d spans %q, want one for each attempt", len(got), name)
			}
			for i, span := range got {
				wantParent(t, span, all.one("request"))
				wantAttributes(t, span, map[string]string{"outbox.attempt": fmt.Sprint(i + 1)})
			}
			wantFailure(t, got[0], failure.text, failure.errorType)
			if got[1].Status.Code != codes.Unset {
				t.Errorf("the second attempt has the status %v", got[1].Status)
			}
		}
	})
}

func wantFailure(t *testing.T, span tracetest.SpanStub, text, errorType string) {
	t.Helper()
	if span.Status.Code != codes.Error || span.Status.Description != text {
		t.Errorf("span %q has the status %v, want the error %q", span.Name, span.Status, text)
	}
	wantAttributes(t, span, map[string]string{"error.type": errorType})
	if len(span.Events) != 1 || !hasAttribute(span.Events[0].Attributes, "exception.message", text) {
		t.Errorf("span %q has the events %v, want one with %q", span.Name, span.Events, text)
	}
}

func hasAttribute(list []attribute.KeyValue, key, value string) bool {
	for _, a := range list {
		if string(a.Key) == key && a.Value.String() == value {
			return true
		}
	}
	return false
}

// TestUnsampledTraceGoesOnUnsampled: the handler's messages belong to the trace, too.
func TestUnsampledTraceGoesOnUnsampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newSpans(t, sdktrace.NeverSample())
		s := newService(t, all, nil)
		carried := map[string]string{}
		worker.Handle(s.worker, "#", func(ctx context.Context, d *worker.Delivery[string]) error {
			carried[d.Topic] = d.Headers["traceparent"]
			if d.Topic == "order.placed" {
				return s.emit(ctx, "mail.sent")
			}
			return nil
		})
		var id trace.TraceID
		s.run(func() {
			ctx, span := all.provider.Tracer("test").Start(t.Context(), "request")
			defer span.End()
			id = span.SpanContext().TraceID()
			if err := s.emit(ctx, "order.placed"); err != nil {
				t.Fatal(err)
			}
		})
		for _, topic := range []string{"order.placed", "mail.sent"} {
			parent := carried[topic]
			if len(parent) != 55 || parent[3:35] != id.String() || parent[53:] != "00" {
				t.Errorf("%s carries %q, want the trace %s, not sampled", topic, parent, id)
			}
		}
		if names := all.names(); len(names) != 0 {
			t.Errorf("there are spans: %v", names)
		}
	})
}
