package outbox_test

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store/memstore"
)

func TestEmittedEventsContinueTheirCause(t *testing.T) {
	t.Parallel()
	const trace, other = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
	background := context.Background()
	caused := func(m outbox.Message) context.Context { return outbox.WithCause(background, &m) }
	tracer := outbox.WithContextHeaders(func(context.Context) map[string]string {
		return map[string]string{"traceparent": other, "tenant-tier": "gold"}
	})
	type headers = map[string]string
	for name, test := range map[string]struct {
		ctx  context.Context
		opts []outbox.Option
		own  headers
		want headers
	}{
		"nothing":               {ctx: background},
		"correlation id":        {ctx: outbox.WithCorrelationID(background, "r1"), want: headers{"correlation-id": "r1"}},
		"first of a chain":      {ctx: caused(outbox.Message{ID: "m1"}), want: headers{"correlation-id": "m1", "causation-id": "m1"}},
		"later in a chain":      {ctx: caused(outbox.Message{ID: "m2", Headers: headers{"correlation-id": "r1", "causation-id": "m1", "x": "y"}}), want: headers{"correlation-id": "r1", "causation-id": "m2"}},
		"without an id":         {ctx: caused(outbox.Message{}), want: nil},
		"not fit for a header":  {ctx: caused(outbox.Message{ID: "a\nb"}), want: nil},
		"trace":                 {ctx: caused(outbox.Message{Headers: headers{"traceparent": trace, "tracestate": "a=1"}}), want: headers{"traceparent": trace, "tracestate": "a=1"}},
		"the event's own win":   {ctx: caused(outbox.Message{ID: "m1", Headers: headers{"traceparent": trace, "tracestate": "a=1"}}), own: headers{"correlation-id": "mine", "traceparent": other}, want: headers{"correlation-id": "mine", "causation-id": "m1", "traceparent": other}},
		"tracer over the cause": {ctx: caused(outbox.Message{ID: "m1", Headers: headers{"traceparent": trace, "tracestate": "a=1"}}), opts: []outbox.Option{tracer}, want: headers{"correlation-id": "m1", "causation-id": "m1", "traceparent": other, "tenant-tier": "gold"}},
		"tracer alone":          {ctx: background, opts: []outbox.Option{tracer}, want: headers{"traceparent": other, "tenant-tier": "gold"}},
	} {
		ob := outbox.New(memstore.New(nil), test.opts...)
		own := maps.Clone(test.own)
		msgs, err := ob.Prepare(test.ctx, outbox.Event{Topic: "a", Headers: test.own}, outbox.Event{Topic: "b", Headers: test.own})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, m := range msgs {
			if !maps.Equal(m.Headers, test.want) {
				t.Errorf("%s: headers %q, want %q", name, m.Headers, test.want)
			}
		}
		if !maps.Equal(own, test.own) {
			t.Errorf("%s: the event's headers were changed to %q", name, test.own)
		}
	}
}

func TestCorrelationIDOfAContext(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	if id := outbox.CorrelationID(ctx); id != "" {
		t.Errorf("got %q of an empty context", id)
	}
	ctx = outbox.WithCause(ctx, &outbox.Message{ID: "m1"})
	ctx = outbox.WithCorrelationID(ctx, "r1")
	if id := outbox.CorrelationID(ctx); id != "r1" {
		t.Errorf("got %q, want r1", id)
	}
	msgs, err := outbox.New(memstore.New(nil)).Prepare(ctx, outbox.Event{Topic: "a"})
	if err != nil || msgs[0].CausationID() != "m1" || msgs[0].CorrelationID() != "r1" {
		t.Errorf("emitted %+v, %v; want both ids", msgs, err)
	}
}

func TestClockIsTheTimeOfTheEmit(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	msgs, err := outbox.New(memstore.New(nil), outbox.WithClock(func() time.Time { return at })).Prepare(t.Context(), outbox.Event{Topic: "a"})
	if err != nil || msgs[0].CreatedAt != at.UTC() {
		t.Errorf("created at %v, %v; want %v", msgs[0].CreatedAt, err, at.UTC())
	}
}

func TestStrictJSONRefusesWhatHasNoPlace(t *testing.T) {
	t.Parallel()
	strict, ok := outbox.JSON.(outbox.StrictCodec)
	if !ok {
		t.Fatal("JSON is not strict")
	}
	for data, valid := range map[string]bool{
		`{"A":1}`: true, "\n{\"A\":1}\n": true, `{"A":1,"B":2}`: false, `{"A":1}{}`: false, `{"A":1},`: false, ``: false, `{`: false,
	} {
		var v struct{ A int }
		if err := strict.DecodeStrict([]byte(data), &v); (err == nil) != valid {
			t.Errorf("%s: error %v, want none: %v", data, err, valid)
		}
	}
}
