package webhook_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook"
)

func TestReceiverAnswersWhatTheSettlementSays(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		settlement                 outbox.Settlement
		status                     int
		retryAfter, outcome, words string
	}{
		"ack":           {ack, 204, "", "", ""},
		"retry":         {outbox.Settlement{Outcome: outbox.Retry, Delay: 1001 * time.Millisecond, Failure: failure}, 503, "2", "retry", "attempt"},
		"retry at once": {outbox.Settlement{Outcome: outbox.Retry, Failure: failure}, 503, "0", "retry", "attempt"},
		"requeue":       {outbox.Settlement{Outcome: outbox.Requeue}, 503, "1", "", "now"},
		"dead letter":   {outbox.Settlement{Outcome: outbox.DeadLetter, Failure: failure}, 400, "", "", "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, nil)
			b.subscribe(1, settling(t, test.settlement))
			for range 3 { // and the slot is given back
				r := b.post(structured, event("1", "a.b"))
				wantStatus(t, r, test.status)
				if r.header.Get("Retry-After") != test.retryAfter || r.header.Get("Outbox-Outcome") != test.outcome {
					t.Errorf("Retry-After %q, Outbox-Outcome %q, want %q and %q", r.header.Get("Retry-After"), r.header.Get("Outbox-Outcome"), test.retryAfter, test.outcome)
				}
				if !strings.Contains(r.body, test.words) || strings.Contains(r.body, "secret") {
					t.Errorf("body %q, want %q, and nothing of the failure", r.body, test.words)
				}
			}
		})
	}
}

func TestReceiverWaitsForTheSettlement(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	s := b.subscribe(1, nil)
	answer := b.posting(structured, event("1", "a.b"))
	m := s.next()
	if m.ID != "/shop 1" || m.Topic != "a.b" || m.Type != "a.b" || m.Failure != nil || m.ReceivedAt.IsZero() || string(m.Payload) != "{}" {
		t.Errorf("%+v", m)
	}
	select {
	case r := <-answer:
		t.Errorf("answer %d before the settlement", r.status)
	default:
	}
	if err := m.Settle(ack); err != nil {
		t.Error(err)
	}
	wantStatus(t, await(t, "the answer", answer), 204)
}

// TestReceiverAnswersABatchWithItsWorst: all are handled, whatever the others do.
func TestReceiverAnswersABatchWithItsWorst(t *testing.T) {
	t.Parallel()
	settlements := map[string]outbox.Settlement{
		"ok":      ack,
		"dead":    {Outcome: outbox.DeadLetter, Failure: failure},
		"retry":   {Outcome: outbox.Retry, Delay: 3 * time.Second, Failure: failure},
		"later":   {Outcome: outbox.Retry, Delay: 9 * time.Second, Failure: failure},
		"requeue": {Outcome: outbox.Requeue},
	}
	for _, test := range []struct {
		topics, retryAfter, outcome string
		status                      int
	}{
		{"ok ok ok", "", "", 204},
		{"dead ok", "", "", 400},
		{"ok other", "", "", 400},
		{"ok #", "", "", 400},
		{"retry dead later ok", "9", "retry", 503},
		{"later ok retry", "9", "retry", 503},
		{"other retry", "3", "retry", 503},
		{"retry requeue dead", "1", "", 503},
		{"", "", "", 204},
	} {
		t.Run(test.topics, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, nil)
			handled := make(chan string, 10)
			b.subscribe(1, func(m *outbox.Received) {
				handled <- m.Topic
				settling(t, settlements[m.Topic])(m)
			}, "ok", "dead", "retry", "later", "requeue")
			var events []string
			wanted := 0
			for _, topic := range strings.Fields(test.topics) {
				events = append(events, event("1", topic))
				if _, ok := settlements[topic]; ok {
					wanted++
				}
			}
			r := b.post(batched, batch(events...))
			wantStatus(t, r, test.status)
			if r.header.Get("Retry-After") != test.retryAfter || r.header.Get("Outbox-Outcome") != test.outcome {
				t.Errorf("Retry-After %q, Outbox-Outcome %q, want %q and %q", r.header.Get("Retry-After"), r.header.Get("Outbox-Outcome"), test.retryAfter, test.outcome)
			}
			if len(handled) != wanted {
				t.Errorf("%d handled, want %d", len(handled), wanted)
			}
		})
	}
}

// TestReceiverNamesWhatIsNotHandled: the sender's topic, or another system's type, of
// which the sender chooses the length.
func TestReceiverNamesWhatIsNotHandled(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	b := newBed(t, &webhook.ReceiverConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	b.subscribe(1, settling(t, ack), "a.*")
	own := strings.Replace(event("1", "T"), "{", `{"outboxtopic":"user.created",`, 1)
	for body, want := range map[string]string{
		own:                   `the topic "user.created"`,
		event("1", "b"):       `the type "b"`,
		event("1", long("b")): `the type "` + strings.Repeat("b", 64) + `"`,
	} {
		log.Reset()
		r := b.post(structured, body)
		wantStatus(t, r, 400)
		if !strings.Contains(r.body, want+" ") || log.Len() > 1000 {
			t.Errorf("body %.200q, a log of %d bytes, want %s", r.body, log.Len(), want)
		}
	}
}

func long(s string) string { return strings.Repeat(s, 100_000) }

func TestReceiverRefusesABatchWithWhatIsNoEvent(t *testing.T) {
	t.Parallel()
	b := newBed(t, &webhook.ReceiverConfig{MaxBatch: 2})
	s := b.subscribe(10, nil)
	wantStatus(t, b.post(batched, batch(event("1", "a"), `{}`)), 400)
	wantStatus(t, b.post(batched, batch(event("1", "a"), event("2", "a"), event("3", "a"))), 413)
	if len(s.got) != 0 {
		t.Errorf("%d handled", len(s.got))
	}
}

func TestReceiverRefusesRequests(t *testing.T) {
	t.Parallel()
	const most = 2048
	b := newBed(t, &webhook.ReceiverConfig{MaxBody: most})
	s := b.subscribe(10, nil, "a.*")
	large := event("1", "a."+strings.Repeat("b", most))
	fits := event("1", "a.b")
	fits = strings.Replace(fits, "{}", strings.Repeat(" ", most-len(fits))+"{}", 1)
	for name, test := range map[string]struct {
		method, contentType, body string
		change                    func(*http.Request)
		status                    int
		words                     string
	}{
		"get":            {http.MethodGet, "", "", nil, 405, "POST"},
		"put":            {http.MethodPut, structured, event("1", "a.b"), nil, 405, "POST"},
		"no event":       {http.MethodPost, "application/json", "{}", nil, 400, "no CloudEvent"},
		"no JSON":        {http.MethodPost, structured, "{", nil, 400, "JSON"},
		"no id":          {http.MethodPost, structured, strings.Replace(event("1", "a.b"), "id", "no", 1), nil, 400, "id"},
		"other topic":    {http.MethodPost, structured, event("1", "b.a"), nil, 400, `"b.a"`},
		"no topic":       {http.MethodPost, structured, event("1", "a b"), nil, 400, `"a b"`},
		"avro":           {http.MethodPost, "application/cloudevents+avro", "x", nil, 415, "json"},
		"charset":        {http.MethodPost, structured + "; charset=latin1", event("1", "a.b"), nil, 415, "charset"},
		"gzip":           {http.MethodPost, structured, event("1", "a.b"), func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, 415, "coding"},
		"large":          {http.MethodPost, structured, large, nil, 413, "2048"},
		"large, chunked": {http.MethodPost, structured, large, func(r *http.Request) { r.ContentLength = -1 }, 413, "2048"},
		"endless": {http.MethodPost, structured, "", func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(endless{}), -1
		}, 413, "2048"},
		"a byte too much": {http.MethodPost, structured, fits + " ", nil, 413, "2048"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := b.request(t.Context(), test.method, test.contentType, test.body)
			if test.change != nil {
				test.change(req)
			}
			r := do(req)
			wantStatus(t, r, test.status)
			if !strings.Contains(r.body, test.words) {
				t.Errorf("body %q, want %q", r.body, test.words)
			}
			if allow := r.header.Get("Allow"); r.status == 405 && allow != "POST, OPTIONS" {
				t.Errorf("Allow: %q", allow)
			}
		})
	}
	t.Run("fits", func(t *testing.T) {
		t.Parallel()
		answer := b.posting(structured, fits)
		settling(t, ack)(s.next())
		wantStatus(t, await(t, "the answer", answer), 204)
	})
}

// TestSlowBody: that it was slow does not tell that it is wrong.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	b.subscribe(1, settling(t, ack))
	server := httptest.NewUnstartedServer(b.Receiver)
	server.Config.ReadTimeout = 50 * time.Millisecond
	server.Start()
	defer server.Close()
	body, rest := io.Pipe() // nothing comes
	defer rest.Close()
	req := b.request(t.Context(), http.MethodPost, structured, "")
	req.URL.Host, req.Body, req.ContentLength = server.Listener.Addr().String(), body, 100
	wantStatus(t, do(req), 408)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// TestReceiverHandshake: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md#4-abuse-protection
func TestReceiverHandshake(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		allowed      []string
		origin, want string
	}{
		{nil, "a.example", ""},
		{[]string{"a.example"}, "", ""},
		{[]string{"a.example"}, "b.example", ""},
		{[]string{"b.example", "a.example"}, "A.example", "a.example"},
		{[]string{"*"}, "b.example", "*"},
	} {
		b := newBed(t, &webhook.ReceiverConfig{AllowedOrigins: test.allowed})
		req := b.request(t.Context(), http.MethodOptions, "", "")
		if test.origin != "" {
			req.Header.Set("WebHook-Request-Origin", test.origin)
			req.Header.Set("WebHook-Request-Rate", "120")
		}
		r := do(req)
		wantStatus(t, r, 204)
		rate := map[bool]string{true: "*"}[test.want != ""]
		if r.header.Get("WebHook-Allowed-Origin") != test.want || r.header.Get("WebHook-Allowed-Rate") != rate || r.header.Get("Allow") != "POST, OPTIONS" {
			t.Errorf("%v, %q: %v", test.allowed, test.origin, r.header)
		}
	}
}

func TestReceiverMapsTopics(t *testing.T) {
	t.Parallel()
	b := newBed(t, &webhook.ReceiverConfig{Topic: func(m *outbox.Message) string {
		if m.Type == "nothing" {
			return ""
		}
		return "mapped." + m.Headers["ce-subject"]
	}})
	s := b.subscribe(1, nil, "mapped.*")
	answer := b.posting(structured, strings.Replace(event("1", "Order Placed!"), `"data"`, `"subject":"order","data"`, 1))
	m := s.next()
	if m.Topic != "mapped.order" || m.Type != "Order Placed!" {
		t.Errorf("topic %q, type %q", m.Topic, m.Type)
	}
	settling(t, ack)(m)
	wantStatus(t, await(t, "the answer", answer), 204)
	wantStatus(t, b.post(structured, event("1", "nothing")), 400)
}

// TestPanicIsAnError: the connection lives, and the sender knows that it is this
// request.
func TestPanicIsAnError(t *testing.T) {
	t.Parallel()
	topic := func(*outbox.Message) string { panic("a secret") }
	authorize := func(*http.Request, []byte) error { panic("a secret") }
	for _, config := range []webhook.ReceiverConfig{{Topic: topic}, {Authorize: authorize}} {
		b := newBed(t, &config)
		b.subscribe(1, settling(t, ack))
		r := b.post(structured, event("1", "a"))
		wantStatus(t, r, 500)
		if strings.Contains(r.body, "secret") {
			t.Errorf("body %q", r.body)
		}
	}
}

func TestNewReceiverReportsAllFaults(t *testing.T) {
	t.Parallel()
	_, err := webhook.NewReceiver(&webhook.ReceiverConfig{
		MaxBody: 1, MaxBatch: -1, MaxWaiting: -1, Timeout: -1, Secrets: []string{"swordfish"}, AllowedOrigins: []string{"*", "a b"},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, field := range []string{"MaxBody is 1", "MaxBatch is -1", "MaxWaiting is -1", "Timeout is -1ns", "Secrets[0]", `AllowedOrigins[1] is "a b"`} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%v: says nothing of %s", err, field)
		}
	}
	if strings.Contains(err.Error(), "swordfish") {
		t.Error("the secret is shown")
	}
	for _, config := range []webhook.ReceiverConfig{{MaxBody: 64<<20 + 1}, {MaxBatch: 10001}, {MaxWaiting: 100001}, {Timeout: time.Microsecond}} {
		if _, err := webhook.NewReceiver(&config); err == nil {
			t.Errorf("%+v: no error", config)
		}
	}
}

// TestRefusalReachesThePublisher: what the receiver means is what the publisher
// understands.
func TestRefusalReachesThePublisher(t *testing.T) {
	t.Parallel()
	settlements := map[string]outbox.Settlement{
		"ok":      ack,
		"retry":   {Outcome: outbox.Retry, Delay: 7 * time.Second, Failure: failure},
		"requeue": {Outcome: outbox.Requeue},
		"dead":    {Outcome: outbox.DeadLetter, Failure: failure},
	}
	for _, test := range []struct {
		topic string
		class error
		delay time.Duration
	}{
		{"ok", nil, 0},
		{"retry", outbox.ErrRefused, 7 * time.Second},
		{"requeue", outbox.ErrUnavailable, time.Second},
		{"dead", outbox.ErrRefused, 0},
		{"other", outbox.ErrRefused, 0},
	} {
		for _, mode := range []webhook.Mode{webhook.Structured, webhook.Binary, webhook.Batched} {
			t.Run(fmt.Sprint(test.topic, mode), func(t *testing.T) {
				t.Parallel()
				b := newBed(t, nil)
				b.subscribe(1, func(m *outbox.Received) { settling(t, settlements[m.Topic])(m) }, "ok", "retry", "requeue", "dead")
				p, err := webhook.NewPublisher(b.url, &webhook.PublisherConfig{Mode: mode})
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				err = p.Send(context.Background(), &outbox.Message{ID: "1", Topic: test.topic})
				if !errors.Is(err, test.class) || outbox.DelayOf(err) != test.delay {
					t.Errorf("%v after %v, want %v after %v", err, outbox.DelayOf(err), test.class, test.delay)
				}
			})
		}
	}
}
