package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store/memstore"
)

func prepare(t *testing.T, e outbox.Event, opts ...outbox.Option) (outbox.Message, error) {
	t.Helper()
	msgs, err := outbox.New(memstore.New(nil), opts...).Prepare(t.Context(), e)
	if err != nil {
		return outbox.Message{}, err
	}
	return msgs[0], nil
}

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func TestEmitRefusesWhatCannotBeSent(t *testing.T) {
	for name, c := range map[string]struct {
		event outbox.Event
		field string
	}{
		"no topic":           {outbox.Event{}, "Topic"},
		"malformed topic":    {outbox.Event{Topic: "user..created"}, "Topic"},
		"wild topic":         {outbox.Event{Topic: "user.*"}, "Topic"},
		"long topic":         {outbox.Event{Topic: strings.Repeat("a", 256)}, "Topic"},
		"id that is no UUID": {outbox.Event{Topic: "t", ID: "17"}, "ID"},
		"payload":            {outbox.Event{Topic: "t", Payload: math.NaN()}, "Payload"},
		"payload type":       {outbox.Event{Topic: "t", Payload: make(chan int)}, "Payload"},
		"raw JSON":           {outbox.Event{Topic: "t", Payload: json.RawMessage(`{`)}, "Payload"},
		"unknown codec":      {outbox.Event{Topic: "t", Payload: 1, ContentType: "application/x-mine"}, "Payload"},
		"large payload":      {outbox.Event{Topic: "t", Payload: make([]byte, outbox.DefaultMaxPayload+1)}, "Payload"},
		"content type":       {outbox.Event{Topic: "t", Payload: []byte{}, ContentType: "no slash\n"}, "ContentType"},
		"key":                {outbox.Event{Topic: "t", Key: "a\nb"}, "Key"},
		"long key":           {outbox.Event{Topic: "t", Key: strings.Repeat("k", 513)}, "Key"},
		"tenant":             {outbox.Event{Topic: "t", Tenant: "a\xffb"}, "Tenant"},
		"header name":        {outbox.Event{Topic: "t", Headers: map[string]string{"a b": "c"}}, "Headers"},
		"empty header name":  {outbox.Event{Topic: "t", Headers: map[string]string{"": "c"}}, "Headers"},
		"reserved header":    {outbox.Event{Topic: "t", Headers: map[string]string{"Outbox-Id": "c"}}, "Headers"},
		"early delivery":     {outbox.Event{Topic: "t", DeliverAt: time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC)}, "DeliverAt"},
		"late delivery":      {outbox.Event{Topic: "t", DeliverAt: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)}, "DeliverAt"},
		"early expiry":       {outbox.Event{Topic: "t", ExpiresAt: time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC)}, "ExpiresAt"},
		"expiry at delivery": {outbox.Event{Topic: "t", DeliverAt: noon, ExpiresAt: noon}, "ExpiresAt"},
		"header value":       {outbox.Event{Topic: "t", Headers: map[string]string{"a": "b\r\nc: d"}}, "Headers[a]"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := prepare(t, c.event)
			var fault *outbox.FieldError
			if !errors.As(err, &fault) {
				t.Fatalf("error %v, want a FieldError", err)
			}
			if fault.Field != c.field {
				t.Errorf("field %s, want %s: %v", fault.Field, c.field, err)
			}
			if len(err.Error()) > 400 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestEmitReportsAllFaultsOfAllEvents(t *testing.T) {
	s := memstore.New(nil)
	ob := outbox.New(s)
	err := ob.InTx(t.Context(), func(tx *memstore.Tx) error {
		return ob.Emit(t.Context(), tx, outbox.Event{Topic: "good"}, outbox.Event{Key: "\x01"}, outbox.Event{Topic: "a b"})
	})
	for _, part := range []string{`event 1: Topic is empty`, `event 1: Key "\x01"`, `event 2: Topic "a b"`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
	if s.Pending() != 0 {
		t.Errorf("%d messages were written", s.Pending())
	}
}

func TestEmitNeedsATransaction(t *testing.T) {
	ob := outbox.New(memstore.New(nil))
	if err := ob.Emit(t.Context(), nil, outbox.Event{Topic: "t"}); !errors.Is(err, outbox.ErrNilTx) {
		t.Errorf("a nil pointer: %v", err)
	}
	var none error // stands for an interface such as pgx.Tx
	if err := outbox.New(interfaceStore{}).Emit(t.Context(), none, outbox.Event{Topic: "t"}); !errors.Is(err, outbox.ErrNilTx) {
		t.Errorf("a nil interface: %v", err)
	}
}

// interfaceStore has a transaction type that is an interface.
type interfaceStore struct{ outbox.Store[error] }

func TestPrepareEncodes(t *testing.T) {
	type user struct {
		Name string `json:"name"`
	}
	for name, c := range map[string]struct {
		event             outbox.Event
		content, contents string
	}{
		"struct":          {outbox.Event{Payload: user{"<Ada>"}}, "application/json", `{"name":"<Ada>"}`},
		"nothing":         {outbox.Event{}, "application/json", `null`},
		"bytes":           {outbox.Event{Payload: []byte{0, 255}}, "application/octet-stream", "\x00\xff"},
		"typed bytes":     {outbox.Event{Payload: []byte("<a/>"), ContentType: "text/xml"}, "text/xml", "<a/>"},
		"raw JSON":        {outbox.Event{Payload: json.RawMessage(`{"a": 1}`)}, "application/json", `{"a": 1}`},
		"JSON suffix":     {outbox.Event{Payload: 1, ContentType: "application/vnd.x+json; v=1"}, "application/vnd.x+json; v=1", "1"},
		"string as bytes": {outbox.Event{Payload: "x", ContentType: "application/octet-stream"}, "application/octet-stream", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			c.event.Topic = "t"
			m, err := prepare(t, c.event)
			if err != nil {
				t.Fatal(err)
			}
			if m.ContentType != c.content || string(m.Payload) != c.contents {
				t.Errorf("%s %q, want %s %q", m.ContentType, m.Payload, c.content, c.contents)
			}
			if id, err := uuid.Parse(m.ID); err != nil || id.Version() != 7 {
				t.Errorf("id %q is no UUIDv7", m.ID)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	if _, err := prepare(t, outbox.Event{Topic: "t", Payload: []byte("12345")}, outbox.WithMaxPayload(4)); err == nil {
		t.Error("a payload above the limit was accepted")
	}
	if _, err := prepare(t, outbox.Event{Topic: "t", Payload: make([]byte, 2<<20)}, outbox.WithMaxPayload(0)); err != nil {
		t.Errorf("without a limit: %v", err)
	}
	m, err := prepare(t, outbox.Event{Topic: "t", Payload: "x"}, outbox.WithDefaultCodec(shout{}))
	if err != nil || m.ContentType != "text/shout" || string(m.Payload) != "x!" {
		t.Errorf("by the default codec: %q %q, %v", m.ContentType, m.Payload, err)
	}
	m, err = prepare(t, outbox.Event{Topic: "t", Payload: "x", ContentType: "text/shout"}, outbox.WithCodecs(shout{}))
	if err != nil || string(m.Payload) != "x!" {
		t.Errorf("by content type: %q, %v", m.Payload, err)
	}
}

// shout is a codec of the user's own.
type shout struct{}

func (shout) ContentType() string { return "text/shout" }

func (shout) Encode(v any) ([]byte, error) { return fmt.Appendf(nil, "%v!", v), nil }

func (shout) Decode(data []byte, v any) error { return outbox.Bytes.Decode(data, v) }

func TestTimesAreKeptInUTC(t *testing.T) {
	local := time.FixedZone("somewhere", 2*3600)
	m, err := prepare(t, outbox.Event{Topic: "t", DeliverAt: noon.In(local), ExpiresAt: noon.Add(1).In(local)})
	if err != nil || !m.DeliverAt.Equal(noon) || m.DeliverAt.Location() != time.UTC || !m.ExpiresAt.Equal(noon.Add(1)) || m.ExpiresAt.Location() != time.UTC {
		t.Errorf("delivered at %v, expires at %v, %v", m.DeliverAt, m.ExpiresAt, err)
	}
	m, err = prepare(t, outbox.Event{Topic: "t"})
	if err != nil || !m.DeliverAt.IsZero() || !m.ExpiresAt.IsZero() {
		t.Errorf("not given: %v and %v, %v", m.DeliverAt, m.ExpiresAt, err)
	}
	if _, err := prepare(t, outbox.Event{Topic: "t", DeliverAt: time.Now().Add(-time.Hour)}); err != nil {
		t.Errorf("a time that has passed: %v", err)
	}
}

// topics returns the topics and routes of what is prepared of events.
func topics(t *testing.T, events []outbox.Event, opts ...outbox.Option) string {
	t.Helper()
	msgs, err := outbox.New(memstore.New(nil), opts...).Prepare(t.Context(), events...)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range msgs {
		all = append(all, strings.TrimSuffix(m.Topic+"@"+m.Route, "@"))
	}
	return strings.Join(all, " ")
}

func TestFilterSaysWhatEntersTheOutbox(t *testing.T) {
	wanted := func(topic string) outbox.Option {
		return outbox.WithFilter(func(e *outbox.Event) bool { return outbox.MatchTopic(topic, e.Topic) })
	}
	events := []outbox.Event{{Topic: "a.x"}, {Topic: "b.x"}, {Topic: "a.y"}}
	for want, opts := range map[string][]outbox.Option{
		"a.x b.x a.y": nil, "a.x a.y": {wanted("a.*")}, "a.x": {wanted("a.*"), wanted("*.x")}, "": {wanted("c")},
	} {
		if got := topics(t, events, opts...); got != want {
			t.Errorf("entered %q, want %q", got, want)
		}
	}
	if _, err := prepare(t, outbox.Event{Topic: "a..b"}, wanted("c")); err == nil {
		t.Error("the fault of an event that is not wanted was not reported")
	}
}

func TestFilterLeavesAloneWhatIsInTheOutbox(t *testing.T) {
	s := memstore.New(nil)
	emit := func(topic string, wanted bool) {
		t.Helper()
		ob := outbox.New(s, outbox.WithFilter(func(*outbox.Event) bool { return wanted }))
		if err := ob.InTx(t.Context(), func(tx *memstore.Tx) error { return ob.Emit(t.Context(), tx, outbox.Event{Topic: topic}) }); err != nil {
			t.Fatal(err)
		}
	}
	emit("a", true)
	emit("b", false)
	if n := s.Pending(); n != 1 {
		t.Errorf("%d pending, want the one from before", n)
	}
}

func TestRoutesMakeACopyForEach(t *testing.T) {
	routes := outbox.WithRoutes(func(m *outbox.Message) []string {
		switch m.Topic {
		case "two":
			return []string{"x", "y", "x"}
		case "plain":
			return []string{"", "x"}
		}
		return nil
	})
	if got, want := topics(t, []outbox.Event{{Topic: "two"}, {Topic: "none"}, {Topic: "plain"}}, routes), "two@x two@y none plain plain@x"; got != want {
		t.Errorf("routed %q, want %q", got, want)
	}
	msgs, err := outbox.New(memstore.New(nil), routes).Prepare(t.Context(), outbox.Event{Topic: "two"})
	if err != nil || msgs[0].ID != msgs[1].ID {
		t.Errorf("the copies' ids differ: %v", err)
	}
}

func TestRoutesWithFaultyNamesAreReported(t *testing.T) {
	for name, ok := range map[string]bool{
		"a-Z_0.9": true, strings.Repeat("r", 64): true, strings.Repeat("r", 65): false, "a b": false, "ä": false, "a/b": false,
	} {
		_, err := prepare(t, outbox.Event{Topic: "t"}, outbox.WithRoutes(func(*outbox.Message) []string { return []string{name} }))
		var fault *outbox.FieldError
		if got := !errors.As(err, &fault); got != ok || !ok && fault.Field != "route" {
			t.Errorf("route %q: %v", name, err)
		}
	}
	if err := outbox.ValidateRoute(""); err == nil {
		t.Error("no name is a name")
	}
}

func TestPublishFuncTurnsAPanicIntoARefusal(t *testing.T) {
	p := outbox.PublishFunc(func(context.Context, *outbox.Message) error { panic("boom") })
	var got error
	p.Publish(t.Context(), &outbox.Message{}, func(err error) { got = err })
	var caught *outbox.PanicError
	if !errors.As(got, &caught) || !errors.Is(got, outbox.ErrRefused) {
		t.Fatalf("error %v, want a PanicError that counts as refused", got)
	}
}

func BenchmarkPrepare(b *testing.B) {
	ob := outbox.New(memstore.New(nil))
	event := outbox.Event{Topic: "order.placed", Key: "k", Payload: make([]byte, 250), Headers: map[string]string{"trace": "x"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ob.Prepare(b.Context(), event); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleOutbox_Emit() {
	s := memstore.New(nil) // in production: pgxstore or sqlstore
	ob := outbox.New(s)
	ctx := context.Background()
	err := ob.InTx(ctx, func(tx *memstore.Tx) error {
		// ... the business data, in the same tx ...
		return ob.Emit(ctx, tx, outbox.Event{
			Topic: "user.created", Key: "123", Payload: map[string]any{"id": 123, "username": "johndoe"},
		})
	})
	fmt.Println(s.Pending(), err)
	// Output: 1 <nil>
}
