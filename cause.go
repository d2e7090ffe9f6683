package outbox

import (
	"context"
	"maps"
)

type causeKey struct{}

// cause is what a context gives to the events emitted with it.
type cause struct {
	correlationID, causationID, traceparent, tracestate string
}

// WithCorrelationID returns a context by which emitted events get id as their
// correlation id, unless they have one. A worker does it for its handlers; in a
// service's own entry points, such as an HTTP handler, it begins the chain.
func WithCorrelationID(ctx context.Context, id string) context.Context {
	c := causeOf(ctx)
	c.correlationID = id
	return context.WithValue(ctx, causeKey{}, c)
}

// CorrelationID returns the correlation id that events emitted with ctx get, empty
// if there is none.
func CorrelationID(ctx context.Context) string { return causeOf(ctx).correlationID }

// WithCause returns a context by which emitted events continue m: they get m's
// correlation id, or m's own id if it has none, m's id as causation id and m's
// trace context, each unless the event has its own. The worker does it for its
// handlers. m must not be changed afterwards.
func WithCause(ctx context.Context, m *Message) context.Context {
	return context.WithValue(ctx, causeKey{}, m)
}

// CorrelationID returns the id of the chain of messages that m belongs to: its
// header or, if it has none, its own id, since it began the chain.
func (m *Message) CorrelationID() string {
	if id := m.Headers[HeaderCorrelationID]; id != "" {
		return id
	}
	return m.ID
}

// CausationID returns the id of the message whose handler emitted m, empty if
// there is none.
func (m *Message) CausationID() string { return m.Headers[HeaderCausationID] }

func causeOf(ctx context.Context) cause {
	switch c := ctx.Value(causeKey{}).(type) {
	case cause:
		return c
	case *Message:
		return cause{
			correlationID: c.CorrelationID(),
			causationID:   c.ID,
			traceparent:   c.Headers[HeaderTraceparent],
			tracestate:    c.Headers[HeaderTracestate],
		}
	}
	return cause{}
}

// carriedBy returns the headers that events emitted with ctx get unless they have
// them, nil if there are none. What cannot be a header is left out: it came from
// elsewhere and is no fault of the event.
func (o *Outbox[Tx]) carriedBy(ctx context.Context) map[string]string {
	var headers map[string]string
	set := func(name, value string) {
		if value == "" || textFault(value, maxHeaderValue) != "" || headerNameFault(name) != "" {
			return
		}
		if headers == nil {
			headers = make(map[string]string, 4)
		}
		headers[name] = value
	}
	c := causeOf(ctx)
	set(HeaderCorrelationID, c.correlationID)
	set(HeaderCausationID, c.causationID)
	if set(HeaderTraceparent, c.traceparent); c.traceparent != "" {
		set(HeaderTracestate, c.tracestate)
	}
	if o.contextHeaders == nil {
		return headers
	}
	own := o.contextHeaders(ctx)
	if own[HeaderTraceparent] != "" {
		delete(headers, HeaderTracestate) // of the other trace
	}
	for name, value := range own {
		set(name, value)
	}
	return headers
}

// withHeaders returns headers with those of more that it lacks. It changes
// neither.
func withHeaders(headers, more map[string]string) map[string]string {
	if len(more) == 0 {
		return headers
	}
	out := maps.Clone(more)
	if headers[HeaderTraceparent] != "" {
		delete(out, HeaderTracestate) // of the other trace
	}
	maps.Copy(out, headers)
	return out
}
