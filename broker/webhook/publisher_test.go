package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
)

func TestPublishStructured(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	p := open(t, s.URL+"/in?x=1", &PublisherConfig{Source: "/shop", Headers: http.Header{"authorization": {"Bearer secret"}}})
	publish(t, p, message("1", "k")).want(nil)
	r := s.only(t)
	const want = `{"specversion":"1.0","id":"1","source":"/shop","type":"user.created","time":"2024-01-02T03:04:05Z","partitionkey":"k",` +
		`"outboxtopic":"user.created","datacontenttype":"application/json","data":{"id":"1"}}`
	if r.body != want {
		t.Errorf("got  %s\nwant %s", r.body, want)
	}
	if r.Method != http.MethodPost || r.RequestURI != "/in?x=1" || r.Header.Get("Content-Type") != "application/cloudevents+json" ||
		r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("Webhook-Signature") != "" {
		t.Errorf("got %s %s with %v", r.Method, r.RequestURI, r.Header)
	}
}

func TestPublishBinary(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	p := open(t, s.URL, &PublisherConfig{Mode: Binary})
	m := message("1", `50% "ü"`)
	m.ContentType, m.Payload = "image/png", []byte{0, 1, 255}
	publish(t, p, m).want(nil)
	r := s.only(t)
	if r.body != "\x00\x01\xff" || r.Header.Get("Content-Type") != "image/png" ||
		r.Header.Get("Ce-Id") != "1" || r.Header.Get("Ce-Partitionkey") != "50%25%20%22%C3%BC%22" || r.Header.Get("Ce-Source") != "/outbox" {
		t.Errorf("got %q with %v", r.body, r.Header)
	}
}

// A server of HTTP/2 that does not take so many headers looks like an outage.
func TestTooManyBytesOfHeadersAreTheMessagesFault(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	for size, want := range map[int]error{250 << 10: nil, 256 << 10: outbox.ErrInvalid} {
		m := message("1", "")
		m.Headers = map[string]string{"a": strings.Repeat("x", size/2), "b": strings.Repeat("%", size/6)}
		for _, mode := range []Mode{Structured, Binary} {
			if mode == Structured {
				publish(t, open(t, s.URL, &PublisherConfig{Mode: mode}), m).want(nil)
				continue
			}
			publish(t, open(t, s.URL, &PublisherConfig{Mode: mode}), m).want(want)
		}
	}
}

// The tenant is part of what an order is kept of: the same key of another one does not
// wait.
func TestAKeyOfAnotherTenantDoesNotWait(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s := newSink(t, func(_ http.ResponseWriter, r posted) {
		if strings.Contains(r.body, `"acme"`) {
			<-release
		}
	})
	p := open(t, s.URL, nil)
	held, other := message("1", "k"), message("2", "k")
	held.Tenant, other.Tenant = "acme", "emca"
	first := publish(t, p, held)
	publish(t, p, other).want(nil)
	close(release)
	first.want(nil)
}

func TestAnEventIsPostedAsItIsInBinaryMode(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	p := open(t, s.URL, &PublisherConfig{Mode: Binary})
	m := message("1", "")
	m.ContentType, m.Payload = "application/cloudevents+json", []byte(`{"id":"9","specversion":"1.0","source":"/x","type":"y"}`)
	publish(t, p, m).want(nil)
	if r := s.only(t); r.body != string(m.Payload) || r.Header.Get("Content-Type") != "application/cloudevents+json" || r.Header.Get("Ce-Id") != "" {
		t.Errorf("got %q with %v", r.body, r.Header)
	}
}

func TestAMessageThatIsNoEventIsInvalid(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	for _, mode := range []Mode{Structured, Binary, Batched} {
		p := open(t, s.URL, &PublisherConfig{Mode: mode})
		publish(t, p, message("", "")).want(outbox.ErrInvalid)
		wantClass(t, p.Send(context.Background(), message("", "")), outbox.ErrInvalid)
	}
	if got := s.requests(); len(got) != 0 {
		t.Errorf("the server got %d requests, want none", len(got))
	}
}

// Of a key one message is on its way at a time, in the order of the calls.
func TestMessagesOfAKeyLeaveInOrder(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Structured, Batched} {
		t.Run(strconv.Itoa(int(mode)), func(t *testing.T) {
			t.Parallel()
			const keys, each = 5, 40
			var busy [keys]atomic.Int32
			var mu sync.Mutex
			order := map[string][]string{}
			s := newSink(t, func(_ http.ResponseWriter, r posted) {
				events := events(t, r.body)
				for key := range keysOf(events) {
					if n, _ := strconv.Atoi(key); busy[n].Add(1) > 1 {
						t.Errorf("two messages of key %s are on their way", key)
					}
				}
				mu.Lock()
				for _, e := range events {
					order[e.PartitionKey] = append(order[e.PartitionKey], e.ID)
				}
				mu.Unlock()
				runtime.Gosched()
				for key := range keysOf(events) {
					n, _ := strconv.Atoi(key)
					busy[n].Add(-1)
				}
			})
			p := open(t, s.URL, &PublisherConfig{Mode: mode, Concurrency: 8, BatchSize: 3})
			var replies []*reply
			want := map[string][]string{}
			for i := range keys * each {
				m := message(fmt.Sprintf("%03d", i), strconv.Itoa(i*i%keys))
				want[m.Key] = append(want[m.Key], m.ID)
				replies = append(replies, publish(t, p, m))
			}
			if err := p.Flush(); err != nil {
				t.Error(err)
			}
			for _, r := range replies {
				r.want(nil)
			}
			if !maps.EqualFunc(order, want, slices.Equal[[]string]) {
				t.Errorf("got  %v\nwant %v", order, want)
			}
		})
	}
}

type event struct{ ID, PartitionKey string }

func events(t *testing.T, body string) []event {
	list := make([]event, 1)
	err := json.Unmarshal([]byte(body), &list[0])
	if body[0] == '[' {
		err = json.Unmarshal([]byte(body), &list)
	}
	if err != nil {
		t.Errorf("%s: %v", body, err)
	}
	return list
}

func keysOf(events []event) map[string]bool {
	keys := map[string]bool{}
	for _, e := range events {
		keys[e.PartitionKey] = true
	}
	return keys
}

func TestPublishWaitsWhileAllRequestsAreTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var requests atomic.Int32
		release := make(chan struct{})
		p := open(t, "http://example.com", &PublisherConfig{Concurrency: 2, Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			requests.Add(1)
			<-release
			return &http.Response{StatusCode: 204, Body: http.NoBody, Request: r}, nil
		})})
		replies := []*reply{publish(t, p, message("1", "")), publish(t, p, message("2", ""))}
		ctx, cancel := context.WithCancel(context.Background())
		returned := make(chan *reply)
		go func() { returned <- publishWith(ctx, t, p, message("3", "")) }()
		synctest.Wait()
		cancel()
		(<-returned).want(outbox.ErrUnavailable)
		go func() { returned <- publish(t, p, message("4", "")) }()
		synctest.Wait()
		if n := requests.Load(); n != 2 {
			t.Errorf("there are %d requests at once, want 2", n)
		}
		close(release)
		for _, r := range append(replies, <-returned) {
			r.want(nil)
		}
		if n := requests.Load(); n != 3 {
			t.Errorf("there were %d requests, want 3", n)
		}
	})
}

// What waits for a message of its key must not overtake it, and what waits for a
// request, or comes at once, need not find out by itself that the server is gone.
func TestWhatWaitsSharesTheAnswerUnavailable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var requests atomic.Int32
		release := make(chan struct{})
		p := open(t, "http://example.com", &PublisherConfig{Concurrency: 2, Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			requests.Add(1)
			<-release
			return nil, io.ErrUnexpectedEOF
		})})
		replies := make(chan *reply, 4)
		go func() {
			for i, key := range []string{"k", "k", "other", "yet another"} {
				replies <- publish(t, p, message(strconv.Itoa(i), key))
			}
		}()
		synctest.Wait()
		if len(replies) != 2 {
			t.Fatalf("Publish has taken %d messages, want 2", len(replies))
		}
		close(release)
		for range 4 {
			(<-replies).want(outbox.ErrUnavailable)
		}
		if n := requests.Load(); n != 1 {
			t.Errorf("there were %d requests, want 1", n)
		}
		time.Sleep(rest)
		publish(t, p, message("5", "k")).want(outbox.ErrUnavailable)
		if n := requests.Load(); n != 2 {
			t.Errorf("there were %d requests after a rest, want 2", n)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A refusal is about one message: the others of its key go on.
func TestWhatWaitsGoesOnBehindARefusal(t *testing.T) {
	t.Parallel()
	s := newSink(t, func(w http.ResponseWriter, r posted) {
		if events(t, r.body)[0].ID == "1" {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	p := open(t, s.URL, nil)
	first, second := publish(t, p, message("1", "k")), publish(t, p, message("2", "k"))
	first.want(outbox.ErrRefused)
	second.want(nil)
}

func TestContextBoundsTheCallAlone(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Structured, Batched} {
		s := newSink(t, nil)
		p := open(t, s.URL, &PublisherConfig{Mode: mode})
		ctx, cancel := context.WithCancel(context.Background())
		sent := publishWith(ctx, t, p, message("1", ""))
		cancel()
		never := publishWith(ctx, t, p, message("2", ""))
		_ = p.Flush()
		sent.want(nil)
		never.want(outbox.ErrUnavailable)
		if got := events(t, s.only(t).body); len(got) != 1 || got[0].ID != "1" {
			t.Errorf("mode %d: the server got %v", mode, got)
		}
	}
}

func TestSendReportsTheEndOfItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	s := newSink(t, func(_ http.ResponseWriter, r posted) {
		cancel()
		<-r.Context().Done()
	})
	for _, url := range []func(*outbox.Message) string{nil, func(*outbox.Message) string { return s.URL }} {
		p := open(t, s.URL, &PublisherConfig{URL: url})
		wantClass(t, p.Send(ctx, message("1", "")), outbox.ErrUnavailable)
	}
}

func TestCloseAnswersAll(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Structured, Batched} {
		arrived := make(chan struct{}, 100)
		s := newSink(t, func(_ http.ResponseWriter, r posted) {
			arrived <- struct{}{}
			<-r.Context().Done()
		})
		p := open(t, s.URL, &PublisherConfig{Mode: mode, Concurrency: 4, BatchSize: 2, Timeout: time.Hour})
		var replies []*reply
		for i := range 3 {
			replies = append(replies, publish(t, p, message(strconv.Itoa(i), "k")))
		}
		sent := make(chan error, 1)
		go func() { sent <- p.Send(context.Background(), message("sent", "")) }()
		receive(t, arrived, "a request")
		receive(t, arrived, "a request")
		closed := make(chan error)
		go func() { closed <- p.Close() }()
		if err := receive(t, closed, "the end of Close"); err != nil {
			t.Error(err)
		}
		for i, r := range replies {
			if len(r.given) != 1 {
				t.Errorf("mode %d: message %d has %d answers when Close returns, want 1", mode, i, len(r.given))
			}
			r.want(outbox.ErrUnavailable)
		}
		wantClass(t, receive(t, sent, "the end of Send"), outbox.ErrUnavailable)
		publish(t, p, message("late", "")).want(outbox.ErrUnavailable)
		wantClass(t, p.Send(context.Background(), message("late", "")), outbox.ErrUnavailable)
		if err := p.Flush(); err != nil {
			t.Error(err)
		}
	}
}

// Connections are used again, which needs answers to be read.
func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	s := newSink(t, func(w http.ResponseWriter, _ posted) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write(make([]byte, 32<<10))
	})
	p := open(t, s.URL, &PublisherConfig{Concurrency: 1})
	for _, m := range messages(20) {
		publish(t, p, m).want(outbox.ErrRefused)
	}
	peers := map[string]bool{}
	for _, r := range s.requests() {
		peers[r.RemoteAddr] = true
	}
	if len(peers) != 1 {
		t.Errorf("20 requests took %d connections, want 1", len(peers))
	}
}

// A transport of one's own, for its TLS perhaps, keeps connections for all requests,
// and not the two of net/http.
func TestConnectionsOfATransportAreKept(t *testing.T) {
	t.Parallel()
	const at, rounds = 8, 5
	arrived, release := make(chan struct{}, at), make(chan struct{})
	s := newSink(t, func(http.ResponseWriter, posted) {
		arrived <- struct{}{}
		<-release
	})
	p := open(t, s.URL, &PublisherConfig{Concurrency: at, Transport: &http.Transport{}})
	for range rounds {
		var replies []*reply
		for _, m := range messages(at) {
			replies = append(replies, publish(t, p, m))
		}
		for range at {
			receive(t, arrived, "a request")
		}
		for range at {
			release <- struct{}{}
		}
		for _, r := range replies {
			r.want(nil)
		}
	}
	peers := map[string]bool{}
	for _, r := range s.requests() {
		peers[r.RemoteAddr] = true
	}
	if most := 2 * at; len(peers) > most { // one that is not idle in time is dialled again
		t.Errorf("%d requests took %d connections, want at most %d", at*rounds, len(peers), most)
	}
}

func TestPublishByHTTP2(t *testing.T) {
	t.Parallel()
	s := &sink{}
	server := newTLSSink(t, s)
	p := open(t, server.URL, &PublisherConfig{Transport: server.Client().Transport})
	publish(t, p, message("1", "")).want(nil)
	if r := s.only(t); r.Proto != "HTTP/2.0" {
		t.Errorf("the request came by %s", r.Proto)
	}
}

func TestAnUntrustedCertificateIsUnavailable(t *testing.T) {
	t.Parallel()
	server := newTLSSink(t, &sink{})
	p := open(t, server.URL, nil)
	publish(t, p, message("1", "")).want(outbox.ErrUnavailable)
}
