package oteloutbox_test

import (
	"context"
	"errors"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/outbox-go/outbox"
	oteloutbox "github.com/outbox-go/outbox/telemetry/otel"
	"github.com/outbox-go/outbox/worker"
)

// handle passes a message through the middleware to a handler.
func (s *spans) handle(ctx context.Context, m *outbox.Message, next worker.Handler) error {
	d := &worker.Delivery[[]byte]{Metadata: worker.Metadata{ID: m.ID, Topic: m.Topic, Headers: m.Headers, Attempt: 1, Queue: "q"}}
	return oteloutbox.Middleware("memory", s.config())(next)(ctx, d)
}

func TestMessageWithoutATraceBeginsOne(t *testing.T) {
	t.Parallel()
	all := newSpans(t, sdktrace.AlwaysSample())
	ctx, whole := all.provider.Tracer("test").Start(t.Context(), "the worker's whole life")
	var inside trace.SpanContext
	err := all.handle(ctx, &outbox.Message{ID: "1", Topic: "a"}, func(ctx context.Context, _ *worker.Delivery[[]byte]) error {
		inside = trace.SpanContextFromContext(ctx)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	span := all.one("process a")
	if span.Parent.IsValid() || span.SpanContext.TraceID() == whole.SpanContext().TraceID() {
		t.Errorf("the span is of the trace %s with the parent %s, want a trace of its own", span.SpanContext.TraceID(), span.Parent.SpanID())
	}
	if !inside.Equal(span.SpanContext) {
		t.Error("the handler's context does not have the span")
	}
}

// hostile is an error whose methods panic.
type hostile struct{}

func (*hostile) Error() string { panic("no text") }

func TestHandlersErrorsAreRecordedAndHandedOn(t *testing.T) {
	t.Parallel()
	for errorType, err := range map[string]error{
		"undeliverable":       errors.Join(worker.ErrUndeliverable, errors.New("no JSON")),
		"panic":               &outbox.PanicError{Value: "x"},
		"timeout":             context.DeadlineExceeded,
		"*errors.errorString": errors.New("no luck"),
		"":                    &hostile{},
	} {
		all := newSpans(t, sdktrace.AlwaysSample())
		got := all.handle(t.Context(), message(sampledParent), func(context.Context, *worker.Delivery[[]byte]) error { return err })
		if !errors.Is(got, err) {
			t.Errorf("%s: the middleware returned another error", errorType)
		}
		span := all.one("process a")
		if span.Status.Code != codes.Error {
			t.Errorf("%s: the status is %v", errorType, span.Status)
		}
		wantAttributes(t, span, map[string]string{"error.type": errorType})
	}
}

func TestSpanEndsWhenTheHandlerDoesNotReturn(t *testing.T) {
	t.Parallel()
	all := newSpans(t, sdktrace.AlwaysSample())
	func() {
		defer func() { _ = recover() }()
		_ = all.handle(t.Context(), message(sampledParent), func(context.Context, *worker.Delivery[[]byte]) error { panic("in other middleware") })
	}()
	wantFailure(t, all.one("process a"), "the handler ended without an outcome", "no_outcome")
}
