package acceptance

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/worker"
)

var errNoLuck = errors.New("no luck")

// newWorker returns a worker on a subscriber of its own.
func (s *system) newWorker(t testing.TB, config worker.Config) *worker.Worker {
	t.Helper()
	config.Logger = quiet()
	return worker.New(s.subscriber(t), &config)
}

// deadLetters writes down the dead letters of a queue, and removes them.
func (s *system) deadLetters(t testing.TB, queue string) *recorder {
	t.Helper()
	r := newRecorder(t)
	w := s.newWorker(t, worker.Config{Queue: queue, DeadLetters: true})
	worker.Handle(w, "#", r.handle)
	r.stop = runWorker(t, w)
	return r
}

// emit commits events.
func (s *system) emit(t testing.TB, events ...outbox.Event) {
	t.Helper()
	must(t, s.inTx(func(tx transaction) error { return tx.emit(events...) }))
}

// failing runs a worker whose handler returns what fail says, and records each
// attempt. A message of topic "end" is handled by nobody but the recorder.
func (s *system) failing(t testing.TB, config worker.Config, fail func(d *worker.Delivery[[]byte]) error, opts ...worker.HandleOption) *recorder {
	t.Helper()
	r := newRecorder(t)
	w := s.newWorker(t, config)
	worker.Handle(w, "user.*", func(ctx context.Context, d *worker.Delivery[[]byte]) error {
		return errors.Join(r.handle(ctx, d), fail(d))
	}, opts...)
	worker.Handle(w, "end", r.handle)
	r.stop = runWorker(t, w)
	return r
}

func always(err error) func(*worker.Delivery[[]byte]) error {
	return func(*worker.Delivery[[]byte]) error { return err }
}

// awaitDead waits for n dead letters.
func awaitDead(t testing.TB, dead *recorder, n int) []delivery {
	t.Helper()
	got := dead.await(n)
	for _, d := range got {
		if d.Failure == nil || d.Failure.Reason == "" || d.Failure.LastAt.IsZero() || d.Failure.Attempts == 0 {
			t.Errorf("dead letter %s has the failure %+v", d.ID, d.Failure)
		}
	}
	if len(got) != n {
		t.Errorf("%d dead letters, want %d", len(got), n)
	}
	return got
}

func TestK09_UndecodablePayloadIsDeadLettered(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		handled := make(chan string, 10)
		w := s.newWorker(t, worker.Config{Queue: "users"})
		worker.Handle(w, "user.*", func(_ context.Context, d *worker.Delivery[validUser]) error {
			handled <- d.Payload.Name
			return nil
		})
		runWorker(t, w)
		dead := s.deadLetters(t, "users")
		s.startRelay(t, relay.Config{})
		s.emit(t,
			outbox.Event{Topic: "user.broken", ContentType: "application/json", Payload: []byte(`{"name":`)},
			outbox.Event{Topic: "user.misfit", Payload: map[string]any{"name": 8472}},
			outbox.Event{Topic: "user.invalid", Payload: validUser{}},
			outbox.Event{Topic: "user.unknown", ContentType: "application/x-unknown", Payload: []byte(`{}`)},
			outbox.Event{Topic: "user.good", Payload: validUser{"Ada"}},
		)
		want := map[string]string{"user.broken": "unexpected end", "user.misfit": "does not fit", "user.invalid": "name is empty", "user.unknown": "no codec"}
		for _, d := range awaitDead(t, dead, len(want)) {
			if d.Failure.Attempts != 1 || !strings.Contains(d.Failure.Reason, want[d.Topic]) || strings.Contains(d.Failure.Reason, "8472") {
				t.Errorf("%s: %+v, want one attempt and %q, without the value", d.Topic, d.Failure, want[d.Topic])
			}
			if d.Failure.Handler != "user.*" || d.Failure.Queue != "users" {
				t.Errorf("%s: handler %q of queue %q", d.Topic, d.Failure.Handler, d.Failure.Queue)
			}
		}
		select {
		case name := <-handled:
			if name != "Ada" {
				t.Errorf("handled %q", name)
			}
		case <-time.After(patience):
			t.Error("the worker does not live on")
		}
	})
}

type validUser struct{ Name string }

func (u *validUser) Validate() error {
	if u.Name == "" {
		return errors.New("name is empty")
	}
	return nil
}

func TestK10_FailingHandlerIsRetriedAtItsDelays(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		delays := []time.Duration{300 * time.Millisecond, 700 * time.Millisecond}
		r := s.failing(t, worker.Config{Queue: "users", Retries: worker.Retries{Delays: delays}}, always(errNoLuck))
		dead := s.deadLetters(t, "users")
		s.startRelay(t, relay.Config{})
		s.emit(t, outbox.Event{Topic: "user.created", Payload: 1})
		letter := awaitDead(t, dead, 1)[0]
		got := r.deliveries()
		if len(got) != 3 || letter.Failure.Attempts != 3 {
			t.Fatalf("%d attempts, the dead letter tells of %d, want 3", len(got), letter.Failure.Attempts)
		}
		for i, d := range got {
			if d.Attempt != i+1 {
				t.Errorf("attempt %d is called %d", i+1, d.Attempt)
			}
			if i > 0 && d.at.Sub(got[i-1].at) < delays[i-1] {
				t.Errorf("attempt %d came %s after the one before, want %s", i+1, d.at.Sub(got[i-1].at), delays[i-1])
			}
		}
		if first := got[0].at.Sub(letter.Failure.FirstAt).Abs(); first > patience || !letter.Failure.FirstAt.Before(letter.Failure.LastAt) {
			t.Errorf("failed at first %v and at last %v, the first attempt was at %v", letter.Failure.FirstAt, letter.Failure.LastAt, got[0].at)
		}
	})
}

func TestK11_QueuesOnOneTopicRetryApart(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		retries := worker.Retries{Delays: []time.Duration{0, 50 * time.Millisecond}}
		bad := s.failing(t, worker.Config{Queue: "bad", Retries: retries}, always(errNoLuck))
		good := s.failing(t, worker.Config{Queue: "good", Retries: retries}, always(nil))
		dead, goodDead := s.deadLetters(t, "bad"), s.deadLetters(t, "good")
		s.startRelay(t, relay.Config{})
		s.emit(t, outbox.Event{Topic: "user.created", Payload: 1})
		awaitDead(t, dead, 1)
		s.emit(t, outbox.Event{Topic: "end", Payload: 1})
		if n := len(bad.await(2)); n != 4 {
			t.Errorf("the failing queue had %d deliveries, want 3 attempts and the last message", n)
		}
		if n := len(good.await(2)); n != 2 {
			t.Errorf("the other queue had %d deliveries, want one of each message", n)
		}
		if n := len(goodDead.deliveries()); n != 0 {
			t.Errorf("the other queue has %d dead letters", n)
		}
	})
}

func TestK12_RetriedMessageStaysItself(t *testing.T) {
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.failing(t, worker.Config{Queue: "users", Retries: worker.Retries{Delays: []time.Duration{0, 50 * time.Millisecond}}}, always(errNoLuck))
		dead := s.deadLetters(t, "users")
		s.startRelay(t, relay.Config{})
		event := outbox.Event{
			ID: "0190b5c4-8f5e-7000-8000-000000000001", Topic: "user.created", Key: "k", Tenant: "t", Type: "User", Version: "2",
			ContentType: "text/plain", Payload: []byte("plain"),
			Headers: map[string]string{"traceparent": trace, "correlation-id": "c", "x-mine": "Ü &"},
		}
		s.emit(t, event)
		letter := awaitDead(t, dead, 1)[0]
		for i, d := range append(r.deliveries(), letter) {
			have := outbox.Event{
				ID: d.ID, Topic: d.Topic, Key: d.Key, Tenant: d.Tenant, Type: d.Type, Version: d.Version,
				ContentType: d.ContentType, Payload: d.Payload, Headers: d.Headers,
			}
			if !reflect.DeepEqual(have, event) {
				t.Errorf("delivery %d is %+v, was emitted as %+v", i+1, have, event)
			}
			if d.CorrelationID != "c" {
				t.Errorf("delivery %d has the correlation id %q", i+1, d.CorrelationID)
			}
		}
	})
}

func TestK13_AbortIsNotRetried(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		abort := always(fmt.Errorf("charge: %w", worker.Abort(errNoLuck)))
		kept := s.failing(t, worker.Config{Queue: "kept"}, abort)
		dropped := s.failing(t, worker.Config{Queue: "dropped", DropAborted: true}, abort)
		keptDead, droppedDead := s.deadLetters(t, "kept"), s.deadLetters(t, "dropped")
		s.startRelay(t, relay.Config{})
		s.emit(t, outbox.Event{Topic: "user.created", Key: "k", Payload: 1})
		if letter := awaitDead(t, keptDead, 1)[0]; letter.Failure.Attempts != 1 || !strings.Contains(letter.Failure.Reason, "charge: no luck") {
			t.Errorf("dead letter %+v, want one attempt", letter.Failure)
		}
		s.emit(t, outbox.Event{Topic: "end", Key: "k", Payload: 1})
		for name, r := range map[string]*recorder{"kept": kept, "dropped": dropped} {
			if n := len(r.await(2)); n != 2 {
				t.Errorf("%s: %d deliveries, want one of each message", name, n)
			}
		}
		if n := len(droppedDead.deliveries()); n != 0 {
			t.Errorf("%d dead letters of what was to be dropped", n)
		}
	})
}

func TestK14_RetryWhereRetriesAreOff(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		off := worker.Retries{Off: true, Delays: []time.Duration{50 * time.Millisecond, 50 * time.Millisecond}}
		r := s.failing(t, worker.Config{Queue: "users", Retries: off}, func(d *worker.Delivery[[]byte]) error {
			if d.Attempt == 1 {
				return worker.RetryAfter(300*time.Millisecond, errNoLuck)
			}
			return fmt.Errorf("charge: %w", worker.Retry(errNoLuck))
		})
		dead := s.deadLetters(t, "users")
		s.startRelay(t, relay.Config{})
		s.emit(t, outbox.Event{Topic: "user.created", Payload: 1})
		awaitDead(t, dead, 1)
		got := r.deliveries()
		if len(got) != 3 {
			t.Fatalf("%d attempts, want 3", len(got))
		}
		if d := got[1].at.Sub(got[0].at); d < 300*time.Millisecond {
			t.Errorf("the second attempt came after %s, the handler asked for 300ms", d)
		}
	})
}

func TestK15_RetriesOff(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		off := worker.Retries{Off: true}
		r := s.failing(t, worker.Config{Queue: "off", Retries: off}, always(errNoLuck))
		one := s.failing(t, worker.Config{Queue: "one"}, always(errNoLuck), worker.WithRetries(off))
		dead, oneDead := s.deadLetters(t, "off"), s.deadLetters(t, "one")
		s.startRelay(t, relay.Config{})
		s.emit(t, outbox.Event{Topic: "user.created", Payload: 1})
		for _, d := range []*recorder{dead, oneDead} {
			if letter := awaitDead(t, d, 1)[0]; letter.Failure.Attempts != 1 {
				t.Errorf("dead letter after %d attempts, want 1", letter.Failure.Attempts)
			}
		}
		if a, b := len(r.deliveries()), len(one.deliveries()); a != 1 || b != 1 {
			t.Errorf("%d and %d attempts, want 1 each", a, b)
		}
	})
}

func TestK16_RetryAtOnceIsBounded(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.failing(t, worker.Config{Queue: "users", Retries: worker.Retries{Delays: []time.Duration{0}, MaxAttempts: 20}}, always(errNoLuck))
		dead := s.deadLetters(t, "users")
		s.startRelay(t, relay.Config{})
		s.emit(t, outbox.Event{Topic: "user.created", Payload: 1})
		if letter := awaitDead(t, dead, 1)[0]; letter.Failure.Attempts != 20 || len(r.deliveries()) != 20 {
			t.Errorf("%d attempts, the dead letter tells of %d, want 20", len(r.deliveries()), letter.Failure.Attempts)
		}
	})
}

func TestD15_RejectedMessageIsDeadLettered(t *testing.T) {
	eachSystem(t, rejectedIsDead)
}

func rejectedIsDead(t *testing.T, s *system) {
	r := s.failing(t, worker.Config{Queue: "users", Retries: worker.Retries{Delays: []time.Duration{0}}}, func(d *worker.Delivery[[]byte]) error {
		switch d.Topic {
		case "user.error":
			return errNoLuck
		case "user.nack":
			return worker.Abort(nil)
		}
		panic("no luck")
	})
	dead := s.deadLetters(t, "users")
	s.startRelay(t, relay.Config{})
	s.emit(t, outbox.Event{Topic: "user.error", Payload: 1}, outbox.Event{Topic: "user.nack", Payload: 1}, outbox.Event{Topic: "user.panic", Payload: 1})
	want := map[string]string{"user.error": "2 no luck", "user.nack": "1 the handler aborted", "user.panic": "2 panic: no luck"}
	for _, d := range awaitDead(t, dead, 3) {
		if have := fmt.Sprintf("%d %s", d.Failure.Attempts, d.Failure.Reason); have != want[d.Topic] {
			t.Errorf("%s: %q, want %q", d.Topic, have, want[d.Topic])
		}
	}
	if n := len(r.deliveries()); n != 5 {
		t.Errorf("%d attempts, want 5", n)
	}
}

// TestD18_DeadLettersExistBeforeTheFirstMessage subscribes to them before the queue
// has had any.
func TestD18_DeadLettersExistBeforeTheFirstMessage(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		s.failing(t, worker.Config{Queue: "users"}, always(worker.Abort(errNoLuck)))
		if !s.hasDeadLetters(t, "users") {
			t.Error("there is no place for dead letters, and the worker consumes")
		}
		s.startRelay(t, relay.Config{})
		s.emit(t, outbox.Event{Topic: "user.created", Payload: 1})
		awaitDead(t, s.deadLetters(t, "users"), 1)
	})
}
