package acceptance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/admin"
	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

// awaitStored waits for n messages of a state.
func awaitStored(t testing.TB, a store.Admin, state store.State, n int) []store.Stored {
	t.Helper()
	var list []store.Stored
	eventually(t, fmt.Sprintf("%d %s messages", n, state), func() (bool, string) {
		list = stored(t, a, state)
		return len(list) == n, fmt.Sprintf("%+v", list)
	})
	return list
}

// deaths is a relay's hook that is told of dead letters.
type deaths struct {
	mu      sync.Mutex
	reasons map[string]store.Reason // by topic
}

// Died implements relay.DeadHook.
func (d *deaths) Died(m *outbox.Message, reason store.Reason, _ string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reasons == nil {
		d.reasons = map[string]store.Reason{}
	}
	d.reasons[m.Topic] = reason
}

func (d *deaths) of(topic string) store.Reason {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reasons[topic]
}

// TestP08_MaximumOfAttemptsIsVisible is of the outbox as the storage box; a table of
// the user's own is in P6 and P7.
func TestP08_MaximumOfAttemptsIsVisible(t *testing.T) {
	const attempts = 2
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		runs.fail = failFor("failing")
		s.emit(t, outbox.Event{Topic: "failing", Key: "a"}, outbox.Event{Topic: "good", Key: "b"})
		runs.runUntil(attempts+1, atOnce(attempts))
		dead := single(t, runs.store, store.Dead)
		if dead.Topic != "failing" || dead.Attempts != attempts || dead.LastError != errNoLuck.Error() || dead.State != store.Dead {
			t.Errorf("visible is %+v, want the failed message with its attempts and error", dead)
		}
		stats, err := runs.store.Stats(t.Context())
		must(t, err)
		if stats.Dead != 1 || stats.Pending != 0 {
			t.Errorf("counted are %+v, want one dead letter", stats)
		}
		r.await(1)
	})
}

// TestK22_MessageThatNoQueueIsBoundFor: on JetStream there is no such thing, since the
// stream keeps every message.
func TestK22_MessageThatNoQueueIsBoundFor(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		if b, ok := s.broker.(*rabbit); ok {
			s.wantUnroutable(t)
			s.wantDropped(t, b)
			return
		}
		s.emit(t, outbox.Event{Topic: "nobody.listens", Payload: order{ID: "1"}})
		s.startRelay(t, relay.Config{})
		s.awaitPending(t, 0)
		if dead := stored(t, s.whole(t), store.Dead); len(dead) != 0 {
			t.Errorf("there are dead letters: %+v", dead)
		}
		stream, err := s.broker.(*jetStream).client(t).Stream(context.Background(), "outbox")
		must(t, err)
		m, err := stream.GetLastMsgForSubject(context.Background(), "outbox.nobody.listens")
		must(t, err)
		if string(m.Data) != `{"ID":"1","Key":"","N":0}` {
			t.Errorf("the stream has %s", m.Data)
		}
	})
}

// wantUnroutable is the policy to refuse, which is the default.
func (s *system) wantUnroutable(t *testing.T) {
	t.Helper()
	others := startWorker(t, s.subscriber(t), "orders", "order.#")
	whole, config, died := s.whole(t), impatientRelay(), &deaths{}
	config.MaxAttempts, config.Hooks = 3, []relay.Hook{died}
	s.emit(t, outbox.Event{Topic: "nobody.listens", Payload: 1}, outbox.Event{Topic: "order.placed", Payload: 2})
	theRelay := s.startRelay(t, config)
	dead := awaitStored(t, whole, store.Dead, 1)[0]
	if dead.Topic != "nobody.listens" || dead.Reason != store.Exhausted || dead.Attempts != 3 || !strings.Contains(dead.LastError, "NO_ROUTE") {
		t.Errorf("the dead letter is %+v, want three attempts that found no route", dead)
	}
	eventually(t, "the hook to be told", func() (bool, string) { return died.of("nobody.listens") == store.Exhausted, "none" })
	others.await(1)
	late := startWorker(t, s.subscriber(t), "late", "nobody.#")
	n, err := admin.New(whole).Redrive(t.Context(), admin.Filter{IDs: []string{dead.ID}})
	must(t, err)
	if d := late.await(1)[0]; n != 1 || d.ID != dead.ID {
		t.Errorf("%d were redriven and %s was delivered, want %s", n, d.ID, dead.ID)
	}
	theRelay.stop()
}

// wantDropped is the policy to accept.
func (s *system) wantDropped(t *testing.T, b *rabbit) {
	t.Helper()
	p, err := rabbitmq.NewPublisher(b.brokerURL(), &rabbitmq.PublisherConfig{Unroutable: rabbitmq.Accept})
	must(t, err)
	book := newSent()
	s.startRelayWith(t, p, relay.Config{Hooks: []relay.Hook{book}})
	s.emit(t, outbox.Event{Topic: "accepted.by.nobody"})
	s.awaitPending(t, 0)
	if n := len(book.read(book.confirmed)); n != 1 {
		t.Errorf("%d messages were confirmed, want 1", n)
	}
	if dead := stored(t, s.whole(t), store.Dead); len(dead) != 0 {
		t.Errorf("there are dead letters: %+v", dead)
	}
}

func TestD08_SuccessAndExhaustionAreRecorded(t *testing.T) {
	const attempts = 3
	eachSystem(t, func(t *testing.T, s *system) {
		topic, accept := s.refusedTopic(t)
		startWorker(t, s.subscriber(t), "orders", "order.#")
		whole, config := s.whole(t), impatientRelay()
		config.MaxAttempts, config.Keep = attempts, relay.Forever
		s.emit(t, outbox.Event{Topic: topic, Key: "a", Payload: "exhausted"}, outbox.Event{Topic: "order.placed", Key: "b"})
		first := s.startRelay(t, config)
		dead := awaitStored(t, whole, store.Dead, 1)[0]
		if dead.Attempts != attempts || dead.LastError == "" || dead.At.IsZero() || dead.Reason != store.Exhausted {
			t.Errorf("recorded as failed is %+v, want %d attempts and the last error", dead, attempts)
		}
		sent := awaitStored(t, whole, store.Sent, 1)[0]
		if sent.Topic != "order.placed" || sent.Attempts != 0 || sent.LastError != "" || sent.At.IsZero() {
			t.Errorf("recorded as sent is %+v, want no failed attempt", sent)
		}
		first.stop()

		config.MaxAttempts = 1000
		s.startRelay(t, config)
		s.emit(t, outbox.Event{Topic: topic, Key: "a", Payload: "sent in the end"})
		eventually(t, "a refusal", func() (bool, string) {
			rows := pending(t, s)
			return len(rows) == 1 && rows[0].attempts > 0, fmt.Sprintf("%+v", rows)
		})
		accept()
		late := awaitStored(t, whole, store.Sent, 2)[1]
		if late.Topic != topic || late.Attempts == 0 || late.LastError == "" || late.At.Before(sent.At) {
			t.Errorf("recorded as sent is %+v, want the attempts that failed before", late)
		}
		s.awaitPending(t, 0)
	})
}

func TestD11_ExpiredMessagesAreKeptVisible(t *testing.T) {
	now := time.Now()
	eachSystem(t, func(t *testing.T, s *system) {
		runs, r := s.newRuns(t)
		s.emit(t,
			outbox.Event{Topic: "expired", Key: "a", ExpiresAt: now.Add(-time.Minute)},
			outbox.Event{Topic: "behind.it", Key: "a"},
			outbox.Event{Topic: "in.time", ExpiresAt: now.Add(time.Hour)})
		// Off unless asked for: old age is no reason.
		s.emitWith(t, []outbox.Option{outbox.WithClock(func() time.Time { return now.AddDate(-10, 0, 0) })}, outbox.Event{Topic: "old"})
		died, book := &deaths{}, newSent()
		theRelay := s.startRelay(t, relay.Config{Hooks: []relay.Hook{died, book}})
		r.await(3)
		s.wantExpired(t, runs.store, "expired")
		eventually(t, "the expiry to be reported", func() (bool, string) { return died.of("expired") == store.Expired, "nothing" })
		if n := theRelay.Stats().Expired; n != 1 {
			t.Errorf("%d are counted as expired, want 1", n)
		}
		theRelay.stop()
		if n := len(book.read(book.published)); n != 3 {
			t.Errorf("%d messages were sent, want all but the expired one", n)
		}
		// A run does the same.
		s.emit(t, outbox.Event{Topic: "expired.too", ExpiresAt: now.Add(-time.Minute)}, outbox.Event{Topic: "sent.by.run", Key: "b"})
		if result, calls := runs.run(nil); result.Sent != 1 || result.Dead != 1 || len(calls) != 1 || calls[0] != "sent.by.run" {
			t.Errorf("the run called for %q with the result %+v", calls, result)
		}
		s.wantExpired(t, runs.store, "expired", "expired.too")
	})
}

// wantExpired checks that just these are visible as expired.
func (s *system) wantExpired(t *testing.T, a store.Admin, topics ...string) {
	t.Helper()
	dead := awaitStored(t, a, store.Dead, len(topics))
	for i, d := range dead {
		if d.Topic != topics[i] || d.Reason != store.Expired || d.Attempts != 0 || d.Parked {
			t.Errorf("visible is %+v, want %s as expired", d, topics[i])
		}
	}
}
