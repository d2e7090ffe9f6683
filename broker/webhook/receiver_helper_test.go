package webhook_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// bed is a receiver behind a server.
type bed struct {
	*webhook.Receiver
	t   *testing.T
	url string
}

func newBed(t *testing.T, config *webhook.ReceiverConfig) *bed {
	t.Helper()
	r, err := webhook.NewReceiver(config)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r)
	t.Cleanup(func() {
		_ = r.Close()
		server.Close()
	})
	return &bed{r, t, server.URL}
}

// subscribing is a run of Subscribe.
type subscribing struct {
	t      *testing.T
	got    chan *outbox.Received
	cancel context.CancelFunc
	ended  chan error
}

// subscribe starts a subscription and returns when it is ready. receive may be nil:
// then what comes is in got.
func (b *bed) subscribe(prefetch int, receive func(*outbox.Received), topics ...string) *subscribing {
	b.t.Helper()
	if len(topics) == 0 {
		topics = []string{"#"}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &subscribing{t: b.t, got: make(chan *outbox.Received, 1000), cancel: cancel, ended: make(chan error, 1)}
	if receive == nil {
		receive = func(m *outbox.Received) { s.got <- m }
	}
	ready := make(chan struct{})
	sub := outbox.Subscription{Queue: "q", Topics: topics, Prefetch: prefetch}
	go func() { s.ended <- b.Subscribe(ctx, sub, sync.OnceFunc(func() { close(ready) }), receive) }()
	b.t.Cleanup(cancel)
	select {
	case <-ready:
	case err := <-s.ended:
		b.t.Fatalf("the subscription has ended: %v", err)
	}
	return s
}

func (s *subscribing) next() *outbox.Received {
	s.t.Helper()
	return await(s.t, "a message", s.got)
}

// stop ends the subscription, which must succeed.
func (s *subscribing) stop() {
	s.t.Helper()
	s.cancel()
	if err := await(s.t, "the end of Subscribe", s.ended); err != nil {
		s.t.Fatal(err)
	}
}

func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v for %s in vain", patience, what)
		panic("unreachable")
	}
}

// settling returns a receive that settles everything in one way.
func settling(t *testing.T, s outbox.Settlement) func(*outbox.Received) {
	return func(m *outbox.Received) {
		if err := m.Settle(s); err != nil {
			t.Error(err)
		}
	}
}

var (
	ack     = outbox.Settlement{Outcome: outbox.Ack}
	failure = &outbox.Failure{Attempts: 1, Reason: "a secret of the application's"}
)

// response is an answer that has been read.
type response struct {
	status  int
	header  http.Header
	body    string
	failure error
}

// event is one of another system's, in structured mode.
func event(id, typ string) string {
	return `{"specversion":"1.0","id":"` + id + `","source":"/shop","type":"` + typ + `","data":{}}`
}

func batch(events ...string) string { return "[" + strings.Join(events, ",") + "]" }

const (
	structured = "application/cloudevents+json"
	batched    = "application/cloudevents-batch+json"
)

func (b *bed) request(ctx context.Context, method, contentType, body string) *http.Request {
	b.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, b.url, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return req
}

func do(req *http.Request) response {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return response{failure: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return response{resp.StatusCode, resp.Header, string(bytes.TrimSpace(body)), err}
}

// post sends a body and returns the answer.
func (b *bed) post(contentType, body string) response {
	b.t.Helper()
	r := do(b.request(b.t.Context(), http.MethodPost, contentType, body))
	if r.failure != nil {
		b.t.Fatal(r.failure)
	}
	return r
}

// posting is post in the background.
func (b *bed) posting(contentType, body string) <-chan response {
	answer := make(chan response, 1)
	req := b.request(context.Background(), http.MethodPost, contentType, body)
	go func() { answer <- do(req) }()
	return answer
}

// wantUnavailable fails the test unless the answer is that nothing can be handled
// now.
func wantUnavailable(t *testing.T, r response) {
	t.Helper()
	if r.status != 503 || r.header.Get("Retry-After") != "1" || r.header.Get("Outbox-Outcome") != "" {
		t.Errorf("answer %d, Retry-After %q, Outbox-Outcome %q, %v, want 503, 1 and none",
			r.status, r.header.Get("Retry-After"), r.header.Get("Outbox-Outcome"), r.failure)
	}
}

// wantAttempted fails the test unless the answer is that an attempt failed.
func wantAttempted(t *testing.T, r response) {
	t.Helper()
	if r.status != 503 || r.header.Get("Retry-After") != "1" || r.header.Get("Outbox-Outcome") != "retry" {
		t.Errorf("answer %d, Retry-After %q, Outbox-Outcome %q, %v, want 503, 1 and retry",
			r.status, r.header.Get("Retry-After"), r.header.Get("Outbox-Outcome"), r.failure)
	}
}

func wantStatus(t *testing.T, r response, status int) {
	t.Helper()
	if r.status != status {
		t.Errorf("answer %d %q, %v, want %d", r.status, r.body, r.failure, status)
	}
}
