package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/codec/msgpack"
	"github.com/outbox-go/outbox/codec/protobuf"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/worker"
)

// chain runs a worker whose handler of "request.*" emits "reply.sent" in turn, and
// that one's "done", and returns what came, by topic.
func chain(t *testing.T, s *system, first outbox.Event) map[string]delivery {
	t.Helper()
	r := newRecorder(t)
	w := s.newWorker(t, worker.Config{Queue: "chain"})
	next := map[string]string{"request.made": "reply.sent", "reply.sent": "done"}
	s.handleTx(w, "#", func(ctx context.Context, tx transaction, d *worker.Delivery[order]) error {
		if next[d.Topic] == "" {
			return nil
		}
		return tx.emitWith(ctx, outbox.Event{Topic: next[d.Topic], Payload: order{}})
	}, worker.WithMiddleware(func(next worker.Handler) worker.Handler {
		return func(ctx context.Context, d *worker.Delivery[[]byte]) error {
			err := next(ctx, d)
			if err == nil {
				err = r.handle(ctx, d)
			}
			return err
		}
	}))
	runWorker(t, w)
	s.startRelay(t, relay.Config{})
	s.emit(t, first)
	byTopic := map[string]delivery{}
	for _, d := range r.await(3) {
		byTopic[d.Topic] = d
	}
	return byTopic
}

func TestK17_HandlerThatEmitsContinuesTheChain(t *testing.T) {
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	eachSystem(t, func(t *testing.T, s *system) {
		got := chain(t, s, outbox.Event{Topic: "request.made", Payload: order{}, Headers: map[string]string{
			"correlation-id": "c", "traceparent": trace, "tracestate": "a=1",
		}})
		for topic, cause := range map[string]string{"request.made": "", "reply.sent": "request.made", "done": "reply.sent"} {
			d := got[topic]
			if d.CorrelationID != "c" || d.CausationID != got[cause].ID {
				t.Errorf("%s: correlation id %q, causation id %q, want c and that of %q, %q", topic, d.CorrelationID, d.CausationID, cause, got[cause].ID)
			}
			if d.Headers["traceparent"] != trace || d.Headers["tracestate"] != "a=1" {
				t.Errorf("%s: trace %q %q", topic, d.Headers["traceparent"], d.Headers["tracestate"])
			}
		}
	})
}

func TestD07_CorrelationID(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		// From a request, by its context.
		var event outbox.Event
		request := outbox.WithCorrelationID(context.Background(), "request-1")
		r := newRecorder(t)
		w := s.newWorker(t, worker.Config{Queue: "requests"})
		worker.Handle(w, "from.request", r.handle)
		runWorker(t, w)
		// Made where there is none, and carried on.
		event = outbox.Event{Topic: "request.made", Payload: order{}}
		got := chain(t, s, event)
		first := got["request.made"]
		if first.CorrelationID == "" || first.CorrelationID != first.ID {
			t.Errorf("the first has the correlation id %q, want its own, %s", first.CorrelationID, first.ID)
		}
		for _, topic := range []string{"reply.sent", "done"} {
			if id := got[topic].CorrelationID; id != first.CorrelationID || got[topic].Headers["correlation-id"] != id {
				t.Errorf("%s has the correlation id %q, want %q", topic, id, first.CorrelationID)
			}
		}
		must(t, s.inTx(func(tx transaction) error {
			return tx.emitWith(request, outbox.Event{Topic: "from.request", Payload: order{}})
		}))
		if d := r.await(1)[0]; d.CorrelationID != "request-1" {
			t.Errorf("correlation id %q, want that of the request", d.CorrelationID)
		}
	})
}

// prepareBacklog declares a queue and leaves n messages in it, with the keys "0"
// and so on.
func (s *system) prepareBacklog(t testing.TB, queue string, n int) {
	t.Helper()
	w := s.newWorker(t, worker.Config{Queue: queue})
	worker.Handle(w, "#", func(context.Context, *worker.Delivery[[]byte]) error { return nil })
	runWorker(t, w)()
	msgs := make([]outbox.Message, n)
	for i := range msgs {
		msgs[i] = outbox.Message{ID: fmt.Sprint("m", i), Topic: "a", Key: fmt.Sprint(i), ContentType: outbox.ContentTypeBytes}
	}
	s.send(t, msgs...)
}

// rest consumes what is left in a queue and returns the keys, sorted.
func (s *system) rest(t testing.TB, queue string, n int) []string {
	t.Helper()
	r := newRecorder(t)
	w := s.newWorker(t, worker.Config{Queue: queue})
	worker.Handle(w, "#", r.handle)
	stop := runWorker(t, w)
	r.await(n)
	stop()
	var keys []string
	for _, d := range r.deliveries() {
		if d.Attempt != 1 {
			t.Errorf("message %s is at its attempt %d: being given back counts as none", d.Key, d.Attempt)
		}
		keys = append(keys, d.Key)
	}
	slices.Sort(keys)
	return keys
}

func TestK24_SIGTERMWhileAHandlerRuns(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		s.prepareBacklog(t, "jobs", 5)
		p := s.startWorkerProcess(t, workerChild{Queue: "jobs", Hold: 500 * time.Millisecond})
		p.await(t, "begin 0")
		must(t, p.cmd.Process.Signal(syscall.SIGTERM))
		if rest := p.awaitEnd(t); !slices.Equal(rest, []string{"end 0"}) || !p.cmd.ProcessState.Success() {
			t.Errorf("after SIGTERM the process did %q and %v, want to finish message 0", rest, p.cmd.ProcessState)
		}
		if got := s.rest(t, "jobs", 4); !slices.Equal(got, []string{"1", "2", "3", "4"}) {
			t.Errorf("left %q, want 1 to 4", got)
		}
	})
}

func TestK25_WorkerKilledWhileAHandlerRuns(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		s.prepareBacklog(t, "jobs", 3)
		p := s.startWorkerProcess(t, workerChild{Queue: "jobs", Hold: time.Hour})
		p.await(t, "begin 0")
		time.Sleep(200 * time.Millisecond) // an acknowledgement that comes too early gets the time to be sent
		p.kill()
		if got := s.rest(t, "jobs", 3); !slices.Equal(got, []string{"0", "1", "2"}) {
			t.Errorf("left %q, want 0 to 2", got)
		}
	})
}

func TestD20_SecondSignalEndsAtOnce(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		s.prepareBacklog(t, "jobs", 3)
		p := s.startWorkerProcess(t, workerChild{Queue: "jobs", Hold: time.Hour, ShutdownTimeout: time.Hour})
		p.await(t, "begin 0")
		must(t, p.cmd.Process.Signal(syscall.SIGTERM))
		// Once the first signal has done its work, the others are given back.
		if got := s.rest(t, "jobs", 2); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("given back %q, want 1 and 2", got)
		}
		must(t, p.cmd.Process.Signal(syscall.SIGTERM))
		if rest := p.awaitEnd(t); len(rest) != 0 || p.cmd.ProcessState.Success() {
			t.Errorf("after the second signal the process did %q and %v", rest, p.cmd.ProcessState)
		}
		if got := s.rest(t, "jobs", 1); !slices.Equal(got, []string{"0"}) {
			t.Errorf("left %q, want 0", got)
		}
	})
}

// TestD20_ShutdownTimeout: what has not finished within the time-out comes again.
func TestD20_ShutdownTimeout(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		s.prepareBacklog(t, "jobs", 1)
		began := make(chan struct{})
		w := s.newWorker(t, worker.Config{Queue: "jobs", ShutdownTimeout: 100 * time.Millisecond})
		worker.Handle(w, "#", func(ctx context.Context, _ *worker.Delivery[[]byte]) error {
			close(began)
			<-ctx.Done()
			return ctx.Err()
		})
		stop := runWorker(t, w)
		<-began
		stop()
		if got := s.rest(t, "jobs", 1); !slices.Equal(got, []string{"0"}) {
			t.Errorf("left %q, want 0", got)
		}
	})
}

// TestD16_HandlerThatSettlesNothing ends its goroutine: there is no other way to
// return without an outcome.
func TestD16_HandlerThatSettlesNothing(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		var log lockedBuffer
		w := worker.New(s.subscriber(t), &worker.Config{Queue: "jobs", Logger: slog.New(slog.NewTextHandler(&log, nil)), Retries: worker.Retries{Off: true}})
		worker.Handle(w, "a", func(context.Context, *worker.Delivery[[]byte]) error {
			runtime.Goexit()
			return nil
		})
		ended := handleEnd(w)
		stop := runWorker(t, w)
		dead := s.deadLetters(t, "jobs")
		s.send(t, outbox.Message{ID: "1", Topic: "a"})
		if letter := awaitDead(t, dead, 1)[0]; !strings.Contains(letter.Failure.Reason, "without an outcome") {
			t.Errorf("reason %q", letter.Failure.Reason)
		}
		s.end(t, ended)
		stop()
		if !strings.Contains(log.String(), "without an outcome") {
			t.Errorf("the log has no warning:\n%s", log.String())
		}
	})
}

func TestD17_PayloadThatIsNoJSON(t *testing.T) {
	raw := []byte{0, 0xff, '{', '\n'}
	eachSystem(t, func(t *testing.T, s *system) {
		r := startWorker(t, s.subscriber(t), "jobs", "#")
		s.send(t,
			outbox.Message{ID: "1", Topic: "a", ContentType: outbox.ContentTypeJSON, Payload: raw},
			outbox.Message{ID: "2", Topic: "a", Payload: raw},
		)
		for _, d := range r.await(2) {
			if !reflect.DeepEqual(d.Payload, raw) {
				t.Errorf("message %s arrived as %q, want %q", d.ID, d.Payload, raw)
			}
		}
	})
}

// TestD21_HandlerSlowerThanTheHeartBeat holds messages for longer than the broker
// waits for a sign of life. A second worker stands by, to which the broker would
// deliver them.
func TestD21_HandlerSlowerThanTheHeartBeat(t *testing.T) {
	eachSystem(t, slowerThanTheHeartBeat)
}

func slowerThanTheHeartBeat(t *testing.T, s *system) {
	w := worker.New(s.shortHeartBeat(t), &worker.Config{Queue: "jobs", Concurrency: 2, Prefetch: 2, Logger: quiet()})
	r, begun := newRecorder(t), make(chan struct{}, 10)
	worker.Handle(w, "a", func(ctx context.Context, d *worker.Delivery[[]byte]) error {
		begun <- struct{}{}
		time.Sleep(4 * time.Second)
		return r.handle(ctx, d)
	})
	stop := runWorker(t, w)
	s.send(t, outbox.Message{ID: "1", Topic: "a"}, outbox.Message{ID: "2", Topic: "a"})
	<-begun
	<-begun
	second := newRecorder(t)
	w = worker.New(s.shortHeartBeat(t), &worker.Config{Queue: "jobs", Logger: quiet()})
	worker.Handle(w, "a", second.handle)
	ended := handleEnd(w)
	runWorker(t, w)
	r.await(2)
	stop() // so that the last message goes to the second worker
	s.end(t, ended)
	if n, again := len(r.deliveries()), len(second.deliveries()); n != 2 || again != 0 {
		t.Errorf("%d deliveries to the first worker and %d to the second, want 2 and none", n, again)
	}
	for _, d := range r.deliveries() {
		if d.Redelivered {
			t.Errorf("message %s was delivered before", d.ID)
		}
	}
}

// mailer is what a handler needs: a dependency, typed, without a global.
type mailer struct{ sent chan any }

func (m *mailer) welcome(_ context.Context, d *worker.Delivery[user]) error {
	d.Payload.At = d.Payload.At.UTC() // the same instant
	m.sent <- d.Payload
	return nil
}

func TestK27_CodecsAndDependencies(t *testing.T) {
	u := user{Name: "Ünal", Age: 42, Tags: []string{"a"}, At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}
	raw := []byte{0, 0xff}
	codecs := []outbox.Codec{msgpack.Codec, protobuf.Codec}
	events := []outbox.Event{
		{Topic: "json", Payload: u},
		{Topic: "msgpack", ContentType: msgpack.ContentType, Payload: u},
		{Topic: "protobuf", ContentType: protobuf.ContentType, Payload: wrapperspb.Bytes(raw)},
		{Topic: "bytes", Payload: raw},
	}
	eachSystem(t, func(t *testing.T, s *system) {
		m := &mailer{make(chan any, 10)}
		w := s.newWorker(t, worker.Config{Queue: "mails", Codecs: codecs})
		worker.Handle(w, "json", m.welcome)
		worker.Handle(w, "msgpack", m.welcome)
		var onTheWire []byte
		worker.Handle(w, "protobuf", func(_ context.Context, d *worker.Delivery[*wrapperspb.BytesValue]) error {
			m.sent <- d.Payload.GetValue()
			return nil
		}, worker.WithMiddleware(func(next worker.Handler) worker.Handler {
			return func(ctx context.Context, d *worker.Delivery[[]byte]) error {
				onTheWire = slices.Clone(d.Payload)
				return next(ctx, d)
			}
		}))
		worker.Handle(w, "bytes", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			m.sent <- slices.Clone(d.Payload)
			return nil
		})
		runWorker(t, w)
		s.startRelay(t, relay.Config{})
		msgs, err := outbox.New[any](nil, outbox.WithCodecs(codecs...)).Prepare(t.Context(), events...)
		must(t, err)
		encoded := make([]outbox.Event, len(msgs))
		for i, m := range msgs {
			encoded[i] = outbox.Event{Topic: m.Topic, ContentType: m.ContentType, Payload: m.Payload}
		}
		s.emit(t, encoded...)
		var users, bytes int
		for range events {
			select {
			case got := <-m.sent:
				switch {
				case reflect.DeepEqual(got, u):
					users++
				case reflect.DeepEqual(got, raw):
					bytes++
				default:
					t.Errorf("a handler got %#v", got)
				}
			case <-time.After(patience):
				t.Fatal("not all messages were handled")
			}
		}
		if users != 2 || bytes != 2 {
			t.Errorf("%d users and %d bytes, want 2 each", users, bytes)
		}
		if want := append([]byte{0x0a, 2}, raw...); !slices.Equal(onTheWire, want) {
			t.Errorf("protobuf travelled as %x, want %x", onTheWire, want)
		}
	})
}

func TestP04_PayloadsRoundTrip(t *testing.T) {
	event := `{"specversion":"1.0","id":"1","source":"/shop","type":"order.placed","data":{"total":12.50,"note":"<&>"}}`
	events := []outbox.Event{
		{Topic: "typed", Payload: user{Name: "Ada", At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}},
		{Topic: "cloudevent", ContentType: "application/cloudevents+json", Payload: json.RawMessage(event)},
		{Topic: "json", Payload: json.RawMessage(`{ "b": 1,  "a": [1.0, 1e3] }`)},
	}
	eachSystem(t, func(t *testing.T, s *system) {
		r := startWorker(t, s.subscriber(t), "all", "#")
		typed := make(chan user, 1)
		w := s.newWorker(t, worker.Config{Queue: "typed"})
		worker.Handle(w, "typed", func(_ context.Context, d *worker.Delivery[user]) error {
			typed <- d.Payload
			return nil
		})
		runWorker(t, w)
		s.startRelay(t, relay.Config{})
		s.emit(t, events...)
		want := map[string]string{"cloudevent": event, "json": `{ "b": 1,  "a": [1.0, 1e3] }`}
		for _, d := range r.await(3) {
			if text := want[d.Topic]; text != "" && string(d.Payload) != text {
				t.Errorf("%s arrived as %s, want %s", d.Topic, d.Payload, text)
			}
			if d.Topic == "cloudevent" && d.ContentType != "application/cloudevents+json" {
				t.Errorf("content type %q", d.ContentType)
			}
		}
		if got := <-typed; !reflect.DeepEqual(got, events[0].Payload) {
			t.Errorf("the typed payload arrived as %+v", got)
		}
	})
}
