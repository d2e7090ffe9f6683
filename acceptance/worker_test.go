package acceptance

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/worker"
)

func TestK07_WildcardTopics(t *testing.T) {
	topics := []string{"user.created", "user.address.changed", "user", "order.created", "users.created", "my.user.created"}
	want := map[string][]string{
		"user.*":       {"user.created"},
		"user.#":       {"user", "user.address.changed", "user.created"},
		"*.created":    {"order.created", "user.created", "users.created"},
		"user.created": {"user.created"},
		"#":            slices.Sorted(slices.Values(topics)),
	}
	eachSystem(t, func(t *testing.T, s *system) {
		recorders := map[string]*recorder{}
		for pattern := range want {
			recorders[pattern] = startWorker(t, s.subscriber(t), fmt.Sprintf("queue-%d", len(recorders)), pattern, "end")
		}
		s.startRelay(t, relay.Config{})
		// One key, so that the end comes last; twice, to see each more than once.
		must(t, s.inTx(func(tx transaction) error {
			for _, topic := range append(slices.Concat(topics, topics), "end") {
				if err := tx.emit(outbox.Event{Topic: topic, Key: "a", Payload: []byte(topic)}); err != nil {
					return err
				}
			}
			return nil
		}))
		for pattern, r := range recorders {
			var got []string
			for _, d := range r.await(2*len(want[pattern]) + 1) {
				if d.Topic != string(d.Payload) {
					t.Errorf("%s: the handler sees the topic %q of a message to %q", pattern, d.Topic, d.Payload)
				}
				got = append(got, d.Topic)
			}
			slices.Sort(got)
			if wanted := slices.Sorted(slices.Values(append(slices.Concat(want[pattern], want[pattern]), "end"))); !slices.Equal(got, wanted) {
				t.Errorf("%s: got %q, want %q", pattern, got, wanted)
			}
		}
	})
}

type user struct {
	Name string    `json:"name"`
	Age  int       `json:"age"`
	Tags []string  `json:"tags"`
	At   time.Time `json:"at"`
}

// typed gathers what handlers of different types got, by topic.
type typed struct {
	mu   sync.Mutex
	got  map[string][]any
	all  chan struct{}
	left int
}

// record returns a handler that takes a T.
func record[T any](r *typed) func(context.Context, *worker.Delivery[T]) error {
	return func(_ context.Context, d *worker.Delivery[T]) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got[d.Topic] = append(r.got[d.Topic], d.Payload)
		if r.left--; r.left == 0 {
			close(r.all)
		}
		return nil
	}
}

func TestK08_HandlerTypes(t *testing.T) {
	u := user{Name: "Ünal <&>", Age: 42, Tags: []string{"a", "b"}, At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}
	const text = `{"name":"Ünal <&>","age":42,"tags":["a","b"],"at":"2026-01-02T03:04:05.000000006Z"}`
	raw := []byte{0, 1, 0xff, '"'}
	events := []outbox.Event{
		{Topic: "struct", Payload: u},
		{Topic: "pointer", Payload: &u},
		{Topic: "generic", Payload: u},
		{Topic: "generic.list", Payload: []int{1, 2}},
		{Topic: "json.as.bytes", Payload: u},
		{Topic: "bytes", Payload: raw},
		{Topic: "text", ContentType: outbox.ContentTypeBytes, Payload: "plain"},
		{Topic: "suffix", ContentType: "application/vnd.user+json; charset=utf-8", Payload: []byte(text)},
	}
	generic := map[string]any{"name": u.Name, "age": 42.0, "tags": []any{"a", "b"}, "at": "2026-01-02T03:04:05.000000006Z"}
	want := map[string][]any{
		"struct": {u}, "pointer": {&u}, "generic": {generic}, "generic.list": {[]any{1.0, 2.0}}, "json.as.bytes": {[]byte(text)},
		"bytes": {raw}, "text": {"plain"}, "suffix": {u},
	}
	eachSystem(t, func(t *testing.T, s *system) {
		r := &typed{got: map[string][]any{}, all: make(chan struct{}), left: len(events)}
		w := worker.New(s.subscriber(t), &worker.Config{Queue: "types", Logger: quiet()})
		worker.Handle(w, "struct", record[user](r))
		worker.Handle(w, "pointer", record[*user](r))
		worker.Handle(w, "generic.#", record[any](r))
		worker.Handle(w, "json.as.bytes", record[[]byte](r))
		worker.Handle(w, "bytes", record[[]byte](r))
		worker.Handle(w, "text", record[string](r)) // by its content type: JSON would not do
		worker.Handle(w, "suffix", record[user](r))
		runWorker(t, w)
		s.startRelay(t, relay.Config{})
		must(t, s.inTx(func(tx transaction) error { return tx.emit(events...) }))
		select {
		case <-r.all:
		case <-time.After(patience):
			t.Errorf("not all messages were handled within %v", patience)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if !reflect.DeepEqual(r.got, want) {
			t.Errorf("handlers got\n%#v, want\n%#v", r.got, want)
		}
	})
}
