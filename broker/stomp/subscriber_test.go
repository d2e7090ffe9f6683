package stomp

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
	"github.com/outbox-go/outbox/internal/testenv"
)

// arguments returns those that the broker has the queue with, as Erlang prints them,
// and "none" for a queue that is not there.
func arguments(server *testenv.RabbitMQServer, address, queue string) string {
	return server.Eval(fmt.Sprintf(`case rabbit_amqqueue:lookup(rabbit_misc:r(<<"%s">>, queue, <<"%s">>)) of
		{ok, Q} -> [{durable, amqqueue:is_durable(Q)}, {auto_delete, amqqueue:is_auto_delete(Q)} | [{K, V} || {K, _, V} <- lists:sort(amqqueue:get_arguments(Q))]];
		_ -> none end.`, vhostOf(address), queue))
}

func TestQueuesAreDeclared(t *testing.T) {
	t.Parallel()
	const durable = `[{durable,true},{auto_delete,false}`
	const quorum, classic = `,{<<"x-queue-type">>,<<"quorum">>}`, `,{<<"x-queue-type">>,<<"classic">>}`
	dead := func(key string) string {
		return fmt.Sprintf(`,{<<"x-dead-letter-exchange">>,<<>>},{<<"x-dead-letter-routing-key">>,<<"%s">>}`, key)
	}
	for name, c := range map[string]struct {
		config *SubscriberConfig
		want   map[string]string
	}{
		"default": {nil, map[string]string{
			"q": durable + dead("DLQ.q") + quorum + "]", "DLQ.q": durable + quorum + "]", "RETRY.10s.q": durable + dead("q") + quorum + "]", "RETRY.24h.q": durable + dead("q") + quorum + "]",
		}},
		"classic": {&SubscriberConfig{QueueType: Classic, QueueHeaders: map[string]string{"x-max-length": "7"}}, map[string]string{
			"q": durable + dead("DLQ.q") + `,{<<"x-max-length">>,7}` + classic + "]", "DLQ.q": durable + classic + "]",
		}},
		"as django-outbox-pattern": {&SubscriberConfig{DOP: true}, map[string]string{
			"q": durable + dead("DLQ.q") + "]", "DLQ.q": durable + dead("DLQ.DLQ.DLQ.q") + "]", "RETRY.10s.q": durable + dead("q") + "]",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, address := broker(t)
			declared(t, address, c.config)
			dlq := listen(t, address, c.config, deadLetters, nil) // agrees on the arguments
			dlq.waitReady()
			dlq.stop()
			for queue, want := range c.want {
				if got := strings.ReplaceAll(arguments(server, address, queue), " ", ""); strings.ReplaceAll(got, "\n", "") != want {
					t.Errorf("queue %s has %s, want %s", queue, got, want)
				}
			}
		})
	}
}

// The dead letters have their queue before the first message comes, and nothing in it.
func TestDeadLetterQueueIsThereFirst(t *testing.T) {
	t.Parallel()
	server, address := broker(t)
	seen := make(chan string, 10)
	in := listen(t, address, nil, everything(1), func(r *outbox.Received) {
		seen <- arguments(server, address, "DLQ.q")
		_ = r.Settle(acked)
	})
	in.waitReady()
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", 1)); failed != nil {
		t.Fatal(failed)
	}
	select {
	case got := <-seen:
		if got == "none" {
			t.Error("DLQ.q is not there while the first message is handled")
		}
	case <-time.After(patience):
		t.Fatal("no message")
	}
	if got := server.Eval(fmt.Sprintf(`{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"%s">>, queue, <<"DLQ.q">>)), {ok, N, _} = rabbit_amqqueue:stat(Q), N.`, vhostOf(address))); got != "0" {
		t.Errorf("DLQ.q has %s messages", got)
	}
}

// RabbitMQ deletes the queue of a subscription that cannot be bound, with all that it
// has: so it is looked first whether the exchange is there.
func TestMissingExchangeKeepsTheQueue(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	declared(t, address, nil)
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", 3)); failed != nil {
		t.Fatal(failed)
	}
	s := everything(1)
	s.Topics = append(s.Topics, "more")
	err := listen(t, address, &SubscriberConfig{Destination: "/exchange/missing/{topic}"}, s, nil).waitEnd()
	wantErr(t, err, ErrMissing, `no exchange 'missing'`, `queue "q"`)
	in := listen(t, address, nil, everything(3), nil)
	for range 3 {
		mustSettle(t, in.next(), acked)
	}
}

func TestOtherExchange(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	const destination = "/exchange/amq.topic/{topic}"
	in := listen(t, address, &SubscriberConfig{Destination: destination}, outbox.Subscription{Queue: "q", Topics: []string{"a.*", "b"}, Prefetch: 5}, nil)
	in.waitReady()
	p := newPublisher(t, address, &PublisherConfig{Destination: destination})
	if failed := publishAgain(t, p, append(testMessages("a.x", 1), testMessages("b", 1)...)); failed != nil {
		t.Fatal(failed)
	}
	for _, want := range []string{"a.x", "b"} {
		r := in.next()
		if r.Topic != want {
			t.Errorf("got topic %s, want %s", r.Topic, want)
		}
		mustSettle(t, r, acked)
	}
}

// A queue that is bound to nothing, for those who send to it by its name.
func TestPlainQueue(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	in := listen(t, address, &SubscriberConfig{Destination: "/queue/{queue}"}, everything(5), nil)
	in.waitReady()
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("not.there", 1)); failed != nil {
		t.Fatal(failed)
	}
	p := newPublisher(t, address, &PublisherConfig{Destination: "/amq/queue/q"})
	if failed := publishAgain(t, p, testMessages("a", 1)); failed != nil {
		t.Fatal(failed)
	}
	r := in.next()
	if r.Topic != "a" {
		t.Errorf("got topic %s", r.Topic)
	}
	mustSettle(t, r, outbox.Settlement{Outcome: outbox.DeadLetter, Failure: failed(2)})
	if d := listen(t, address, nil, deadLetters, nil).next(); d.Topic != "a" || d.Failure.Attempts != 2 {
		t.Errorf("got dead letter %+v", d.Message)
	}
}

func TestOtherPropertiesAreAnError(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	declared(t, address, nil)
	for name, config := range map[string]*SubscriberConfig{
		"type": {QueueType: Classic}, "length": {QueueHeaders: map[string]string{"x-max-length": "5"}}, "DOP": {DOP: true},
	} {
		err := listen(t, address, config, everything(1), nil).waitEnd()
		wantTexts(t, err, `queue "q"`, "other properties", "inequivalent arg")
		if unmendable(errors.New("x")) || !unmendable(err) {
			t.Errorf("%s: %v is retried", name, err)
		}
	}
}

// What another client rejects, or the broker expires, is read with the dead letters.
func TestDeadLettersOfTheBroker(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	config := &SubscriberConfig{QueueHeaders: map[string]string{"x-message-ttl": "300"}}
	declared(t, address, config)
	msgs := testMessages("a.b", 2)
	p := newPublisher(t, address, nil)
	if failed := publishAgain(t, p, msgs[:1]); failed != nil {
		t.Fatal(failed)
	}
	conn := rawConn(t, address)
	if err := conn.Write(subscribe("other", "/amq/queue/q", 1, nil)); err != nil {
		t.Fatal(err)
	}
	f := exchange(t, conn, &stomp.Frame{Command: stomp.Begin, Headers: []stomp.Header{{Name: headerTransaction, Value: "none"}}})
	for f.Command != stomp.Message {
		var err error
		if f, err = conn.Read(); err != nil {
			t.Fatal(err)
		}
	}
	id, _ := f.Get(headerAck)
	exchange(t, conn, &stomp.Frame{Command: stomp.Nack, Headers: []stomp.Header{{Name: headerID, Value: id}, {Name: headerRequeue, Value: "false"}, {Name: headerReceipt, Value: "r"}}})
	_ = conn.Close()
	if failed := publishAgain(t, p, msgs[1:]); failed != nil {
		t.Fatal(failed)
	}
	in := listen(t, address, config, deadLetters, nil)
	for i, reason := range []string{"rejected", "expired"} {
		r := in.next()
		if r.ID != msgs[i].ID || r.Topic != "a.b" || r.Failure == nil || !strings.Contains(r.Failure.Reason, reason) || r.Failure.Queue != "q" || r.Headers != nil {
			t.Errorf("got dead letter %+v with %+v, want one that was %s", r.Message, r.Failure, reason)
		}
		mustSettle(t, r, acked)
	}
}

// Several topics are bound while the queue has messages: none is lost or comes twice.
func TestTopicsAreBoundToAFullQueue(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	declared(t, address, nil)
	msgs := testMessages("a", 20)
	if failed := publishAgain(t, newPublisher(t, address, nil), msgs); failed != nil {
		t.Fatal(failed)
	}
	s := everything(3)
	s.Topics = []string{"b", "c.*", "d.#"}
	in := listen(t, address, nil, s, nil)
	seen := map[string]bool{}
	for range msgs {
		r := in.next()
		if seen[r.ID] {
			t.Errorf("message %s comes twice", r.ID)
		}
		seen[r.ID] = true
		mustSettle(t, r, acked)
	}
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("d.e.f", 1)); failed != nil {
		t.Fatal(failed)
	}
	if r := in.next(); r.Topic != "d.e.f" {
		t.Errorf("got topic %s", r.Topic)
	}
}

// An exclusive queue belongs to one subscription at a time, and ends with it.
func TestExclusiveQueue(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	config := &SubscriberConfig{Connection: quick, Exclusive: true}
	first := listen(t, address, config, everything(5), nil)
	first.waitReady()
	second := listen(t, address, config, everything(5), nil)
	p := newPublisher(t, address, nil)
	if failed := publishAgain(t, p, testMessages("a", 1)); failed != nil {
		t.Fatal(failed)
	}
	r := first.next()
	mustSettle(t, r, outbox.Settlement{Outcome: outbox.Retry, Failure: failed(1), Delay: 10 * time.Millisecond})
	mustSettle(t, first.next(), acked)
	if len(second.ready) > 0 {
		t.Error("two subscriptions have the exclusive queue")
	}
	if failed := publishAgain(t, p, testMessages("gone", 1)); failed != nil {
		t.Fatal(failed)
	}
	mustSettle(t, first.next(), outbox.Settlement{Outcome: outbox.Requeue})
	first.stopWith(outbox.Requeue)
	second.waitReady()
	if failed := publishAgain(t, p, testMessages("b", 1)); failed != nil {
		t.Fatal(failed)
	}
	if r := second.next(); r.Topic != "b" {
		t.Errorf("got topic %s", r.Topic)
	}
}

// The connection lives while nobody takes what it delivers.
func TestSlowReceiverKeepsTheConnection(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	got := make(chan *outbox.Received, 100)
	in := listen(t, address, &SubscriberConfig{Connection: Connection{SendHeartbeat: time.Second, ReceiveHeartbeat: time.Second, ReconnectMin: time.Millisecond}},
		everything(50), func(r *outbox.Received) {
			if r.Key == "0" {
				time.Sleep(4 * time.Second) // what is tested takes its time
			}
			got <- r
		})
	in.waitReady()
	msgs := testMessages("a", 30)
	for _, m := range msgs {
		m.Payload = make([]byte, 100_000)
	}
	if failed := publishAgain(t, newPublisher(t, address, nil), msgs); failed != nil {
		t.Fatal(failed)
	}
	for range msgs {
		select {
		case r := <-got:
			if r.Redelivered {
				t.Error("a message came twice")
			}
			mustSettle(t, r, acked)
		case <-time.After(patience):
			t.Fatal("no message")
		}
	}
	if len(in.ready) > 0 {
		t.Error("the connection was lost")
	}
}

// A member of a queue in order that asks for topics which the receiving one has not
// bound is not ready: what is published to them is not collected yet.
func TestStandbyWithOtherTopicsIsNotReady(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	s := everything(5)
	s.InOrder, s.Topics = true, []string{"a", "b"}
	active := listen(t, address, nil, s, nil)
	active.waitReady()
	same := s
	same.Topics = []string{"b", "a", "a"}
	alike := listen(t, address, nil, same, nil)
	alike.waitReady()
	more := s
	more.Topics = []string{"a", "b", "c"}
	other := listen(t, address, nil, more, nil)
	p := newPublisher(t, address, nil)
	for i := range 3 {
		if failed := publishAgain(t, p, testMessages(fmt.Sprint([]string{"a", "b", "a"}[i]), 1)); failed != nil {
			t.Fatal(failed)
		}
		mustSettle(t, active.next(), acked)
	}
	alike.stop()
	if len(other.ready) > 0 {
		t.Error("a member is ready whose topics nobody has bound")
	}
	active.stop()
	other.waitReady()
	if failed := publishAgain(t, p, testMessages("c", 1)); failed != nil {
		t.Fatal(failed)
	}
	mustSettle(t, other.next(), acked)
}

// What another client gives its messages does not end the connection each time that
// they come: AMQP allows headers without a name, and as many as there is room for.
func TestForeignHeadersBlockNothing(t *testing.T) {
	t.Parallel()
	server, address := broker(t)
	in := listen(t, address, nil, everything(5), nil)
	in.waitReady()
	for name, c := range map[string]struct {
		headers string // in Erlang
		want    int
	}{
		"many":    {`[{integer_to_binary(N), longstr, <<"x">>} || N <- lists:seq(1, 1100)]`, 1100},
		"no name": {`[{<<>>, longstr, <<"x">>}, {<<"a">>, longstr, <<"b">>}]`, 1},
	} {
		server.Eval(fmt.Sprintf(`ok = rabbit_basic:publish(rabbit_misc:r(<<"%s">>, exchange, <<"amq.topic">>), <<"a">>, [{headers, %s}], <<"x">>).`,
			vhostOf(address), c.headers))
		for _, s := range []outbox.Settlement{retryAfter(0), acked} {
			r := in.next()
			if len(r.Headers) != c.want {
				t.Errorf("%s: got %d headers, want %d", name, len(r.Headers), c.want)
			}
			mustSettle(t, r, s)
		}
	}
}
