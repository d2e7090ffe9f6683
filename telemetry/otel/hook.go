package oteloutbox

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/outbox-go/outbox"
)

// A publisher answers every message. One that does not, against its contract, leaves
// no more spans open than these allow.
const (
	maxOpen = 100_000 // the greatest window of a relay
	maxWait = 5 * time.Minute
)

var errNoAnswer = errors.New("the publisher gave no answer")

// Hook is a relay's hook that makes a span of each message that is sent: see the
// package's documentation. It is safe for concurrent use, also by several relays;
// make it with [NewHook].
type Hook struct {
	settings

	mu   sync.Mutex
	open map[*outbox.Message]*list.Element
	age  list.List // of *sending, the oldest first
}

// sending is a message without an answer.
type sending struct {
	message *outbox.Message
	span    trace.Span
	since   time.Time
}

// NewHook returns a hook for relay.Config.Hooks. system is the broker's name among
// the semantic conventions' values of messaging.system, such as "rabbitmq" or
// "kafka", or another one, such as "nats"; empty leaves the attribute out. config may
// be nil. A relay that only chooses routes sends nothing, and is better without it.
func NewHook(system string, config *Config) *Hook {
	return &Hook{settings: newSettings(system, config), open: map[*outbox.Message]*list.Element{}}
}

// Publishing begins a span. It implements relay.PublishHook.
func (h *Hook) Publishing(m *outbox.Message) {
	if !h.sampled(m.Headers) {
		return
	}
	attributes := append(h.attributes(m, m.Attempts+1),
		semconv.MessagingOperationName("publish"), semconv.MessagingOperationTypeSend)
	_, span := h.tracer.Start(h.extract(context.Background(), m.Headers), "publish "+m.Topic,
		trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attributes...))
	if !span.IsRecording() {
		return
	}
	for _, late := range h.begin(&sending{m, span, time.Now()}) {
		end(late, errNoAnswer)
	}
}

// Answered ends the span. It implements relay.AnswerHook.
func (h *Hook) Answered(m *outbox.Message, _ time.Duration, err error) {
	if !h.sampled(m.Headers) {
		return
	}
	h.mu.Lock()
	span := h.takeLocked(m)
	h.mu.Unlock()
	end(span, err)
}

// Close ends the spans of messages that have no answer. It is called after the
// relay's Run has returned.
func (h *Hook) Close() {
	h.mu.Lock()
	var open []trace.Span
	for h.age.Len() > 0 {
		open = append(open, h.takeLocked(h.oldest().message))
	}
	h.mu.Unlock()
	for _, span := range open {
		end(span, errNoAnswer)
	}
}

// begin adds s and returns the spans that have waited for too long.
func (h *Hook) begin(s *sending) (late []trace.Span) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if before := h.takeLocked(s.message); before != nil {
		late = append(late, before)
	}
	h.open[s.message] = h.age.PushBack(s)
	for len(h.open) > maxOpen || s.since.Sub(h.oldest().since) > maxWait {
		late = append(late, h.takeLocked(h.oldest().message))
	}
	return late
}

func (h *Hook) oldest() *sending { return h.age.Front().Value.(*sending) }

// takeLocked returns the span of m, or nil, and forgets it. The caller holds mu.
func (h *Hook) takeLocked(m *outbox.Message) trace.Span {
	at := h.open[m]
	if at == nil {
		return nil
	}
	delete(h.open, m)
	return h.age.Remove(at).(*sending).span
}

func end(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil {
		fail(span, err, answerType)
	}
	span.End()
}

// answerType is the class of a publisher's error.
func answerType(err error) string {
	switch {
	case errors.Is(err, errNoAnswer):
		return "no_answer"
	case errors.Is(err, outbox.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, outbox.ErrInvalid):
		return "invalid"
	}
	return "refused"
}

// fail records err with a span. The methods of err are somebody else's: that they
// panic must not change what becomes of the message.
func fail(span trace.Span, err error, errorType func(error) string) {
	defer func() {
		if p := recover(); p != nil {
			span.SetStatus(codes.Error, "an error whose methods panic")
		}
	}()
	span.SetStatus(codes.Error, err.Error())
	span.SetAttributes(semconv.ErrorTypeKey.String(errorType(err)))
	span.RecordError(err)
}
