package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook"
	"github.com/outbox-go/outbox/relay"
)

// postSink is an HTTP server that reads events by the official SDK and keeps them.
type postSink struct {
	*httptest.Server
	t      testing.TB
	answer func(w http.ResponseWriter, r *http.Request) // nil is 202

	mu       sync.Mutex
	requests []time.Time // when they came
	bodies   []string
	events   []cloudevents.Event
	secrets  []string // that sign each request
}

func newPostSink(t testing.TB, answer func(http.ResponseWriter, *http.Request)) *postSink {
	t.Helper()
	s := &postSink{t: t, answer: answer}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *postSink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender has gone
	}
	s.take(r, string(body))
	if s.answer == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	s.answer(w, r)
}

func (s *postSink) take(r *http.Request, body string) {
	events, err := readEvents(r, body)
	if err != nil {
		s.t.Errorf("%s %v: %v", body, r.Header, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, secret := range s.secrets {
		peer, err := standardwebhooks.NewWebhook(secret)
		if err == nil {
			err = peer.Verify([]byte(body), r.Header)
		}
		if err != nil {
			s.t.Errorf("the signature of %s by %v: %v", body, r.Header, err)
		}
	}
	s.requests = append(s.requests, time.Now())
	s.bodies = append(s.bodies, body)
	s.events = append(s.events, events...)
}

// readEvents reads a request in any mode, as the SDK does it.
func readEvents(r *http.Request, body string) ([]cloudevents.Event, error) {
	again := func() *http.Request {
		c := r.Clone(r.Context())
		c.Body = io.NopCloser(strings.NewReader(body))
		return c
	}
	if cehttp.IsHTTPBatch(r.Header) {
		events, err := cehttp.NewEventsFromHTTPRequest(again())
		for i := range events {
			err = errors.Join(err, events[i].Validate())
		}
		return events, err
	}
	e, err := cehttp.NewEventFromHTTPRequest(again())
	if err != nil {
		return nil, err
	}
	return []cloudevents.Event{*e}, e.Validate()
}

func (s *postSink) got() ([]cloudevents.Event, []time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]cloudevents.Event(nil), s.events...), append([]time.Time(nil), s.requests...)
}

// await waits for n events.
func (s *postSink) await(n int) []cloudevents.Event {
	s.t.Helper()
	var events []cloudevents.Event
	eventually(s.t, fmt.Sprintf("%d events", n), func() (bool, string) {
		events, _ = s.got()
		return len(events) >= n, fmt.Sprint(len(events))
	})
	return events
}

// relayTo runs a relay from a database of its own to an HTTP server.
func relayTo(t testing.TB, address string, config *webhook.PublisherConfig, hooks ...relay.Hook) *system {
	t.Helper()
	s := &system{database: newPostgres(t)}
	p, err := webhook.NewPublisher(address, config)
	must(t, err)
	s.startRelayWith(t, p, impatientRelay(hooks...))
	return s
}

// emitOne emits an event and returns its id.
func (s *system) emitOne(t testing.TB, e outbox.Event) string {
	t.Helper()
	e.ID = uuid.NewString()
	must(t, s.inTx(func(tx transaction) error { return tx.emit(e) }))
	s.wake()
	return e.ID
}

// variedEvents are events whose attributes and data differ in kind.
func variedEvents() map[string]outbox.Event {
	byName := map[string]outbox.Event{
		"json": {
			Topic: "user.created", Key: "user 7/ä%", Tenant: "acme, Inc.", Type: "com.example.user.created", Version: "v2",
			Payload: json.RawMessage(`{"name":"Jürgen <j@example.com>","n":[1,2.50]}`),
			Headers: map[string]string{
				outbox.HeaderCorrelationID: "c-1", outbox.HeaderCausationID: "c-0", "ce-subject": "users/7",
				outbox.HeaderTraceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "region": "eu", "X-Mixed": "1",
			},
		},
		"text":    {Topic: "note.written", ContentType: "text/plain; charset=utf-8", Payload: []byte("a \"note\"\nof ü")},
		"bytes":   {Topic: "image.stored", ContentType: "image/png", Payload: []byte{0x89, 'P', 'N', 'G', 0, 255}},
		"nothing": {Topic: "cron.ran", ContentType: "application/json", Payload: []byte{}},
		"no json": {Topic: "odd.sent", ContentType: "application/json", Payload: []byte(`{"half":`)},
	}
	for name, e := range byName {
		e.ID = uuid.NewString()
		byName[name] = e
	}
	return byName
}

var webhookModes = map[string]webhook.Mode{"structured": webhook.Structured, "binary": webhook.Binary, "batched": webhook.Batched}

func TestP09_ThePostIsAValidCloudEvent(t *testing.T) {
	t.Parallel()
	for name, mode := range webhookModes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sink := newPostSink(t, nil)
			s := relayTo(t, sink.URL, &webhook.PublisherConfig{Mode: mode, Source: "https://example.com/shop"})
			sent := map[string]outbox.Event{}
			must(t, s.inTx(func(tx transaction) error {
				var events []outbox.Event
				for _, e := range variedEvents() {
					sent[e.ID] = e
					events = append(events, e)
				}
				return tx.emit(events...)
			}))
			for _, got := range sink.await(len(sent)) {
				e, ok := sent[got.ID()]
				if !ok {
					t.Errorf("an event has the id %s, which is no message's or came twice", got.ID())
				}
				delete(sent, got.ID())
				wantEvent(t, mode, e, got)
			}
			s.awaitPending(t, 0)
			_, requests := sink.got()
			if batched := len(requests) < len(variedEvents()); batched != (mode == webhook.Batched) {
				t.Errorf("there were %d requests", len(requests))
			}
		})
	}
}

func wantEvent(t *testing.T, mode webhook.Mode, e outbox.Event, got cloudevents.Event) {
	t.Helper()
	kind := e.Type
	if kind == "" {
		kind = e.Topic
	}
	for what, pair := range map[string][2]string{
		"specversion": {"1.0", got.SpecVersion()}, "source": {"https://example.com/shop", got.Source()}, "type": {kind, got.Type()},
		"subject": {e.Headers["ce-subject"], got.Subject()}, "data": {fmt.Sprintf("%s", e.Payload), string(got.Data())},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s of %s is %q, want %q", what, e.Topic, pair[1], pair[0])
		}
	}
	if e.ContentType != "" && got.DataContentType() != e.ContentType {
		t.Errorf("datacontenttype of %s is %q, want %q", e.Topic, got.DataContentType(), e.ContentType)
	}
	if age := time.Since(got.Time()); age < 0 || age > time.Hour {
		t.Errorf("time of %s is %v", e.Topic, got.Time())
	}
	for name, want := range map[string]string{
		"outboxtopic": e.Topic, "partitionkey": e.Key, "outboxtenant": e.Tenant, "outboxversion": e.Version,
		"correlationid": e.Headers[outbox.HeaderCorrelationID], "causationid": e.Headers[outbox.HeaderCausationID],
		"traceparent": e.Headers[outbox.HeaderTraceparent], "region": e.Headers["region"],
	} {
		text, _ := got.Extensions()[name].(string)
		if mode == webhook.Binary { // the standard has it so, and the SDK does not decode it
			text, _ = url.PathUnescape(text)
		}
		if text != want {
			t.Errorf("%s of %s is %q, want %q", name, e.Topic, text, want)
		}
	}
}

func TestP09_TheSDKsReceiverTakesIt(t *testing.T) {
	t.Parallel()
	for _, mode := range []webhook.Mode{webhook.Structured, webhook.Binary} {
		received := make(chan cloudevents.Event, 10)
		protocol, err := cloudevents.NewHTTP()
		must(t, err)
		handler, err := cloudevents.NewHTTPReceiveHandler(t.Context(), protocol, func(_ context.Context, e cloudevents.Event) cloudevents.Result {
			received <- e
			return cloudevents.ResultACK
		})
		must(t, err)
		server := httptest.NewServer(handler)
		t.Cleanup(server.Close)
		s := relayTo(t, server.URL, &webhook.PublisherConfig{Mode: mode})
		id := s.emitOne(t, outbox.Event{Topic: "user.created", Payload: map[string]string{"id": "7"}})
		select {
		case e := <-received:
			var user struct{ ID string }
			if err := e.DataAs(&user); err != nil || user.ID != "7" || e.ID() != id {
				t.Errorf("got %v, error %v", e, err)
			}
		case <-time.After(patience):
			t.Fatal("the receiver has got nothing")
		}
		s.awaitPending(t, 0)
	}
}

func TestP09_ThePostIsSignedByStandardWebhooks(t *testing.T) {
	t.Parallel()
	for name, mode := range webhookModes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sink := newPostSink(t, nil)
			sink.secrets = []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}
			s := relayTo(t, sink.URL, &webhook.PublisherConfig{Mode: mode, Secrets: sink.secrets})
			s.placeOrders(t, "signed", 5, 1)
			sink.await(5)
			s.awaitPending(t, 0)
		})
	}
}

// refusedRow waits until the only row of the outbox has an attempt behind it.
func (s *system) refusedRow(t *testing.T) pendingRow {
	t.Helper()
	var rows []pendingRow
	eventually(t, "a refused message", func() (bool, string) {
		rows = pending(t, s)
		return len(rows) == 1 && rows[0].attempts > 0, fmt.Sprint(rows)
	})
	return rows[0]
}

func TestP10_AnyOf2xxIsSuccess(t *testing.T) {
	t.Parallel()
	codes := []int{200, 201, 202, 204, 226, 299}
	next := make(chan int, len(codes))
	sink := newPostSink(t, func(w http.ResponseWriter, _ *http.Request) {
		select {
		case code := <-next:
			w.WriteHeader(code)
		default: // a repeat, which the count shows
		}
	})
	s := relayTo(t, sink.URL, nil)
	for _, code := range codes {
		next <- code
		s.emitOne(t, outbox.Event{Topic: "user.created"})
		s.awaitPending(t, 0)
	}
	if events, _ := sink.got(); len(events) != len(codes) {
		t.Errorf("%d messages were sent %d times", len(codes), len(events))
	}
}

func TestP10_OtherStatusesAreFailures(t *testing.T) {
	t.Parallel()
	for _, code := range []int{301, 302, 307, 308, 400, 401, 404, 409, 410, 422, 500, 501} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			var healed atomic.Bool
			sink := newPostSink(t, nil)
			sink.answer = func(w http.ResponseWriter, _ *http.Request) {
				if !healed.Load() {
					w.Header().Set("Location", sink.URL+"/elsewhere")
					w.WriteHeader(code)
					_, _ = io.WriteString(w, "not today")
				}
			}
			s := relayTo(t, sink.URL, nil)
			s.emitOne(t, outbox.Event{Topic: "user.created"})
			row := s.refusedRow(t)
			if !strings.Contains(row.lastError, fmt.Sprint(code)) || !strings.Contains(row.lastError, "not today") {
				t.Errorf("the row is %+v, want the status and what the server said", row)
			}
			healed.Store(true)
			s.awaitPending(t, 0)
		})
	}
}

// availability is a relay's hook that tells why the server was unavailable.
type availability chan error

func (a availability) Availability(err error) {
	select {
	case a <- err:
	default:
	}
}

func (a availability) await(t *testing.T) error {
	t.Helper()
	select {
	case err := <-a:
		return err
	case <-time.After(patience):
		t.Fatal("the relay has not noticed")
	}
	return nil
}

func TestP10_ConnectionRefused(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	must(t, l.Close())
	went := make(availability, 1)
	s := relayTo(t, "http://"+address, nil, went)
	id := s.emitOne(t, outbox.Event{Topic: "user.created"})
	if err := went.await(t); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("the relay was told %v", err)
	}
	if rows := pending(t, s); len(rows) != 1 || rows[0].attempts != 0 {
		t.Errorf("the rows are %+v, want one without an attempt: the server is at fault, not the message", rows)
	}
	sink := &postSink{t: t}
	eventually(t, "the address to be free", func() (bool, string) {
		l, err = net.Listen("tcp", address)
		return err == nil, fmt.Sprint(err)
	})
	sink.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: sink}}
	sink.Start()
	t.Cleanup(sink.Close)
	if got := sink.await(1); got[0].ID() != id {
		t.Errorf("got %v", got)
	}
	s.awaitPending(t, 0)
}

func TestP10_RetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	const asked = 2 * time.Second // longer than this relay waits by itself
	for _, code := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			next := make(chan int, 1)
			next <- code
			sink := newPostSink(t, func(w http.ResponseWriter, _ *http.Request) {
				select {
				case c := <-next:
					w.Header().Set("Retry-After", fmt.Sprint(int(asked/time.Second)))
					w.WriteHeader(c)
				default:
				}
			})
			went := make(availability, 1)
			s := relayTo(t, sink.URL, nil, went)
			s.emitOne(t, outbox.Event{Topic: "user.created"})
			if err := went.await(t); err == nil {
				t.Error("the relay was told of no fault")
			}
			s.emitOne(t, outbox.Event{Topic: "user.created"}) // it is the server that asks: this has to wait, too
			sink.await(3)
			s.awaitPending(t, 0)
			_, at := sink.got()
			for _, when := range at[1:] {
				if pause := when.Sub(at[0]); pause < asked {
					t.Errorf("a request came %v after the server had asked for %v", pause, asked)
				}
			}
		})
	}
}

func TestP11_ASinkThatHangsTimesOut(t *testing.T) {
	t.Parallel()
	for name, mode := range webhookModes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hang := make(chan struct{}, 1)
			hang <- struct{}{}
			sink := newPostSink(t, func(_ http.ResponseWriter, r *http.Request) {
				select {
				case <-hang:
					<-r.Context().Done()
				default:
				}
			})
			went := make(availability, 1)
			s := relayTo(t, sink.URL, &webhook.PublisherConfig{Mode: mode, Timeout: 300 * time.Millisecond}, went)
			id := s.emitOne(t, outbox.Event{Topic: "user.created"})
			if err := went.await(t); err == nil || !strings.Contains(err.Error(), "no answer within 300ms") {
				t.Errorf("the relay was told %v", err)
			}
			for _, e := range sink.await(2) {
				if e.ID() != id {
					t.Errorf("got the event %s, want %s again", e.ID(), id)
				}
			}
			s.awaitPending(t, 0)
		})
	}
}

// A message that the server hangs over each time holds up none but its own key, whether
// the others come before it or when it is all that there is.
func TestP11_OthersAreDeliveredWhileOneHangs(t *testing.T) {
	t.Parallel()
	for name, mode := range webhookModes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const others = 20
			var handled atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return
				}
				events, err := readEvents(r, string(body))
				if err != nil {
					t.Error(err)
				}
				for _, e := range events {
					if e.Type() == "user.poison" {
						<-r.Context().Done()
						return
					}
				}
				handled.Add(int64(len(events)))
			}))
			t.Cleanup(server.Close)
			went := make(availability, 1)
			s := relayTo(t, server.URL, &webhook.PublisherConfig{Mode: mode, Timeout: time.Second}, went)
			s.emitOne(t, outbox.Event{Topic: "user.poison", Key: "k"})
			if err := went.await(t); err == nil {
				t.Error("the relay was told of no fault")
			}
			s.placeOrders(t, "others", others, 1)
			row := s.refusedRow(t)
			if !strings.Contains(row.lastError, "while others are answered") {
				t.Errorf("the row is %+v, want to know why it was refused", row)
			}
			if n := handled.Load(); n != others {
				t.Errorf("%d of the others were handled, want each once", n)
			}
		})
	}
}

func TestP12_ARetriedCloudEventKeepsItsID(t *testing.T) {
	t.Parallel()
	for name, mode := range webhookModes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answers := make(chan func(http.ResponseWriter), 4)
			for _, code := range []int{500, 503, 400} {
				answers <- func(w http.ResponseWriter) { w.WriteHeader(code) }
			}
			answers <- func(http.ResponseWriter) { panic(http.ErrAbortHandler) } // the connection is cut
			sink := newPostSink(t, func(w http.ResponseWriter, _ *http.Request) {
				select {
				case answer := <-answers:
					answer(w)
				default:
				}
			})
			s := relayTo(t, sink.URL, &webhook.PublisherConfig{Mode: mode})
			id := s.emitOne(t, outbox.Event{Topic: "user.created", Key: "7", Payload: map[string]string{"id": "7"}})
			s.awaitPending(t, 0)
			events, _ := sink.got()
			if len(events) != 5 {
				t.Fatalf("there were %d attempts, want 5", len(events))
			}
			for i, e := range events {
				if e.ID() != id || e.Source() != "/outbox" || !e.Time().Equal(events[0].Time()) || sink.bodies[i] != sink.bodies[0] {
					t.Errorf("attempt %d was %v, %s, want the message's id %s and the event as it was", i+1, e, sink.bodies[i], id)
				}
			}
		})
	}
}
