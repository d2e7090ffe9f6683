package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/worker"
)

type user struct {
	Name string    `json:"name"`
	Age  int8      `json:"age"`
	Born time.Time `json:"born"`
}

type page[T any] struct {
	Items []T `json:"items"`
}

type rawKind []byte

// upper is a codec of the tests: it reads a string in upper case.
type upper struct{}

func (upper) ContentType() string        { return "text/upper" }
func (upper) Encode(any) ([]byte, error) { return nil, errors.ErrUnsupported }
func (upper) Decode(data []byte, v any) error {
	s, ok := v.(*string)
	if !ok {
		return fmt.Errorf("%T is no *string", v)
	}
	*s = strings.ToUpper(string(data))
	return nil
}

// decodeCase handles one message with a handler that takes a T.
func decodeCase[T any](contentType, payload string, want T) func(*testing.T) {
	return func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, worker.Config{Codecs: []outbox.Codec{upper{}}})
			var got []any
			worker.Handle(b.worker, "user.*", func(_ context.Context, d *worker.Delivery[T]) error {
				got = append(got, d.Payload)
				return nil
			})
			b.start()
			b.send(outbox.Message{ID: "1", Topic: "user.created", ContentType: contentType, Payload: []byte(payload)})
			synctest.Wait()
			b.endClean()
			if len(got) != 1 || !reflect.DeepEqual(got[0], any(want)) {
				t.Errorf("handled %#v, want %#v\n%s", got, want, b.log)
			}
		})
	}
}

func TestHandleDecodesByTypeAndContentType(t *testing.T) {
	t.Parallel()
	const userJSON = `{"name":"Ada","age":36}`
	ada := user{Name: "Ada", Age: 36}
	t.Run("struct", decodeCase("application/json", userJSON, ada))
	t.Run("struct, content type with parameter", decodeCase("application/json; charset=utf-8", userJSON, ada))
	t.Run("struct, JSON by suffix", decodeCase("application/vnd.user+json", userJSON, ada))
	t.Run("struct, no content type", decodeCase("", userJSON, ada))
	t.Run("pointer", decodeCase("application/json", userJSON, &ada))
	t.Run("type with parameter", decodeCase("application/json", `{"items":[`+userJSON+`]}`, page[user]{Items: []user{ada}}))
	t.Run("slice", decodeCase("application/json", `[1,2]`, []int{1, 2}))
	t.Run("map", decodeCase("application/json", userJSON, map[string]any{"name": "Ada", "age": 36.0}))
	t.Run("any", decodeCase[any]("application/json", userJSON, map[string]any{"name": "Ada", "age": 36.0}))
	t.Run("bytes", decodeCase("application/octet-stream", "\x00\xff", []byte("\x00\xff")))
	t.Run("bytes of JSON", decodeCase("application/json", `"YQ=="`, []byte(`"YQ=="`)))
	t.Run("bytes of an unknown content type", decodeCase("image/png", "png", []byte("png")))
	t.Run("named bytes", decodeCase("application/json", `"YQ=="`, rawKind(`"YQ=="`)))
	t.Run("raw JSON", decodeCase("application/json", `{ "a": 1 }`, json.RawMessage(`{ "a": 1 }`)))
	t.Run("JSON string", decodeCase("application/json", `"a"`, "a"))
	t.Run("string of bytes", decodeCase("application/octet-stream", `"a"`, `"a"`))
	t.Run("codec of the configuration", decodeCase("text/upper", "a", "A"))
}

func TestDeliveryHasTheMetadata(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{})
		var got *worker.Delivery[user]
		worker.Handle(b.worker, "user.#", func(_ context.Context, d *worker.Delivery[user]) error {
			got = d
			return nil
		})
		b.start()
		created := time.Now().Add(-time.Minute).UTC()
		want := worker.Metadata{
			ID: "not a UUID", Topic: "user.created", Key: "k", Tenant: "t", Type: "User", Version: "2",
			ContentType: "application/json", Headers: map[string]string{"correlation-id": "c", "causation-id": "m"}, CreatedAt: created,
			Attempt: 1, CorrelationID: "c", CausationID: "m", Queue: queueName, Handler: "user.#",
		}
		b.send(outbox.Message{
			ID: want.ID, Topic: want.Topic, Key: want.Key, Tenant: want.Tenant, Type: want.Type, Version: want.Version,
			ContentType: want.ContentType, Headers: want.Headers, CreatedAt: created, Payload: []byte(`{"name":"Ada"}`),
		})
		synctest.Wait()
		b.endClean()
		want.ReceivedAt = got.ReceivedAt
		if !reflect.DeepEqual(got.Metadata, want) || got.Payload.Name != "Ada" {
			t.Errorf("delivery %+v, want %+v with Ada", *got, want)
		}
		if d := time.Since(got.ReceivedAt); d < 0 || d > time.Minute {
			t.Errorf("received %s ago", d)
		}
	})
}

func TestMessageGoesToTheMostSpecificHandler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{Concurrency: 1})
		var got record
		for _, pattern := range []string{"#", "user.*", "user.created", "user.#"} {
			worker.Handle(b.worker, pattern, func(_ context.Context, d *worker.Delivery[[]byte]) error {
				got.add(d.Topic + " to " + pattern)
				return nil
			})
		}
		b.start()
		for _, topic := range []string{"user.created", "user.deleted", "user.created.v1", "order.paid"} {
			b.send(text("1", topic, ""))
		}
		synctest.Wait()
		b.endClean()
		want := []string{"user.created to user.created", "user.deleted to user.*", "user.created.v1 to user.#", "order.paid to #"}
		if !slices.Equal(got.all(), want) {
			t.Errorf("got %q, want %q", got.all(), want)
		}
	})
}

type adult struct{ Age int }

func (a *adult) Validate() error {
	if a.Age < 18 {
		return errors.New("too young")
	}
	return nil
}

type even int

func (e even) Validate() error {
	if e%2 != 0 {
		return errors.New("odd")
	}
	return nil
}

// failureCase sends one message that fails before its handler runs, then a good
// one, and wants the first one with the dead letters.
func failureCase[T any](contentType, bad, good, reason string) func(*testing.T) {
	return func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, worker.Config{Concurrency: 1})
			var got record
			worker.Handle(b.worker, "topic", func(_ context.Context, d *worker.Delivery[T]) error {
				got.add(d.ID)
				return nil
			})
			b.start()
			b.send(outbox.Message{ID: "bad", Topic: "topic", ContentType: contentType, Payload: []byte(bad)})
			b.send(outbox.Message{ID: "good", Topic: "topic", ContentType: "application/json", Payload: []byte(good)})
			synctest.Wait()
			b.endClean()
			if !slices.Equal(got.all(), []string{"good"}) || len(b.left()) != 0 {
				t.Errorf("handled %q, left %q; want the good one handled and none left", got.all(), b.left())
			}
			dead := b.broker.DeadLetters(queueName)
			if len(dead) != 1 || dead[0].Message.ID != "bad" || dead[0].Failure.Attempts != 1 || dead[0].Failure.Handler != "topic" ||
				!strings.Contains(strings.ReplaceAll(fmt.Sprintf("%q", dead[0].Failure.Reason), `\\`, `\`), reason) {
				t.Errorf("dead letters %+v, want the bad one with %q", dead, reason)
			}
			log := b.log.String()
			if strings.Count(log, "message failed") != 1 || !strings.Contains(log, "id=bad topic=topic") || !strings.Contains(log, reason) {
				t.Errorf("the log does not tell once of the id, the topic and %q:\n%s", reason, log)
			}
			if strings.Contains(log, "8472") {
				t.Errorf("the log has a piece of the payload:\n%s", log)
			}
		})
	}
}

func TestUndecodableMessageDoesNotStopTheWorker(t *testing.T) {
	t.Parallel()
	const json = "application/json"
	t.Run("no JSON", failureCase[user](json, `8472"`, `{}`, "decode application/json as worker_test.user"))
	t.Run("a wrong type", failureCase[user](json, `{"name":8472}`, `{}`, "JSON number at byte"))
	t.Run("too large a number", failureCase[user](json, `{"age":8472}`, `{}`, "does not fit Go type int8"))
	t.Run("a wrong time", failureCase[user](json, `{"born":"8472"}`, `{}`, "a time is not of the form"))
	t.Run("no codec", failureCase[user]("text/plain", `{}`, `{}`, `no codec for content type \"text/plain\"`))
	t.Run("a broken content type", failureCase[user](";;", `{}`, `{}`, "no codec"))
	t.Run("bytes into a struct", failureCase[user]("application/octet-stream", `{}`, `{}`, "neither *[]byte nor *string"))
	t.Run("empty", failureCase[user](json, ``, `{}`, "unexpected end of JSON input"))
	t.Run("Validate of *T", failureCase[adult](json, `{"Age":17}`, `{"Age":18}`, "validate worker_test.adult: too young"))
	t.Run("Validate of T", failureCase[even](json, `3`, `4`, "odd"))
	t.Run("Validate of a pointer", failureCase[*adult](json, `{"Age":17}`, `{"Age":18}`, "too young"))
	t.Run("null with Validate", failureCase[*adult](json, `null`, `{"Age":18}`, "the payload is null"))
}

func TestTopicWithoutHandlerDoesNotStopTheWorker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, worker.Config{})
		var got record
		worker.Handle(b.worker, "user.*", func(_ context.Context, d *worker.Delivery[[]byte]) error {
			got.add(d.ID)
			return nil
		})
		b.broker.Declare(queueName, "order.*") // by an earlier version of the service
		b.start()
		b.send(text("1", "order.paid", "k"))
		b.send(text("2", "user.created", ""))
		synctest.Wait()
		b.endClean()
		if dead := b.broker.DeadLetters(queueName); !slices.Equal(got.all(), []string{"2"}) || len(dead) != 1 || dead[0].Message.ID != "1" {
			t.Errorf("handled %q, dead %+v", got.all(), dead)
		}
		if log := b.log.String(); !strings.Contains(log, "id=1 topic=order.paid") || !strings.Contains(log, "no handler's pattern matches") {
			t.Errorf("log:\n%s", log)
		}
	})
}
