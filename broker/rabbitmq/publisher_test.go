package rabbitmq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	amqp "github.com/rabbitmq/amqp091-go"
)

func TestUnroutableMessageAloneIsRefused(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	in := subscribe(t, address, nil, outbox.Subscription{Queue: "q", Topics: []string{"known"}, Prefetch: 10})
	in.waitReady()
	p := newPublisher(t, address, nil)
	msgs := testMessages("known", 1001)
	const lost = 500
	for range 3 {
		msgs[lost].Topic = "unknown"
		for i, o := range publishAsync(t, p, 1001, msgs) {
			switch {
			case i == lost:
				wantErr(t, o.err, outbox.ErrRefused, "unroutable", `"unknown"`, "NO_ROUTE")
			case o.err != nil:
				t.Fatalf("message %d: %v", i, o.err)
			}
		}
	}
}

func TestUnroutableMessagesAreAccepted(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, testenv.RabbitMQ(t).NewVHost(t), &PublisherConfig{Unroutable: Accept})
	for _, o := range publishAsync(t, p, 100, testMessages("nobody.cares", 100)) {
		if o.err != nil {
			t.Fatal(o.err)
		}
	}
}

// A window in which every message comes back is what the channel of returns must
// have room for.
func TestUnroutableWindow(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, testenv.RabbitMQ(t).NewVHost(t), nil)
	for _, o := range publishAsync(t, p, 2*maxUnanswered, testMessages("nobody.cares", 2*maxUnanswered)) {
		wantErr(t, o.err, outbox.ErrRefused, "unroutable")
	}
}

// One id can be published again before it is answered, and a return must not be
// taken for that of the other.
func TestSameIDTwiceInTheWindow(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	in := subscribe(t, address, nil, outbox.Subscription{Queue: "q", Topics: []string{"known"}, Prefetch: 10})
	in.waitReady()
	p := newPublisher(t, address, nil)
	msgs := testMessages("known", 10)
	for i, m := range msgs {
		m.ID = []string{"", "same"}[i/5]
		if i%2 == 1 {
			m.Topic = "unknown"
		}
	}
	for i, o := range publishAsync(t, p, 10, msgs) {
		if refused := errors.Is(o.err, outbox.ErrRefused); refused != (i%2 == 1) {
			t.Errorf("message %d to %q: %v", i, o.m.Topic, o.err)
		}
	}
}

func TestFullQueueRefuses(t *testing.T) {
	t.Parallel()
	for _, queueType := range []QueueType{Quorum, Classic} {
		t.Run(string(queueType), func(t *testing.T) {
			t.Parallel()
			address := testenv.RabbitMQ(t).NewVHost(t)
			declared(t, address, &SubscriberConfig{QueueType: queueType, QueueArguments: map[string]any{
				amqp.QueueMaxLenArg: 100, amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish,
			}})
			p := newPublisher(t, address, nil)
			refused := 0
			for _, o := range publishAsync(t, p, 1000, testMessages("a", 2000)) {
				if o.err != nil {
					wantErr(t, o.err, outbox.ErrRefused, "basic.nack")
					refused++
				}
			}
			if refused == 0 {
				t.Error("no message was refused")
			}
		})
	}
}

// The broker closes the channel because of one message of the window: replayed as
// a relay does it, that one is refused, and all others are confirmed.
func TestPoisonMessageAloneIsRefused(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	declared(t, address, nil)
	p := newPublisher(t, address, nil)
	const poison = "a-00500"
	p.expire = func(m *outbox.Message) string {
		if m.ID == poison {
			return "abc"
		}
		return ""
	}
	first := publishAsync(t, p, 1000, testMessages("a", 1000))
	var again []*outbox.Message
	for _, o := range first {
		if o.err != nil {
			wantErr(t, o.err, outbox.ErrUnavailable)
			again = append(again, o.m)
		}
		if o.m.ID == poison {
			wantErr(t, o.err, ErrReplay, "invalid expiration")
		}
	}
	failed := publishAgain(t, p, again)
	if len(failed) != 1 || failed[0].m.ID != poison {
		t.Fatalf("not confirmed were %v, want the poison message alone", failed)
	}
	wantErr(t, failed[0].err, outbox.ErrRefused, "invalid expiration")
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.suspects.any() {
		t.Errorf("%d messages are suspects after all were answered", len(p.suspects.ids))
	}
}

func TestPayloadAboveTheBrokersLimitIsInvalid(t *testing.T) {
	t.Parallel()
	server := testenv.StartRabbitMQ(t, &testenv.RabbitMQOptions{Config: "max_message_size = 100000\n"})
	address := server.NewVHost(t)
	declared(t, address, nil)
	p := newPublisher(t, address, nil)
	msgs := testMessages("a", 3)
	msgs[0].Payload = make([]byte, 100_001)
	msgs[1].Payload = make([]byte, 200_000)
	wantErr(t, publishOne(t, p, msgs[0]), outbox.ErrInvalid, "100001", "100000")
	if failed := publishAgain(t, p, msgs[2:]); failed != nil {
		t.Fatal(failed)
	}
	// It does not cost the channel again.
	session := currentSession(p)
	wantErr(t, publishOne(t, p, msgs[1]), outbox.ErrInvalid, "200000", "max_message_size", "100000")
	if currentSession(p) != session {
		t.Error("the channel was opened again")
	}
}

func TestPropertiesThatDoNotFitAreInvalid(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	declared(t, address, nil)
	p := newPublisher(t, address, nil)
	long := strings.Repeat("x", 256)
	msgs := testMessages("a", 7)
	msgs[1].Headers = map[string]string{"large": strings.Repeat("x", 200_000)}
	msgs[2].ID = long
	msgs[3].Topic = long
	msgs[4].ContentType = long
	msgs[5].Headers = map[string]string{long: ""}
	for i, o := range publishAsync(t, p, 10, msgs) {
		if i >= 1 && i <= 5 {
			wantErr(t, o.err, outbox.ErrInvalid)
		} else if o.err != nil {
			t.Errorf("message %d: %v", i, o.err)
		}
	}
}

func TestPropertiesAsLargeAsAFrame(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	in := subscribe(t, address, nil, all(1))
	in.waitReady()
	p := newPublisher(t, address, nil)
	m := testMessages("a", 1)[0]
	m.Headers = map[string]string{"x": ""}
	if err := publishOne(t, p, m); err != nil {
		t.Fatal(err)
	}
	_ = in.next().Settle(outbox.Settlement{Outcome: outbox.Ack})
	room := currentSession(p).maxProperties - propertiesSize(m)
	m.Headers["x"] = strings.Repeat("v", room)
	if err := publishOne(t, p, m); err != nil {
		t.Fatal(err)
	}
	if got := len(in.next().Headers["x"]); got != room {
		t.Errorf("header has %d bytes, want %d", got, room)
	}
}

func TestCheckOnlyNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	p := newPublisher(t, address, &PublisherConfig{Topology: CheckOnly, Exchange: "orders"})
	err := publishOne(t, p, testMessages("a", 1)[0])
	wantErr(t, err, outbox.ErrUnavailable, `exchange "orders"`)
	wantErr(t, err, ErrMissing)

	config := &SubscriberConfig{Topology: CheckOnly, Exchange: "orders"}
	wantErr(t, subscribe(t, address, config, all(1)).waitEnd(), ErrMissing, `exchange "orders"`)
	ch := rawChannel(t, address)
	if err := ch.ExchangeDeclare("orders", amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	wantErr(t, subscribe(t, address, config, all(1)).waitEnd(), ErrMissing, `queue "q"`)

	// What is missing may be there later: a publisher goes on looking.
	err = fmt.Errorf("not yet: %w", outbox.ErrUnavailable)
	for deadline := time.Now().Add(patience); errors.Is(err, outbox.ErrUnavailable) && time.Now().Before(deadline); {
		err = publishOne(t, p, testMessages("a", 1)[0])
	}
	wantErr(t, err, outbox.ErrRefused, "unroutable")
}

// With rights to neither configure nor, for the publisher, read.
func TestCheckOnlyNeedsNoRightToConfigure(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	address := server.NewVHost(t)
	declared(t, address, nil)
	user, vhost := newUser(t, server, address)
	server.Eval(fmt.Sprintf(`rabbit_auth_backend_internal:set_permissions(<<"%s">>, <<"%s">>, <<"">>, <<".*">>, <<".*">>, <<"t">>).`, user, vhost))
	address = withUser(t, address, user, "pw")

	wantErr(t, publishOne(t, newPublisher(t, address, nil), testMessages("a", 1)[0]), outbox.ErrUnavailable, "declare exchange", "ACCESS_REFUSED")
	if err := subscribe(t, address, nil, all(1)).waitEnd(); err == nil || !strings.Contains(err.Error(), "ACCESS_REFUSED") {
		t.Errorf("Subscribe returned %v, want ACCESS_REFUSED", err)
	}
	p := newPublisher(t, address, &PublisherConfig{Topology: CheckOnly})
	if err := publishOne(t, p, testMessages("a", 1)[0]); err != nil {
		t.Fatal(err)
	}
	in := subscribe(t, address, &SubscriberConfig{Topology: CheckOnly}, all(1))
	_ = in.next().Settle(outbox.Settlement{Outcome: outbox.Ack})
}

// No message is to blame when the exchange vanishes: it is declared again.
func TestDeletedExchangeIsDeclaredAgain(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	p := newPublisher(t, address, &PublisherConfig{Unroutable: Accept})
	if err := publishOne(t, p, testMessages("a", 1)[0]); err != nil {
		t.Fatal(err)
	}
	if err := rawChannel(t, address).ExchangeDelete(DefaultExchange, false, false); err != nil {
		t.Fatal(err)
	}
	wantErr(t, publishOne(t, p, testMessages("a", 1)[0]), outbox.ErrUnavailable, "NOT_FOUND")
	if failed := publishAgain(t, p, testMessages("a", 100)); failed != nil {
		t.Fatal(failed)
	}
}

func TestBlockedBroker(t *testing.T) {
	t.Parallel()
	server := testenv.StartRabbitMQ(t, nil)
	p := newPublisher(t, server.NewVHost(t), &PublisherConfig{Unroutable: Accept, ConfirmTimeout: 500 * time.Millisecond})
	if err := publishOne(t, p, testMessages("a", 1)[0]); err != nil {
		t.Fatal(err)
	}
	server.Eval(`rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).`)
	var err error
	for err == nil { // the broker blocks who publishes: it may still take the first message
		err = publishOne(t, p, testMessages("a", 1)[0])
	}
	wantErr(t, err, outbox.ErrUnavailable)
	// A message that waits goes out as soon as the alarm ends.
	server.Eval(`rabbit_alarm:clear_alarm({resource_limit, memory, node()}).`)
	if failed := publishAgain(t, p, testMessages("a", 10)); failed != nil {
		t.Fatal(failed)
	}
}

func TestPublishWaitsWhileBlocked(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, testenv.RabbitMQ(t).NewVHost(t), &PublisherConfig{Unroutable: Accept, ConfirmTimeout: time.Second})
	if err := publishOne(t, p, testMessages("a", 1)[0]); err != nil {
		t.Fatal(err)
	}
	p.setBlocked(amqp.Blocking{Active: true, Reason: "low on memory"})
	wantErr(t, publishOne(t, p, testMessages("a", 1)[0]), outbox.ErrUnavailable, "alarm")
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(10*time.Millisecond, cancel)
	answered := make(chan error, 1)
	p.Publish(ctx, testMessages("a", 1)[0], func(err error) { answered <- err })
	wantErr(t, <-answered, context.Canceled)
	time.AfterFunc(10*time.Millisecond, func() { p.setBlocked(amqp.Blocking{}) })
	if err := publishOne(t, p, testMessages("a", 1)[0]); err != nil {
		t.Fatal(err)
	}
}

func TestConnectionHasAName(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	address := server.NewVHost(t)
	config := Connection{Name: "billing " + t.Name()}
	p := newPublisher(t, address, &PublisherConfig{Connection: config, Unroutable: Accept})
	if err := publishOne(t, p, testMessages("a", 1)[0]); err != nil {
		t.Fatal(err)
	}
	if got := server.Eval(`rabbit_networking:connection_info_all([client_properties]).`); !strings.Contains(got, config.Name) {
		t.Errorf("connections are %s, want one named %q", got, config.Name)
	}
}

func TestPublisherDoesNotTouchItsMessage(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	p := newPublisher(t, address, &PublisherConfig{Unroutable: Accept})
	m := testMessages("a", 1)[0]
	m.Headers = map[string]string{outbox.HeaderCorrelationID: "c"}
	if err := publishOne(t, p, m); err != nil {
		t.Fatal(err)
	}
	if len(m.Headers) != 1 || !bytes.Equal(m.Payload, []byte("0")) {
		t.Errorf("message is now %+v", m)
	}
}

func currentSession(p *Publisher) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.session
}
