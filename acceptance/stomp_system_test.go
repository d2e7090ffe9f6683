package acceptance

import (
	"context"
	"maps"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/worker"
)

// TestD05_DirectSendBypassesTheTable: what a publisher sends without a relay leaves no
// row behind, before nor after.
func TestD05_DirectSendBypassesTheTable(t *testing.T) {
	t.Parallel()
	s := newSTOMPSystem(t, false)
	r := s.startWorker(t)
	s.send(t, outbox.Message{ID: "direct", Topic: "user.created", Key: "7", ContentType: outbox.ContentTypeJSON, Payload: []byte(`{"id": 7}`)})
	d := r.await(1)[0]
	if d.ID != "direct" || d.Topic != "user.created" || d.Key != "7" || string(d.Payload) != `{"id": 7}` {
		t.Errorf("delivered %+v with %q", d.Metadata, d.Payload)
	}
	s.wantRows(t, 0)
}

// TestD06_Headers reads by AMQP what a relay has sent by STOMP.
func TestD06_Headers(t *testing.T) {
	t.Parallel()
	b := newSTOMPRabbit(t, false)
	s := newSystem(newPostgres(t), b)
	ch := collecting(t, b.address, "all")
	p := stompPublisher(t, s.address, &stomp.PublisherConfig{Connection: stompConnection, DOP: true})
	s.startRelayWith(t, p, relay.Config{})
	const id = "018f3f2c-7d52-7c11-9c5a-000000000001"
	began := time.Now().Add(-time.Second)
	s.emit(t,
		outbox.Event{ID: id, Topic: "user.created.v1", Type: "User", Payload: 1, Headers: map[string]string{
			"correlation-id": "c", "x-own": "kept", "dop-msg-id": "fake", "dop-msg-destination": "fake", "dop-msg-type": "fake", "message-id": "fake", "amqp-message-id": "fake",
		}},
		outbox.Event{Topic: "plain", Payload: 2})
	got := map[string]amqp.Delivery{}
	for range 2 {
		d := awaitDelivery(t, ch, "all")
		got[d.RoutingKey] = d
	}
	plain := got["plain"]
	for topic, want := range map[string]map[string]string{
		"user.created.v1": {"dop-msg-id": id, "dop-msg-destination": "/topic/user.created.v1", "dop-msg-type": "User", "dop-correlation-id": "c", "x-own": "kept"},
		"plain":           {"dop-msg-id": plain.MessageId, "dop-msg-destination": "/topic/plain", "dop-msg-type": "Published", "dop-correlation-id": plain.MessageId},
	} {
		d := got[topic]
		for name, value := range want {
			if d.Headers[name] != value {
				t.Errorf("%s: header %s is %v, want %q", topic, name, d.Headers[name], value)
			}
		}
		if d.MessageId == "" || d.MessageId == "fake" || d.DeliveryMode != amqp.Persistent {
			t.Errorf("%s: message id %q, delivery mode %d", topic, d.MessageId, d.DeliveryMode)
		}
		sent, _ := d.Headers["dop-msg-sent-time"].(string)
		if at, err := time.Parse("2006-01-02T15:04:05.000Z", sent); err != nil || at.Before(began) || at.After(time.Now()) {
			t.Errorf("%s: sent at %q: %v", topic, sent, err)
		}
	}
	if got["user.created.v1"].MessageId != id || got["user.created.v1"].CorrelationId != "c" {
		t.Errorf("properties are %+v", got["user.created.v1"])
	}
}

// collecting binds a new queue to all topics, by AMQP.
func collecting(t testing.TB, url, queue string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(url)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	must(t, err)
	_, err = ch.QueueDeclare(queue, true, false, false, false, nil)
	must(t, err)
	must(t, ch.QueueBind(queue, "#", "amq.topic", false, nil))
	return ch
}

func awaitDelivery(t testing.TB, ch *amqp.Channel, queue string) (d amqp.Delivery) {
	t.Helper()
	eventually(t, "a message in queue "+queue, func() (bool, string) {
		var ok bool
		var err error
		d, ok, err = ch.Get(queue, true)
		must(t, err)
		return ok, "none"
	})
	return d
}

// TestD07_CorrelationIDOverSTOMP: from a request into the outbox, by STOMP to a
// consumer, and into what that emits; made where there is none.
func TestD07_CorrelationIDOverSTOMP(t *testing.T) {
	t.Parallel()
	s := newSTOMPSystem(t, false)
	dop := collecting(t, s.broker.(*stompRabbit).address, "others")
	s.startRelayWith(t, stompPublisher(t, s.address, &stomp.PublisherConfig{DOP: true}), relay.Config{})
	r := newRecorder(t)
	w := s.newWorker(t, worker.Config{Queue: "chain"})
	s.handleTx(w, "request.made", func(ctx context.Context, tx transaction, _ *worker.Delivery[order]) error {
		return tx.emitWith(ctx, outbox.Event{Topic: "reply.sent", Payload: order{}})
	}, worker.WithMiddleware(func(next worker.Handler) worker.Handler {
		return func(ctx context.Context, d *worker.Delivery[[]byte]) error {
			if err := r.handle(ctx, d); err != nil {
				return err
			}
			return next(ctx, d)
		}
	}))
	worker.Handle(w, "reply.sent", r.handle)
	runWorker(t, w)
	chain := func(ctx context.Context, n int) (first, reply delivery) {
		t.Helper()
		must(t, s.inTx(func(tx transaction) error {
			return tx.emitWith(ctx, outbox.Event{Topic: "request.made", Payload: order{}})
		}))
		all := r.await(n)
		return all[n-2], all[n-1]
	}
	first, reply := chain(outbox.WithCorrelationID(t.Context(), "request-1"), 2)
	if first.CorrelationID != "request-1" || reply.CorrelationID != "request-1" || reply.CausationID != first.ID {
		t.Errorf("correlation ids %q and %q, causation %q; want request-1 and %s", first.CorrelationID, reply.CorrelationID, reply.CausationID, first.ID)
	}
	made, reply := chain(t.Context(), 4)
	if made.CorrelationID != made.ID || reply.CorrelationID != made.ID {
		t.Errorf("correlation ids %q and %q, want both to be %s", made.CorrelationID, reply.CorrelationID, made.ID)
	}
	// Other systems see the same.
	seen := map[any]int{}
	for range 4 {
		seen[awaitDelivery(t, dop, "others").Headers["dop-correlation-id"]]++
	}
	if !maps.Equal(seen, map[any]int{"request-1": 2, made.ID: 2}) {
		t.Errorf("the correlation ids on the wire are %v", seen)
	}
}

// TestD10_BrokerAwayOrLinkCutOverSTOMP: no loss, and in order by key.
func TestD10_BrokerAwayOrLinkCutOverSTOMP(t *testing.T) {
	t.Parallel()
	awayOrCut(t, newSTOMPSystem(t, true))
}

// TestD19_QueueNamedByTheDestination: where no queue is named, the destination's last
// segment names it.
func TestD19_QueueNamedByTheDestination(t *testing.T) {
	t.Parallel()
	const destination = "/topic/order.placed.v1"
	b := newSTOMPRabbit(t, false)
	s := newSystem(newPostgres(t), b)
	queue := stomp.QueueName(destination)
	r := startWorker(t, b.subscriber(t), queue, queue)
	if n := queueLength(t, b.address, "order.placed.v1"); n != 0 {
		t.Errorf("the queue order.placed.v1 has %d messages, want it to be there and empty", n)
	}
	s.send(t, outbox.Message{ID: "m", Topic: "order.placed.v1"})
	if d := r.await(1)[0]; d.ID != "m" || d.Queue != "order.placed.v1" {
		t.Errorf("delivered %+v", d.Metadata)
	}
}

// TestD18_DeadLettersExistBeforeTheFirstMessageOverSTOMP looks while the worker has not
// had any, and then lets one die.
func TestD18_DeadLettersExistBeforeTheFirstMessageOverSTOMP(t *testing.T) {
	t.Parallel()
	s := newSTOMPSystem(t, false)
	s.failing(t, worker.Config{Queue: "users"}, always(worker.Abort(errNoLuck)))
	if !s.hasDeadLetters(t, "users") {
		t.Error("there is no place for dead letters, and the worker consumes")
	}
	s.startRelay(t, relay.Config{})
	s.emit(t, outbox.Event{Topic: "user.created", Payload: 1})
	awaitDead(t, s.deadLetters(t, "users"), 1)
}

func TestD15_RejectedMessageIsDeadLetteredOverSTOMP(t *testing.T) {
	t.Parallel()
	rejectedIsDead(t, newSTOMPSystem(t, false))
}

func TestD21_HandlerSlowerThanTheHeartBeatOverSTOMP(t *testing.T) {
	t.Parallel()
	slowerThanTheHeartBeat(t, newSTOMPSystem(t, false))
}
