package webhook

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// posted is a request that a sink got.
type posted struct {
	*http.Request
	body string
}

// sink is a server that keeps what it gets.
type sink struct {
	*httptest.Server
	answer func(w http.ResponseWriter, r posted)

	mu  sync.Mutex
	got []posted
}

// newSink starts a server that answers by a function, or 202 if it is nil.
func newSink(t *testing.T, answer func(w http.ResponseWriter, r posted)) *sink {
	t.Helper()
	s := &sink{answer: answer}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender has gone
	}
	p := posted{r, string(body)}
	s.mu.Lock()
	s.got = append(s.got, p)
	s.mu.Unlock()
	if s.answer == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	s.answer(w, p)
}

func (s *sink) requests() []posted {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]posted(nil), s.got...)
}

// only returns the one request that there must have been.
func (s *sink) only(t *testing.T) posted {
	t.Helper()
	got := s.requests()
	if len(got) != 1 {
		t.Fatalf("the server got %d requests, want 1", len(got))
	}
	return got[0]
}

func open(t *testing.T, address string, config *PublisherConfig) *Publisher {
	t.Helper()
	p, err := NewPublisher(address, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return p
}

func message(id, key string) *outbox.Message {
	return &outbox.Message{
		ID: id, Topic: "user.created", Key: key, ContentType: outbox.ContentTypeJSON, Payload: []byte(`{"id":"` + id + `"}`),
		CreatedAt: time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

func messages(n int) []*outbox.Message {
	list := make([]*outbox.Message, n)
	for i := range list {
		list[i] = message(strconv.Itoa(i), "")
	}
	return list
}

// reply is the answer to one message.
type reply struct {
	t     *testing.T
	given chan error
}

func publish(t *testing.T, p *Publisher, m *outbox.Message) *reply {
	t.Helper()
	return publishWith(context.Background(), t, p, m)
}

func publishWith(ctx context.Context, t *testing.T, p *Publisher, m *outbox.Message) *reply {
	t.Helper()
	r := &reply{t: t, given: make(chan error, 2)}
	p.Publish(ctx, m, func(err error) { r.given <- err })
	return r
}

func (r *reply) wait() error {
	r.t.Helper()
	select {
	case err := <-r.given:
		return err
	case <-time.After(patience):
		r.t.Fatal("a message is not answered")
	}
	return nil
}

// want reports an answer that is not of class, nil for success.
func (r *reply) want(class error) {
	r.t.Helper()
	wantClass(r.t, r.wait(), class)
}

func wantClass(t *testing.T, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("the answer is %v, want %v", err, class)
	}
	for _, other := range []error{outbox.ErrUnavailable, outbox.ErrRefused, outbox.ErrInvalid} {
		if !errors.Is(class, other) && errors.Is(err, other) {
			t.Errorf("the answer %v is also %v", err, other)
		}
	}
}

// receive waits for a value of a channel.
func receive[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s has not happened", what)
	}
	panic("unreachable")
}

// newTLSSink serves s by HTTP/2 and TLS, with a certificate that its own client
// trusts.
func newTLSSink(t *testing.T, s *sink) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(s)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}
