package webhook_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook"
)

// FuzzReceiver: whatever is sent, the answer is one of those that are documented, and
// 204 means that as much was handled as was sent.
func FuzzReceiver(f *testing.F) {
	for _, body := range []string{"", event("1", "a.b"), batch(event("1", "a"), event("2", "b")), "[]", `{"specversion":"1.0"`, strings.Repeat("x", 2000)} {
		for _, contentType := range []string{structured, batched, "text/plain", ""} {
			f.Add("POST", contentType, "ce-id", "1", body)
		}
	}
	f.Add("OPTIONS", "", "WebHook-Request-Origin", "a.example", "")
	f.Fuzz(func(t *testing.T, method, contentType, name, value, body string) {
		r, err := webhook.NewReceiver(&webhook.ReceiverConfig{MaxBody: 1024, AllowedOrigins: []string{"*"}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ready, ended := make(chan struct{}), make(chan error)
		handled := 0
		go func() {
			sub := outbox.Subscription{Queue: "q", Topics: []string{"#"}, Prefetch: 1}
			ended <- r.Subscribe(ctx, sub, func() { close(ready) }, func(m *outbox.Received) {
				handled++
				settling(t, ack)(m)
			})
		}()
		<-ready
		req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		req.Method = method
		req.Header.Set("Content-Type", contentType)
		req.Header.Set(name, value)
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		switch w.Code {
		case 204:
			if handled == 0 && method == http.MethodPost && strings.Trim(body, " \t\r\n[]") != "" {
				t.Errorf("%q %q is answered with success, and was not handled", contentType, body)
			}
		case 400, 405, 413, 415:
			if handled > 0 {
				t.Errorf("answer %d, but %d were handled", w.Code, handled)
			}
		default:
			t.Errorf("answer %d", w.Code)
		}
	})
}

// TestEveryFieldComesBack through real HTTP.
func TestEveryFieldComesBack(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC)
	nasty := "\t\"%20\" ü € \U0001F600 \u0085 \uffff \u2028, ; \\ 'x'"
	long := strings.Repeat("€", 500)
	var msgs []outbox.Message
	for _, contentType := range []string{
		"", "application/json", "application/problem+json; charset=utf-8", "text/plain", "text/plain; charset=latin1", "application/octet-stream",
		`multipart/x; a="b c"`, "application/x-protobuf",
	} {
		for _, payload := range []string{"", "null", `{ "a": 1.0 }`, " {}", `"` + nasty + `"`, nasty, "\x00\xff\xfe", "\r\n"} {
			msgs = append(msgs, outbox.Message{ID: uuid.NewString(), Topic: "a.b", ContentType: contentType, Payload: []byte(payload), CreatedAt: at})
		}
	}
	for _, text := range []string{"a", nasty, long, "a.b", " a ", "%", "%41", "\ufffd"} {
		msgs = append(msgs, outbox.Message{
			ID: text, Topic: "a.b", Key: text, Tenant: text, Type: text, Version: text, ContentType: "application/json", Payload: []byte("{}"), CreatedAt: at,
			Headers: map[string]string{
				"X-Upper": text, "lower9": text, "time": text, "outboxtopic": text, "ce-source": text, "ce-subject": text, "ce-dataschema": text, "ce-id": text,
				"traceparent": text, "tracestate": text, "correlation-id": text, "causation-id": text, "correlationid": text, "empty": "", "verylongnameofanextension": text,
			},
		})
	}
	msgs = append(msgs, outbox.Message{ID: uuid.NewString(), Topic: "ä.€.\U0001F600"}, outbox.Message{ID: uuid.NewString(), Topic: strings.Repeat("x", 255)})
	for _, mode := range []webhook.Mode{webhook.Structured, webhook.Binary, webhook.Batched} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			t.Parallel()
			b := newBed(t, nil)
			s := b.subscribe(1, nil)
			p, err := webhook.NewPublisher(b.url, &webhook.PublisherConfig{Mode: mode})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			for i := range msgs {
				answer := make(chan error, 1)
				go func() { answer <- p.Send(context.Background(), &msgs[i]) }()
				select {
				case err := <-answer:
					t.Fatalf("%q: %v", msgs[i], err)
				case m := <-s.got:
					settling(t, ack)(m)
					if uuid.Validate(msgs[i].ID) != nil { // others may send it, too
						_, m.ID, _ = strings.Cut(m.ID, " ")
					}
					wantMessage(t, &m.Message, &msgs[i])
				}
				if err := await(t, "the answer", answer); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func wantMessage(t *testing.T, got, want *outbox.Message) {
	t.Helper()
	type fields struct {
		id, topic, key, tenant, typ, version, contentType, payload string
		createdAt                                                  time.Time
	}
	of := func(m *outbox.Message) fields {
		return fields{m.ID, m.Topic, m.Key, m.Tenant, m.Type, m.Version, m.ContentType, string(m.Payload), m.CreatedAt}
	}
	if of(got) != of(want) || !maps.Equal(got.Headers, want.Headers) {
		t.Errorf("got %+v %q, want %+v %q", of(got), got.Headers, of(want), want.Headers)
	}
}
