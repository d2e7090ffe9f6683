package rabbitmq

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	amqp "github.com/rabbitmq/amqp091-go"
)

func TestQueueWithOtherPropertiesIsReported(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	if _, err := rawChannel(t, address).QueueDeclare("q", true, false, false, false, amqp.Table{amqp.QueueTypeArg: "quorum"}); err != nil {
		t.Fatal(err)
	}
	err := subscribe(t, address, nil, all(1)).waitEnd()
	if err == nil || !strings.Contains(err.Error(), `declare queue "q"`) || !strings.Contains(err.Error(), "PRECONDITION_FAILED") {
		t.Errorf("Subscribe returned %v, want what is wrong with which queue", err)
	}
}

func TestExchangeWithOtherPropertiesIsReported(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	if err := rawChannel(t, address).ExchangeDeclare(DefaultExchange, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	err := subscribe(t, address, nil, all(1)).waitEnd()
	if err == nil || !strings.Contains(err.Error(), `declare exchange "outbox"`) {
		t.Errorf("Subscribe returned %v", err)
	}
	wantErr(t, publishOne(t, newPublisher(t, address, nil), testMessages("a", 1)[0]), outbox.ErrUnavailable, `declare exchange "outbox"`, "PRECONDITION_FAILED")
}

// The broker cancels the consumer when its queue is deleted.
func TestDeletedQueueIsDeclaredAgain(t *testing.T) {
	t.Parallel()
	for _, queueType := range []QueueType{Quorum, Classic} {
		t.Run(string(queueType), func(t *testing.T) {
			t.Parallel()
			address := testenv.RabbitMQ(t).NewVHost(t)
			in := subscribe(t, address, &SubscriberConfig{Connection: quick, QueueType: queueType}, all(1))
			in.waitReady()
			if _, err := rawChannel(t, address).QueueDelete("q", false, false, false); err != nil {
				t.Fatal(err)
			}
			in.waitReady()
			p := newPublisher(t, address, nil)
			if failed := publishAgain(t, p, testMessages("a", 1)); failed != nil {
				t.Fatal(failed)
			}
			if err := in.next().Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPrefetchBeyondAMQP(t *testing.T) {
	t.Parallel()
	s := newSubscriber(t, "amqp://localhost:1/", nil)
	if err := s.Subscribe(t.Context(), all(maxPrefetch+1), nil, nil); err == nil || !strings.Contains(err.Error(), "Prefetch") {
		t.Errorf("Subscribe returned %v, want a fault of Prefetch", err)
	}
}

func TestSubscribeAfterClose(t *testing.T) {
	t.Parallel()
	s := newSubscriber(t, "amqp://localhost:1/", nil)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Subscribe(t.Context(), all(1), nil, nil); !errors.Is(err, errSubscriberClosed) {
		t.Errorf("Subscribe returned %v, want %v", err, errSubscriberClosed)
	}
}

// A message that Subscribe waits for at its end is not lost with the connection.
func TestConnectionLostWhileEnding(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	proxy := testenv.NewProxy(t, server.Addr())
	address := server.NewVHost(t)
	in := subscribe(t, via(t, address, proxy), &SubscriberConfig{Connection: quick}, all(1))
	in.waitReady()
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", 1)); failed != nil {
		t.Fatal(failed)
	}
	r := in.next()
	in.end()
	proxy.Cut()
	other := subscribe(t, address, nil, all(1))
	if again := other.next(); again.ID != r.ID || again.Settle(outbox.Settlement{Outcome: outbox.Ack}) != nil {
		t.Errorf("got message %s", again.ID)
	}
	select {
	case err := <-in.ended:
		t.Fatalf("Subscribe returned %v while a message was not settled", err)
	default:
	}
	if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); !errors.Is(err, errStale) {
		t.Errorf("Settle returned %v, want %v", err, errStale)
	}
	if err := in.waitEnd(); err != nil {
		t.Errorf("Subscribe returned %v", err)
	}
}

func TestMessagesOfOtherSystems(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	in := subscribe(t, address, nil, all(10))
	in.waitReady()
	at := time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)
	err := rawChannel(t, address).Publish(DefaultExchange, "legacy.thing", true, false, amqp.Publishing{
		CorrelationId: "c-1", Timestamp: at, Type: "thing", Body: []byte("x"),
		Headers: amqp.Table{
			"int": int32(-7), "long": int64(1 << 40), "float": 1.5, "bool": true, "nil": nil, "time": at,
			"bytes": []byte("text"), "binary": []byte{0xff, 0}, "list": []any{"a", int64(1)},
			"table": amqp.Table{"k": "v"}, outbox.HeaderTopic: "real.topic", outbox.HeaderCreatedAt: "yesterday",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := in.next()
	if got.ID != "" || got.Topic != "real.topic" || got.Type != "thing" || !got.CreatedAt.Equal(at) || got.Redelivered {
		t.Errorf("got %+v", got)
	}
	want := map[string]string{
		"int": "-7", "long": "1099511627776", "float": "1.5", "bool": "true", "nil": "", "time": "2024-02-29T12:00:00Z",
		"bytes": "text", "binary": "/wA=", "list": `["a",1]`, "table": `{"k":"v"}`, outbox.HeaderCorrelationID: "c-1",
	}
	if fmt.Sprint(got.Headers) != fmt.Sprint(want) {
		t.Errorf("headers are\n%v, want\n%v", got.Headers, want)
	}
}

// Others read the properties, not our headers.
func TestPropertiesForOtherSystems(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	declared(t, address, nil)
	m := benchMessage(1)
	m.Headers[outbox.HeaderCorrelationID] = "c-1"
	if err := publishOne(t, newPublisher(t, address, nil), &m); err != nil {
		t.Fatal(err)
	}
	d, ok, err := rawChannel(t, address).Get("q", true)
	if err != nil || !ok {
		t.Fatalf("no message: %v", err)
	}
	if d.MessageId != m.ID || d.RoutingKey != m.Topic || d.Type != m.Type || d.ContentType != m.ContentType ||
		d.CorrelationId != "c-1" || d.DeliveryMode != amqp.Persistent || d.Timestamp.Unix() != m.CreatedAt.Unix() {
		t.Errorf("got %+v", d)
	}
	for name, want := range map[string]string{
		outbox.HeaderKey: m.Key, outbox.HeaderVersion: m.Version, outbox.HeaderCorrelationID: "c-1",
		outbox.HeaderTraceparent: m.Headers[outbox.HeaderTraceparent], outbox.HeaderCreatedAt: m.CreatedAt.Format(time.RFC3339Nano),
	} {
		if d.Headers[name] != want {
			t.Errorf("header %s is %v, want %q", name, d.Headers[name], want)
		}
	}
}

// newUser creates a user with the password "pw", without rights, and returns its name and
// the virtual host of the address.
func newUser(t *testing.T, server *testenv.RabbitMQServer, address string) (user, vhost string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	vhost = strings.TrimPrefix(u.Path, "/")
	user = "user-of-" + vhost
	server.Eval(fmt.Sprintf(`rabbit_auth_backend_internal:add_user(<<"%s">>, <<"pw">>, <<"t">>).`, user))
	t.Cleanup(func() {
		server.Eval(fmt.Sprintf(`rabbit_auth_backend_internal:delete_user(<<"%s">>, <<"t">>).`, user))
	})
	return user, vhost
}

func mustUser(t *testing.T, server *testenv.RabbitMQServer, address string) string {
	t.Helper()
	user, _ := newUser(t, server, address)
	return user
}
