package stomp

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

// frameOf returns a MESSAGE frame with those headers, given as names and values.
func frameOf(pairs ...string) *stomp.Frame {
	f := &stomp.Frame{Command: stomp.Message}
	for i := 0; i < len(pairs); i += 2 {
		f.Add(pairs[i], pairs[i+1])
	}
	return f
}

func TestForeignMessagesAreUnderstood(t *testing.T) {
	t.Parallel()
	const delivery = "T_main@@session-x@@1"
	for name, c := range map[string]struct {
		frame *stomp.Frame
		want  outbox.Message
	}{
		"django-outbox-pattern": {
			frameOf("destination", "/topic/user.created.v1", "message-id", delivery, "dop-msg-id", "d", "dop-msg-type", "Published",
				"dop-msg-sent-time", "2026-11-21T23:06:47.375Z", "dop-correlation-id", "c"),
			outbox.Message{
				ID: "d", Topic: "user.created.v1", Type: "Published", CreatedAt: time.Date(2026, 11, 21, 23, 6, 47, 375e6, time.UTC),
				Headers: map[string]string{"correlation-id": "c"},
			},
		},
		"CAP":           {frameOf("destination", "/exchange/cap/a.b", "message-id", delivery, "cap-msg-id", "c", "dop-msg-id", "d"), outbox.Message{ID: "c", Topic: "a.b"}},
		"AMQP":          {frameOf("destination", "/topic/a", "message-id", delivery, "amqp-message-id", "m", "type", "t", "timestamp", "7"), outbox.Message{ID: "m", Topic: "a", Type: "t", CreatedAt: time.Unix(7, 0).UTC()}},
		"other broker":  {frameOf("destination", "/topic/a", "message-id", "ID:host-1:2"), outbox.Message{ID: "ID:host-1:2", Topic: "a"}},
		"without an id": {frameOf("destination", "/topic/a", "message-id", delivery), outbox.Message{Topic: "a"}},
		"escaped topic": {frameOf("destination", "/topic/gr%C3%B6%C3%9Fe%25.a%2Fb"), outbox.Message{Topic: "größe%.a/b"}},
		"dead letter": {
			frameOf("destination", "/queue/DLQ.q", "dop-msg-destination", "/topic/a.b", "x-first-death-queue", "q", "x-first-death-reason", "rejected"),
			outbox.Message{Topic: "a.b"},
		},
		"repeated headers": {frameOf("destination", "/topic/a", "x", "1", "x", "2"), outbox.Message{Topic: "a", Headers: map[string]string{"x": "1"}}},
		"of another death": {
			frameOf("destination", "/topic/a", "x-first-death-queue", "theirs"),
			outbox.Message{Topic: "a", Headers: map[string]string{"x-first-death-queue": "theirs"}},
		},
	} {
		got := decode(c.frame, "q")
		maps.DeleteFunc(got.Headers, func(name, _ string) bool { return isDOP(name) || name == capID })
		if len(got.Headers) == 0 {
			got.Headers = nil
		}
		if got.ID != c.want.ID || got.Topic != c.want.Topic || got.Type != c.want.Type || !got.CreatedAt.Equal(c.want.CreatedAt) || !maps.Equal(got.Headers, c.want.Headers) {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

func TestDOPHeaders(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, 2, 29, 23, 59, 59, 123456789, time.UTC)
	full := outbox.Message{
		ID: "m", Topic: "user.created", Type: "user.Created", CreatedAt: at,
		Headers: map[string]string{outbox.HeaderCorrelationID: "c", "x-own": "kept", dopID: "fake", dopDestination: "fake", dopType: "fake", dopSentTime: "fake", dopCorrelationID: "fake"},
	}
	for name, c := range map[string]struct {
		m    outbox.Message
		want map[string]string
	}{
		"all": {full, map[string]string{
			dopID: "m", dopDestination: "/topic/user.created", dopType: "user.Created", dopSentTime: "2024-02-29T23:59:59.123Z", dopCorrelationID: "c", "x-own": "kept",
		}},
		"none of its own": {outbox.Message{ID: "m", Topic: "a", CreatedAt: at.Truncate(time.Second)}, map[string]string{
			dopID: "m", dopDestination: "/topic/a", dopType: "Published", dopSentTime: "2024-02-29T23:59:59Z", dopCorrelationID: "m",
		}},
		"the user's chain": {outbox.Message{ID: "m", Topic: "a", Headers: map[string]string{dopCorrelationID: "theirs"}}, map[string]string{dopCorrelationID: "theirs", dopSentTime: ""}},
	} {
		var f stomp.Frame
		e := encoder{template: newTemplate(DefaultDestination), dop: true}
		e.encode(&f, &c.m, 1)
		for header, want := range c.want {
			if got, _ := f.Get(header); got != want {
				t.Errorf("%s: %s is %q, want %q", name, header, got, want)
			}
		}
		seen := map[string]bool{}
		for _, h := range f.Headers {
			if seen[h.Name] {
				t.Errorf("%s: header %s is there twice", name, h.Name)
			}
			seen[h.Name] = true
		}
	}
}

func TestDestinations(t *testing.T) {
	t.Parallel()
	own := map[string]string{HeaderDestination: "/queue/mine"}
	for _, c := range []struct {
		destination, topic string
		headers            map[string]string
		want               string
	}{
		{DefaultDestination, "a.b", nil, "/topic/a.b"},
		{DefaultDestination, "a/b", nil, "/topic/a%2Fb"},
		{"/exchange/orders/{topic}", "a", nil, "/exchange/orders/a"},
		{"/topic/{topic}.v1", "a", nil, "/topic/a.v1"},
		{"/queue/all", "a", nil, "/queue/all"},
		{"/queue/all", "a", own, "/queue/mine"},
	} {
		e := encoder{template: newTemplate(c.destination)}
		var f stomp.Frame
		e.encode(&f, &outbox.Message{Topic: c.topic, Headers: c.headers}, 1)
		if got, _ := f.Get(headerDestination); got != c.want {
			t.Errorf("%s for topic %s is %q, want %q", c.destination, c.topic, got, c.want)
		}
		if _, sent := f.Get(HeaderDestination); sent {
			t.Errorf("%s is sent", HeaderDestination)
		}
	}
}

func TestExchangeOfADestination(t *testing.T) {
	t.Parallel()
	for destination, want := range map[string]string{
		DefaultDestination: "amq.topic", "/exchange/a%2Fb/{topic}": "a/b", "/queue/{topic}": "", "/exchange/orders": "orders",
	} {
		tmpl := newTemplate(destination)
		if got := tmpl.exchange(); got != want {
			t.Errorf("the exchange of %s is %q, want %q", destination, got, want)
		}
	}
}

func TestMessagesThatCannotBeSent(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 256)
	many := map[string]string{}
	for i := range maxHeaders + 1 {
		many[fmt.Sprint("x", i)] = ""
	}
	for name, m := range map[string]outbox.Message{
		"topic": {Topic: long}, "content type": {ContentType: long}, "header name": {Headers: map[string]string{long: ""}},
		"headers": {Headers: many}, "properties": {Headers: map[string]string{"x": strings.Repeat("x", maxHeaderBytes)}},
		"%2F":     {Topic: "a%2Fb"},
		"no name": {Headers: map[string]string{"": ""}}, "header": {Headers: map[string]string{"x-max-" + long[:240]: ""}},
	} {
		if got := fault(&m); !strings.Contains(got, strings.Fields(name)[0]) && !strings.Contains(got, name) {
			t.Errorf("%s: got fault %q", name, got)
		}
	}
	if got := fault(&outbox.Message{ID: long, Type: long, Headers: map[string]string{outbox.HeaderCorrelationID: long}}); got != "" {
		t.Errorf("what has another header is refused: %s", got)
	}
}

func TestWindowTakesReceiptsInAnyOrder(t *testing.T) {
	t.Parallel()
	w := newWindow()
	done := func(error) {}
	for i := range uint64(maxUnanswered) {
		if got := w.add(&outbox.Message{}, done); got != i+1 {
			t.Fatalf("receipt %d is %d", i+1, got)
		}
	}
	if !w.full() {
		t.Error("the window is not full")
	}
	for _, c := range []struct {
		number uint64
		ok     bool
	}{{3, true}, {3, false}, {0, false}, {maxUnanswered + 1, false}, {2, true}} {
		if _, ok := w.take(c.number); ok != c.ok {
			t.Errorf("take(%d) is %v", c.number, ok)
		}
	}
	if !w.full() {
		t.Error("there is room though the oldest is not answered")
	}
	w.take(1)
	if w.full() || w.head != 4 || w.len() != maxUnanswered-3 {
		t.Errorf("head is %d, %d are unanswered", w.head, w.len())
	}
	if n := len(w.drain()); n != maxUnanswered-3 || w.len() != 0 {
		t.Errorf("drain returned %d", n)
	}
}

func TestWhoIsBlamed(t *testing.T) {
	t.Parallel()
	const toExchange, toQueue = "/exchange/orders/{topic}", "/queue/orders"
	for _, c := range []struct {
		destination, message, body string
		own, want                  bool
	}{
		{toExchange, "Unknown destination", "'/x' is not a valid destination", true, true},
		{toExchange, "Unknown destination", "'/x' is not a valid destination", false, false},
		{toExchange, "precondition_failed", "PRECONDITION_FAILED - message size 2 is larger than configured max size 1", false, true},
		{toExchange, "not_found", "NOT_FOUND - no exchange 'orders' in vhost '/'", false, false},
		{toExchange, "not_found", "NOT_FOUND - no exchange 'other' in vhost '/'", true, true},
		{toExchange, "access_refused", "ACCESS_REFUSED - access to exchange 'orders' in vhost '/' refused for user 'u'", false, false},
		{toExchange, "access_refused", "ACCESS_REFUSED - access to topic 'a' in exchange 'orders' in vhost '/' refused for user 'u'", false, true},
		{toExchange, "connection_forced", "CONNECTION_FORCED - broker forced connection closure", true, false},
		{toQueue, "precondition_failed", "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'orders' in vhost '/'", false, false},
		{toQueue, "precondition_failed", "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'mine' in vhost '/'", true, true},
		{toQueue, "access_refused", "ACCESS_REFUSED - access to queue 'orders' in vhost '/' refused for user 'u'", false, false},
		{"/queue/{topic}", "access_refused", "ACCESS_REFUSED - access to queue 'orders' in vhost '/' refused for user 'u'", false, true},
	} {
		tmpl := newTemplate(c.destination)
		if got := blames(&stomp.ServerError{Message: c.message, Body: c.body}, tmpl.named(), c.own); got != c.want {
			t.Errorf("%s: %s: %s: blamed is %v", c.destination, c.message, c.body, got)
		}
	}
}
