package oteloutbox

import (
	"context"
	"slices"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/outbox-go/outbox"
)

const scope = "github.com/outbox-go/outbox/telemetry/otel"

// Config changes the defaults of [NewHook] and [Middleware].
type Config struct {
	// TracerProvider makes the spans. Defaults to otel.GetTracerProvider().
	TracerProvider trace.TracerProvider

	// Propagator reads the trace from a message's headers; it must know what
	// [ContextHeaders] was given. Defaults to propagation.TraceContext.
	Propagator propagation.TextMapPropagator
}

// ContextHeaders returns a function for [outbox.WithContextHeaders] that has events
// carry the trace of the context they are emitted with. A nil propagator means
// propagation.TraceContext: the headers traceparent and tracestate. For baggage, too:
//
//	propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
func ContextHeaders(propagator propagation.TextMapPropagator) func(context.Context) map[string]string {
	propagator = orTraceContext(propagator)
	return func(ctx context.Context) map[string]string {
		headers := propagation.MapCarrier{}
		propagator.Inject(ctx, headers)
		return headers
	}
}

func orTraceContext(p propagation.TextMapPropagator) propagation.TextMapPropagator {
	if p == nil {
		return propagation.TraceContext{}
	}
	return p
}

// settings are a Config with its defaults.
type settings struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	system     attribute.KeyValue // not valid if it was not told
	w3c        bool               // propagator knows traceparent
	fields     []string           // what else it knows
}

func newSettings(system string, config *Config) settings {
	var c Config
	if config != nil {
		c = *config
	}
	if c.TracerProvider == nil {
		c.TracerProvider = otel.GetTracerProvider()
	}
	s := settings{
		tracer:     c.TracerProvider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		propagator: orTraceContext(c.Propagator),
	}
	if system != "" {
		s.system = semconv.MessagingSystemKey.String(system)
	}
	s.fields = s.propagator.Fields()
	s.w3c = slices.Contains(s.fields, outbox.HeaderTraceparent)
	return s
}

// extract returns a context with the trace that headers carry. They are not
// changed.
func (s *settings) extract(ctx context.Context, headers map[string]string) context.Context {
	return s.propagator.Extract(ctx, propagation.MapCarrier(headers))
}

// sampled reports whether headers carry a trace that is sampled.
func (s *settings) sampled(headers map[string]string) bool {
	if len(headers) == 0 {
		return false
	}
	if parent := headers[outbox.HeaderTraceparent]; s.w3c && parent != "" {
		return w3cSampled(parent)
	}
	for _, field := range s.fields {
		if _, ok := headers[field]; ok {
			return trace.SpanContextFromContext(s.extract(context.Background(), headers)).IsSampled()
		}
	}
	return false
}

// w3cSampled looks at the flags alone, which are at the same place in all versions:
// what else is wrong with a header is found by the propagator.
func w3cSampled(traceparent string) bool {
	const flags = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-")
	if len(traceparent) < flags+2 {
		return false
	}
	switch traceparent[flags+1] {
	case '1', '3', '5', '7', '9', 'b', 'd', 'f':
		return true
	}
	return false
}

// attributes are those that both kinds of spans have.
func (s *settings) attributes(m *outbox.Message, attempt int) []attribute.KeyValue {
	const most = 10
	list := append(make([]attribute.KeyValue, 0, most),
		semconv.MessagingDestinationName(m.Topic),
		semconv.MessagingMessageBodySize(len(m.Payload)),
		attribute.Int("outbox.attempt", attempt),
	)
	if s.system.Valid() {
		list = append(list, s.system)
	}
	if m.ID != "" {
		list = append(list, semconv.MessagingMessageID(m.ID))
	}
	if id := m.CorrelationID(); id != "" {
		list = append(list, semconv.MessagingMessageConversationID(id))
	}
	return list
}
