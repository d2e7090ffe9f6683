package oteloutbox_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/outbox-go/outbox"
	oteloutbox "github.com/outbox-go/outbox/telemetry/otel"
)

const (
	sampledParent   = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	unsampledParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

func message(traceparent string) *outbox.Message {
	return &outbox.Message{ID: "1", Topic: "a", Headers: map[string]string{"traceparent": traceparent}}
}

func TestUnsampledMessagesCostNothing(t *testing.T) {
	all := newSpans(t, sdktrace.AlwaysSample())
	hook := oteloutbox.NewHook("memory", all.config())
	hook.Publishing(message(sampledParent)) // one that is open changes nothing
	for name, m := range map[string]*outbox.Message{
		"unsampled": message(unsampledParent), "no trace": {ID: "1", Topic: "a", Headers: map[string]string{"x": "y"}},
		"no headers": {ID: "1", Topic: "a"}, "cut short": message(sampledParent[:40]),
	} {
		allocs := testing.AllocsPerRun(100, func() {
			hook.Publishing(m)
			hook.Answered(m, time.Millisecond, nil)
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations a message, want none", name, allocs)
		}
	}
	hook.Close()
	if n := len(all.exporter.GetSpans()); n != 1 {
		t.Errorf("%d spans, want that of the sampled message alone", n)
	}
}

func TestAnswersAreTheSpansStatus(t *testing.T) {
	t.Parallel()
	errNo := errors.New("no")
	for errorType, err := range map[string]error{
		"": nil, "unavailable": outbox.Unavailable(errNo), "refused": errNo, "invalid": outbox.Invalid(errNo),
	} {
		all := newSpans(t, sdktrace.AlwaysSample())
		hook, m := oteloutbox.NewHook("", all.config()), message(sampledParent)
		hook.Publishing(m)
		hook.Answered(m, time.Millisecond, err)
		span := all.one("publish a")
		wantAttributes(t, span, map[string]string{"error.type": errorType, "messaging.system": ""})
		if failed := span.Status.Code == codes.Error; failed != (err != nil) {
			t.Errorf("the answer %v gave the status %v", err, span.Status)
		}
	}
}

// TestSpansWithoutAnAnswerEnd: a publisher that forgets messages, which none may,
// fills no memory.
func TestSpansWithoutAnAnswerEnd(t *testing.T) {
	t.Run("AfterATime", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			all := newSpans(t, sdktrace.AlwaysSample())
			hook, first := oteloutbox.NewHook("", all.config()), message(sampledParent)
			hook.Publishing(first)
			time.Sleep(4 * time.Minute)
			hook.Publishing(message(sampledParent))
			if n := len(all.exporter.GetSpans()); n != 0 {
				t.Fatalf("%d spans have ended, want none that waits for 4 min", n)
			}
			time.Sleep(2 * time.Minute)
			hook.Publishing(message(sampledParent))
			wantAttributes(t, all.one("publish a"), map[string]string{"error.type": "no_answer"})
			hook.Answered(first, time.Hour, nil) // comes too late
			all.one("publish a")
		})
	})
	t.Run("WhenThereAreTooMany", func(t *testing.T) {
		t.Parallel()
		all := newSpans(t, sdktrace.AlwaysSample())
		hook := oteloutbox.NewHook("", all.config())
		for range 100_000 {
			hook.Publishing(message(sampledParent))
		}
		if n := len(all.exporter.GetSpans()); n != 0 {
			t.Fatalf("%d spans have ended, want none", n)
		}
		hook.Publishing(message(sampledParent))
		all.one("publish a")
	})
	t.Run("AtTheEnd", func(t *testing.T) {
		t.Parallel()
		all := newSpans(t, sdktrace.AlwaysSample())
		hook := oteloutbox.NewHook("", all.config())
		hook.Publishing(message(sampledParent))
		hook.Close()
		all.one("publish a")
	})
	t.Run("WhenSentAgain", func(t *testing.T) {
		t.Parallel()
		all := newSpans(t, sdktrace.AlwaysSample())
		hook, m := oteloutbox.NewHook("", all.config()), message(sampledParent)
		hook.Publishing(m)
		hook.Publishing(m)
		all.one("publish a")
		hook.Answered(m, time.Millisecond, nil)
		if got := all.named("publish a"); len(got) != 2 || got[1].Status.Code != codes.Unset {
			t.Errorf("the spans are %v, want a second one without error", got)
		}
	})
}

// letter is a propagator of another format: a header "x-trace" with "yes" or "no".
type letter struct{}

func (letter) Fields() []string                                   { return []string{"x-trace"} }
func (letter) Inject(context.Context, propagation.TextMapCarrier) {}

func (letter) Extract(ctx context.Context, carrier propagation.TextMapCarrier) context.Context {
	config := trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, Remote: true}
	if carrier.Get("x-trace") == "yes" {
		config.TraceFlags = trace.FlagsSampled
	}
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(config))
}

func TestAnotherPropagatorDecides(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]int{"yes": 1, "no": 0} {
		all := newSpans(t, sdktrace.AlwaysSample())
		config := all.config()
		config.Propagator = letter{}
		hook := oteloutbox.NewHook("", config)
		m := message(unsampledParent) // a header that this propagator does not know
		m.Headers["x-trace"] = value
		hook.Publishing(m)
		hook.Answered(m, time.Millisecond, nil)
		got := all.exporter.GetSpans()
		if len(got) != want {
			t.Fatalf("%s: %d spans, want %d", value, len(got), want)
		}
		if want == 1 && got[0].Parent.TraceID() != (trace.TraceID{1}) {
			t.Errorf("the parent is of trace %s", got[0].Parent.TraceID())
		}
	}
}
