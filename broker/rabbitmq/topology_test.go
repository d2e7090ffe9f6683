package rabbitmq

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	amqp "github.com/rabbitmq/amqp091-go"
)

func TestCheckOnlyNamesAllThatIsMissing(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	config := &SubscriberConfig{Connection: quick, Topology: CheckOnly}
	sub := retrying(10*time.Second, time.Minute)
	err := subscribe(t, address, config, sub).waitEnd()
	wantErr(t, err, ErrMissing, `exchange "outbox" is`, `exchange "outbox.dlx" is`, `queue "q.dlq" is`, `queue "q.retry.10s" is`, `queue "q.retry.1m" is`, `queue "q" is`)
	wantErr(t, subscribe(t, address, config, deadLetters).waitEnd(), ErrMissing, `exchange "outbox.dlx" is`, `queue "q.dlq" is`)

	declare := subscribe(t, address, nil, sub)
	declare.waitReady()
	declare.end()
	ch := rawChannel(t, address)
	for _, name := range []string{"q.retry.1m", "q.dlq"} {
		if _, err := ch.QueueDelete(name, false, false, false); err != nil {
			t.Fatal(err)
		}
		err := subscribe(t, address, config, sub).waitEnd()
		wantErr(t, err, ErrMissing, fmt.Sprintf("queue %q is", name))
		if strings.Contains(err.Error(), "10s") {
			t.Errorf("the error %v names what is there", err)
		}
	}
	if err := ch.ExchangeDelete("outbox.dlx", false, false); err != nil {
		t.Fatal(err)
	}
	wantErr(t, subscribe(t, address, config, all(1)).waitEnd(), ErrMissing, `exchange "outbox.dlx" is`)
}

// All that such a user needs are the queue and its dead letters to read, and the
// default exchange and that of the dead letters to write.
func TestUserWhoMayNotConfigure(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	address := server.NewVHost(t)
	sub := retrying(20 * time.Millisecond)
	declare := subscribe(t, address, nil, sub)
	declare.waitReady()
	declare.end()
	user, vhost := newUser(t, server, address)
	permit := func(write string) {
		server.Eval(fmt.Sprintf(`rabbit_auth_backend_internal:set_permissions(<<"%s">>, <<"%s">>, <<"">>, <<"%s">>, <<"^q(.dlq)?$">>, <<"t">>).`, user, vhost, write))
	}
	permit("^(amq.default|outbox.dlx)$")
	theirs := withUser(t, address, user, "pw")
	err := subscribe(t, theirs, nil, sub).waitEnd()
	if err == nil {
		t.Fatal("Subscribe returned nil")
	}
	for _, text := range []string{`declare exchange "outbox"`, "grant the right"} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("Subscribe returned %v, want one that says %s", err, text)
		}
	}
	in := subscribe(t, theirs, &SubscriberConfig{Connection: quick, Topology: CheckOnly}, sub)
	in.waitReady()
	dead := subscribe(t, theirs, &SubscriberConfig{Topology: CheckOnly}, deadLetters)
	dead.waitReady()
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", 1)); failed != nil {
		t.Fatal(failed)
	}
	mustSettle(t, in.next(), retryAfter(20*time.Millisecond))
	mustSettle(t, in.next(), retryAfter(0))
	mustSettle(t, in.next(), retryAfter(70*time.Millisecond)) // in several steps
	mustSettle(t, in.next(), outbox.Settlement{Outcome: outbox.DeadLetter, Failure: failed(4)})
	r := dead.next()
	mustSettle(t, r, outbox.Settlement{Outcome: outbox.Ack})

	// Rights are cached by the channel; this connection has not published yet.
	permit("^$")
	again := subscribe(t, theirs, &SubscriberConfig{Connection: quick, Topology: CheckOnly}, sub)
	in.end()
	_ = in.waitEnd()
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("b", 1)); failed != nil {
		t.Fatal(failed)
	}
	r = again.next()
	for _, how := range []outbox.Settlement{retryAfter(0), {Outcome: outbox.DeadLetter, Failure: failed(1)}} {
		if err := r.Settle(how); err == nil || !strings.Contains(err.Error(), "ACCESS_REFUSED") {
			t.Errorf("Settle returned %v, want that it is not allowed", err)
		}
	}
	mustSettle(t, r, outbox.Settlement{Outcome: outbox.Requeue})
	mustSettle(t, again.next(), outbox.Settlement{Outcome: outbox.Ack})
}

func TestDelayQueueWithOtherPropertiesIsReported(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	_, err := rawChannel(t, address).QueueDeclare("q.retry.1m", true, false, false, false, amqp.Table{amqp.QueueTypeArg: "quorum"})
	if err != nil {
		t.Fatal(err)
	}
	err = subscribe(t, address, nil, retrying(time.Minute)).waitEnd()
	if err == nil || !strings.Contains(err.Error(), `declare queue "q.retry.1m"`) || !strings.Contains(err.Error(), "delete it, or configure") {
		t.Errorf("Subscribe returned %v, want what is wrong with which queue, and what mends it", err)
	}
}

// Without these a message can vanish on its way from one queue to the other.
func TestQuorumQueuesHandOnSafely(t *testing.T) {
	t.Parallel()
	c := (&SubscriberConfig{}).withDefaults()
	sub := retrying(time.Second)
	sub.InOrder = true
	for _, e := range c.entities(&sub) {
		if e.kind != "queue" {
			continue
		}
		_, hasExchange := e.args[argDeadLetterExchange]
		if hasExchange == (e.name == "q.dlq") {
			t.Errorf("queue %s has the arguments %v", e.name, e.args)
		}
		if hasExchange && (e.args[argDeadLetterStrategy] != "at-least-once" || e.args[amqp.QueueOverflowArg] != "reject-publish") {
			t.Errorf("queue %s has the arguments %v", e.name, e.args)
		}
		if (e.args[amqp.SingleActiveConsumerArg] == true) != (e.name == "q") {
			t.Errorf("queue %s has the arguments %v", e.name, e.args)
		}
	}
	c.Exchange = "amq.topic"
	if name := c.deadLetterExchange(); name != "topic.dlx" {
		t.Errorf("the exchange of the dead letters is %s, which the broker may keep for itself", name)
	}
}

func TestUsersArgumentsWin(t *testing.T) {
	t.Parallel()
	c := (&SubscriberConfig{QueueArguments: map[string]any{
		argDeliveryLimit: int64(5), argDeadLetterExchange: "theirs", "x-max-length": int64(10),
	}}).withDefaults()
	sub := all(1)
	args := c.mainEntity("q", &sub).args
	if args[argDeliveryLimit] != int64(5) || args[argDeadLetterExchange] != "theirs" || args["x-max-length"] != int64(10) || args[argDeadLetterKey] != nil {
		t.Errorf("the arguments are %v", args)
	}
	for strategy, faulty := range map[string]bool{"": true, strategyAtLeastOnce: true, "at-most-once": false} {
		arguments := map[string]any{amqp.QueueOverflowArg: amqp.QueueOverflowDropHead}
		if strategy != "" {
			arguments[argDeadLetterStrategy] = strategy
		}
		_, err := NewSubscriber("amqp://localhost", &SubscriberConfig{QueueArguments: arguments})
		if faulty != (err != nil) {
			t.Errorf("with the strategy %q: %v", strategy, err)
		}
	}
}

// What the broker makes dead letters by itself, and other clients, comes with as much
// of its history as is known.
func TestDeadLettersOfTheBroker(t *testing.T) {
	t.Parallel()
	for _, queueType := range []QueueType{Quorum, Classic} {
		t.Run(string(queueType), func(t *testing.T) {
			t.Parallel()
			address := testenv.RabbitMQ(t).NewVHost(t)
			config := &SubscriberConfig{QueueType: queueType}
			in := subscribe(t, address, config, retrying())
			in.waitReady()
			ch := rawChannel(t, address)
			if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a.b", 2)); failed != nil {
				t.Fatal(failed)
			}
			first, second := in.next(), in.next()
			mustSettle(t, second, retryAfter(0))
			retried := in.next()
			in.end() // before: what is requeued would come again
			mustSettle(t, retried, outbox.Settlement{Outcome: outbox.Requeue})
			mustSettle(t, first, outbox.Settlement{Outcome: outbox.Requeue})
			if err := in.waitEnd(); err != nil {
				t.Fatal(err)
			}
			before := time.Now().Truncate(time.Second)
			reject(t, ch, "q", 2)
			expiring := amqp.Publishing{MessageId: "expired", Expiration: "1", Headers: amqp.Table{
				headerRetryAt: time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano), // it died on its way
			}}
			if err := ch.Publish(DefaultExchange, "c", true, false, expiring); err != nil {
				t.Fatal(err)
			}
			dead := subscribe(t, address, config, deadLetters)
			for range 3 {
				r := dead.next()
				f := r.Failure
				if f == nil {
					t.Fatalf("dead letter %s has no failure", r.ID)
				}
				reason, topic, attempts := "rejected", "a.b", 0
				if r.ID == "expired" {
					reason, topic = "expired", "c"
				}
				if r.ID == second.ID {
					attempts = 1
				}
				if r.Topic != topic || f.Attempts != attempts || f.Queue != "q" || !strings.Contains(f.Reason, reason) || f.LastAt.Before(before) || len(r.Headers) > 0 {
					t.Errorf("got dead letter %s of topic %s with %+v and headers %v", r.ID, r.Topic, f, r.Headers)
				}
				if first := f.FirstAt; attempts == 0 && !first.Equal(f.LastAt) || attempts == 1 && !first.Equal(failed(1).FirstAt) {
					t.Errorf("dead letter %s failed first at %v, last at %v", r.ID, first, f.LastAt)
				}
				mustSettle(t, r, outbox.Settlement{Outcome: outbox.Ack})
			}
		})
	}
}

// reject takes n messages of a queue and rejects them for good.
func reject(t *testing.T, ch *amqp.Channel, queue string, n int) {
	t.Helper()
	messages, err := ch.Consume(queue, "rejecting", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		select {
		case m := <-messages:
			if err := m.Reject(false); err != nil {
				t.Fatal(err)
			}
		case <-time.After(patience):
			t.Fatal("no message to reject")
		}
	}
	if err := ch.Cancel("rejecting", false); err != nil {
		t.Fatal(err)
	}
}
