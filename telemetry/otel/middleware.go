package oteloutbox

import (
	"context"
	"errors"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/worker"
)

var errNoOutcome = errors.New("the handler ended without an outcome")

// Middleware returns middleware for worker.Config.Middleware that makes a span of
// each attempt to handle a message: see the package's documentation. It belongs
// first in the list, so that what other middleware does is in the span. system and
// config are as in [NewHook].
func Middleware(system string, config *Config) worker.Middleware {
	s := newSettings(system, config)
	return func(next worker.Handler) worker.Handler {
		return func(ctx context.Context, d *worker.Delivery[[]byte]) error {
			ctx, span := s.startProcess(ctx, d)
			err := errNoOutcome // unless next returns
			defer func() {
				if err != nil {
					fail(span, err, handlerErrorType)
				}
				span.End()
			}()
			err = next(ctx, d)
			return err
		}
	}
}

func (s *settings) startProcess(ctx context.Context, d *worker.Delivery[[]byte]) (context.Context, trace.Span) {
	m := outbox.Message{ID: d.ID, Topic: d.Topic, Headers: d.Headers, Payload: d.Payload}
	attributes := append(s.attributes(&m, d.Attempt), semconv.MessagingConsumerGroupName(d.Queue),
		semconv.MessagingOperationName("process"), semconv.MessagingOperationTypeProcess)
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attributes...)}
	own := trace.SpanContextFromContext(ctx)
	ctx = s.extract(ctx, d.Headers)
	if trace.SpanContextFromContext(ctx).Equal(own) {
		// A span in the context of Run is of the whole worker, not of the message.
		options = append(options, trace.WithNewRoot())
	}
	return s.tracer.Start(ctx, "process "+d.Topic, options...)
}

// handlerErrorType is short and of few values: types, not texts.
func handlerErrorType(err error) string {
	var panicked *outbox.PanicError
	switch {
	case errors.Is(err, worker.ErrUndeliverable):
		return "undeliverable"
	case errors.As(err, &panicked):
		return "panic"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, errNoOutcome):
		return "no_outcome"
	}
	return semconv.ErrorType(err).Value.AsString()
}
