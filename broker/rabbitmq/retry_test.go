package rabbitmq

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	amqp "github.com/rabbitmq/amqp091-go"
)

func failed(attempts int) *outbox.Failure {
	at := time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)
	return &outbox.Failure{
		Attempts: attempts, Reason: "no such user", Handler: "user.*", Queue: "q", FirstAt: at, LastAt: at.Add(time.Minute),
	}
}

func retryAfter(d time.Duration) outbox.Settlement {
	return outbox.Settlement{Outcome: outbox.Retry, Delay: d, Failure: failed(1)}
}

func retrying(delays ...time.Duration) outbox.Subscription {
	s := all(10)
	s.RetryDelays = delays
	return s
}

var deadLetters = outbox.Subscription{Queue: "q", Prefetch: 10, DeadLetters: true}

func mustSettle(t *testing.T, r *outbox.Received, s outbox.Settlement) {
	t.Helper()
	if err := r.Settle(s); err != nil {
		t.Fatalf("settle message %s by %+v: %v", r.ID, s, err)
	}
}

// A connection that breaks anywhere, between the confirm of a copy and the
// acknowledgement of its original too, leaves at least one of both.
func TestRetryCutAnywhere(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	proxy := testenv.NewProxy(t, server.Addr())
	address := server.NewVHost(t)
	in := subscribe(t, via(t, address, proxy), &SubscriberConfig{Connection: quick}, retrying(10*time.Millisecond))
	in.waitReady()
	p := newPublisher(t, address, nil)
	outcomes := map[bool]int{}
	for bytes := int64(1); bytes < 900; bytes += 29 {
		m := testMessages(fmt.Sprint("cut.", bytes), 1)[0]
		if err := publishOne(t, p, m); err != nil {
			t.Fatal(err)
		}
		cut := proxy.CutAfter(bytes)
		var again *outbox.Received
		for again == nil || again.Failure == nil {
			again = in.next()
			if again.ID != m.ID { // a copy too many of one before
				_ = again.Settle(outbox.Settlement{Outcome: outbox.Ack})
				again = nil
				continue
			}
			if again.Failure == nil {
				err := again.Settle(retryAfter(10 * time.Millisecond))
				outcomes[err == nil]++
				if err != nil {
					_ = again.Settle(outbox.Settlement{Outcome: outbox.Requeue})
				}
			}
		}
		_ = again.Settle(outbox.Settlement{Outcome: outbox.Ack})
		select {
		case <-cut:
		case <-time.After(100 * time.Millisecond):
			proxy.Cut()
		}
		in.waitReady()
	}
	t.Logf("%d retries succeeded, %d failed", outcomes[true], outcomes[false])
	if outcomes[true] == 0 || outcomes[false] == 0 {
		t.Error("want some of both")
	}
}

// The broker would drop, as going round in circles, a message that has died in the
// queue before and comes back to it from a delay queue.
func TestRetryOfWhatDiedBefore(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	in := subscribe(t, address, nil, retrying(20*time.Millisecond))
	in.waitReady()
	at := time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)
	death := func(queue string) amqp.Table {
		return amqp.Table{
			"queue": queue, "reason": "expired", "exchange": "outbox", "count": int64(1), "time": at, "routing-keys": []any{"a"},
		}
	}
	// As an operator moves a dead letter back to its queue.
	err := rawChannel(t, address).Publish("", "q", true, false, amqp.Publishing{Headers: amqp.Table{
		headerDeath:                           []any{death("q.retry.1m"), death("theirs"), death("q")},
		firstDeath + "queue":                  "q",
		firstDeath + "reason":                 "expired",
		firstDeath + "exchange":               "outbox",
		outbox.HeaderCorrelationID + "-other": "kept",
	}})
	if err != nil {
		t.Fatal(err)
	}
	first := in.next()
	want := map[string]string{outbox.HeaderCorrelationID + "-other": "kept", headerDeath: headerString([]any{death("theirs")})}
	if !maps.Equal(first.Headers, want) {
		t.Errorf("headers are\n%v, want\n%v", first.Headers, want)
	}
	for range 3 {
		mustSettle(t, first, retryAfter(20*time.Millisecond))
		first = in.next()
		if !maps.Equal(first.Headers, want) {
			t.Errorf("after a retry headers are\n%v, want\n%v", first.Headers, want)
		}
		if first.Topic != "a" {
			t.Errorf("the topic is %q, want that by which it was sent", first.Topic)
		}
	}
	mustSettle(t, first, outbox.Settlement{Outcome: outbox.Ack})
}

// What the sender gave a message is there after a retry, for other systems too, and
// nobody gets a copy that did not ask for it.
func TestRetryKeepsProperties(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	in := subscribe(t, address, nil, retrying())
	in.waitReady()
	ch := rawChannel(t, address)
	for _, name := range []string{"bystander", "hidden"} {
		if _, err := ch.QueueDeclare(name, false, false, true, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	sent := amqp.Publishing{
		ContentType: "text/plain", ContentEncoding: "gzip", Priority: 3, CorrelationId: "c", ReplyTo: "r", Expiration: "3600000",
		MessageId: "m", Timestamp: time.Unix(1e9, 0), Type: "t", UserId: "guest", AppId: "a", Body: []byte("x"),
		Headers: amqp.Table{"n": int64(7), "CC": []any{"bystander"}, "BCC": []any{"hidden"}, "list": []any{"x", amqp.Table{"y": true}}},
	}
	if err := ch.Publish(DefaultExchange, "real.topic", true, false, sent); err != nil {
		t.Fatal(err)
	}
	first := in.next()
	mustSettle(t, first, retryAfter(0))
	again := in.next()
	if !maps.Equal(first.Headers, again.Headers) || again.Topic != "real.topic" || first.Type != again.Type || !again.CreatedAt.Equal(first.CreatedAt) {
		t.Errorf("got\n%+v after the retry of\n%+v", again.Message, first.Message)
	}
	if again.Failure == nil || *again.Failure != *failed(1) {
		t.Errorf("failure is %+v, want %+v", again.Failure, failed(1))
	}
	mustSettle(t, again, outbox.Settlement{Outcome: outbox.DeadLetter, Failure: failed(2)})
	d, ok, err := ch.Get("q.dlq", true)
	if err != nil || !ok {
		t.Fatalf("no dead letter: %v", err)
	}
	if d.ContentType != sent.ContentType || d.ContentEncoding != sent.ContentEncoding || d.Priority != sent.Priority || d.CorrelationId != sent.CorrelationId ||
		d.ReplyTo != sent.ReplyTo || d.MessageId != sent.MessageId || !d.Timestamp.Equal(sent.Timestamp) || d.Type != sent.Type || d.AppId != sent.AppId ||
		string(d.Body) != "x" || d.Expiration != "" || d.DeliveryMode != amqp.Persistent {
		t.Errorf("got %+v", d)
	}
	if d.Headers["n"] != int64(7) || fmt.Sprint(d.Headers["list"]) != fmt.Sprint(sent.Headers["list"]) {
		t.Errorf("headers are %v", d.Headers)
	}
	for _, name := range []string{"bystander", "hidden"} {
		if _, ok, err := ch.Get(name, true); err != nil || ok {
			t.Errorf("queue %s got a copy (%v)", name, err)
		}
	}
}

func TestMissingDelayQueue(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	in := subscribe(t, address, nil, retrying(20*time.Millisecond))
	in.waitReady()
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", 1)); failed != nil {
		t.Fatal(failed)
	}
	r := in.next()
	mustSettle(t, r, retryAfter(20*time.Millisecond)) // from now on the driver believes that it is there
	r = in.next()
	if _, err := rawChannel(t, address).QueueDelete("q.retry.20ms", false, false, false); err != nil {
		t.Fatal(err)
	}
	err := r.Settle(retryAfter(20 * time.Millisecond))
	wantErr(t, err, ErrMissing, `queue "q.retry.20ms"`)
	mustSettle(t, r, outbox.Settlement{Outcome: outbox.Requeue})
	// It is declared again, and nothing else was disturbed.
	r = in.next()
	mustSettle(t, r, retryAfter(20*time.Millisecond))
	mustSettle(t, in.next(), outbox.Settlement{Outcome: outbox.Ack})
	if len(in.ready) > 0 {
		t.Error("the subscription was interrupted")
	}
}

// A delay queue that a policy limits refuses what is too much.
func TestFullDelayQueue(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	address := server.NewVHost(t)
	vhost := address[strings.LastIndex(address, "/")+1:]
	server.Eval(fmt.Sprintf(`rabbit_policy:set(<<"%s">>, <<"p">>, <<"^q[.]retry">>, [{<<"max-length">>, 3}], 0, <<"queues">>, <<"t">>).`, vhost))
	s := retrying(time.Hour)
	s.Prefetch = 1
	in := subscribe(t, address, nil, s)
	in.waitReady()
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", 300)); failed != nil {
		t.Fatal(failed)
	}
	r := in.next()
	for n := 1; ; n++ {
		err := r.Settle(retryAfter(time.Hour))
		if err != nil && strings.Contains(err.Error(), "q.retry.1h") && strings.Contains(err.Error(), "full") {
			break
		}
		if err != nil || n == 300 {
			t.Fatalf("Settle returned %v for message %d, want that the queue is full", err, n)
		}
		r = in.next()
	}
	mustSettle(t, r, outbox.Settlement{Outcome: outbox.Requeue})
	if again := in.next(); again.ID != r.ID {
		t.Errorf("got message %s, want %s again", again.ID, r.ID)
	}
}

func TestMissingDeadLetterExchange(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	in := subscribe(t, address, nil, all(10))
	in.waitReady()
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", 2)); failed != nil {
		t.Fatal(failed)
	}
	dead := outbox.Settlement{Outcome: outbox.DeadLetter, Failure: failed(3)}
	mustSettle(t, in.next(), dead)
	if err := rawChannel(t, address).ExchangeDelete("outbox.dlx", false, false); err != nil {
		t.Fatal(err)
	}
	r := in.next()
	if err := r.Settle(dead); err == nil || !strings.Contains(err.Error(), "outbox.dlx") {
		t.Fatalf("Settle returned %v, want one that names the exchange", err)
	}
	mustSettle(t, r, dead) // has declared it again
	if err := r.Settle(dead); !errors.Is(err, errSettled) {
		t.Errorf("Settle returned %v, want %v", err, errSettled)
	}
	late := subscribe(t, address, nil, deadLetters)
	for range 2 {
		mustSettle(t, late.next(), outbox.Settlement{Outcome: outbox.Ack})
	}
}

// A message that cannot be sent on waits for its time all the same.
func TestEarlyMessageThatCannotBeSentOn(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	declare := subscribe(t, address, nil, retrying(20*time.Millisecond))
	declare.waitReady()
	declare.end()
	ch := rawChannel(t, address)
	in := subscribe(t, address, &SubscriberConfig{Topology: CheckOnly}, retrying(20*time.Millisecond))
	in.waitReady()
	if _, err := ch.QueueDelete("q.retry.20ms", false, false, false); err != nil {
		t.Fatal(err)
	}
	due := time.Now().Add(300 * time.Millisecond)
	err := ch.Publish("", "q", true, false, amqp.Publishing{
		MessageId: "early", Headers: amqp.Table{headerRetryAt: due.UTC().Format(time.RFC3339Nano)},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := in.next()
	if r.ID != "early" || r.ReceivedAt.Before(due) || r.Headers != nil {
		t.Errorf("got message %q with headers %v, %v before its time", r.ID, r.Headers, due.Sub(r.ReceivedAt))
	}
	mustSettle(t, r, outbox.Settlement{Outcome: outbox.Ack})
}

// The reason of a failure is cut where it would not fit in a frame with the
// headers that the sender gave the message: a greater frame ends the connection.
func TestRetryWithManyHeaders(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	in := subscribe(t, address, nil, retrying())
	in.waitReady()
	m := testMessages("a", 1)[0]
	m.Headers = map[string]string{"x": strings.Repeat("v", 129_800)}
	if err := publishOne(t, newPublisher(t, address, nil), m); err != nil {
		t.Fatal(err)
	}
	f := failed(1)
	f.Reason = strings.Repeat("ü", 499)
	r := in.next()
	mustSettle(t, r, outbox.Settlement{Outcome: outbox.Retry, Failure: f})
	r = in.next()
	if r.Headers["x"] != m.Headers["x"] || r.Failure == nil || r.Failure.Attempts != 1 {
		t.Fatalf("got failure %+v", r.Failure)
	}
	if n := len(r.Failure.Reason); n == 0 || n >= len(f.Reason) || !strings.HasPrefix(f.Reason, r.Failure.Reason) {
		t.Errorf("the reason is %q, want a part of what it was", r.Failure.Reason)
	}
	mustSettle(t, r, outbox.Settlement{Outcome: outbox.Ack})
}

func TestFit(t *testing.T) {
	t.Parallel()
	p := amqp.Publishing{MessageId: "m", Headers: amqp.Table{
		"n": int64(1), "l": []any{"a", []byte("b")}, "t": amqp.Table{"k": 1.5}, outbox.HeaderReason: "äöü",
	}}
	size := propertyBytes(&p)
	for most, want := range map[int]string{size: "äöü", size - 1: "äö", size - 2: "äö", size - 6: ""} {
		p.Headers[outbox.HeaderReason] = "äöü"
		if err := fit(&p, most); err != nil || p.Headers[outbox.HeaderReason] != want {
			t.Errorf("in %d bytes of %d: reason %q, want %q (%v)", most, size, p.Headers[outbox.HeaderReason], want, err)
		}
		if n := propertyBytes(&p); n > most {
			t.Errorf("%d bytes are still too many for %d", n, most)
		}
	}
	p.Headers[outbox.HeaderReason] = "äöü"
	if fit(&p, size-7) == nil {
		t.Error("what does not fit was not found")
	}
}

// What the dead letters of one queue have been through is nothing to the others
// that get them, too, when somebody moves them to the exchange.
func TestFailureOfAnotherQueue(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	in := subscribe(t, address, nil, retrying())
	in.waitReady()
	s := retrying()
	s.Queue = "other"
	other := subscribe(t, address, nil, s)
	other.waitReady()
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", 1)); failed != nil {
		t.Fatal(failed)
	}
	mustSettle(t, other.next(), outbox.Settlement{Outcome: outbox.Ack})
	mustSettle(t, in.next(), outbox.Settlement{Outcome: outbox.DeadLetter, Failure: failed(5)})
	ch := rawChannel(t, address)
	d, ok, err := ch.Get("q.dlq", true)
	if err != nil || !ok {
		t.Fatalf("no dead letter: %v", err)
	}
	if err := ch.Publish("outbox", "a", true, false, copyOf(&d)); err != nil {
		t.Fatal(err)
	}
	r := in.next()
	if r.Failure == nil || r.Failure.Attempts != 5 {
		t.Errorf("its own queue gets the failure %+v, want one of 5 attempts", r.Failure)
	}
	mustSettle(t, r, outbox.Settlement{Outcome: outbox.Ack})
	r = other.next()
	if r.Failure != nil || r.Headers != nil || r.Redelivered {
		t.Errorf("another queue gets the failure %+v, the headers %v and Redelivered %v, want none", r.Failure, r.Headers, r.Redelivered)
	}
	theirs := failed(1)
	theirs.Queue = "other"
	mustSettle(t, r, outbox.Settlement{Outcome: outbox.Retry, Failure: theirs})
	r = other.next()
	if r.Failure == nil || *r.Failure != *theirs {
		t.Errorf("after a retry another queue gets the failure %+v, want %+v", r.Failure, theirs)
	}
	mustSettle(t, r, outbox.Settlement{Outcome: outbox.Ack})
}

// A Settle that comes late opens no connection that nobody would close.
func TestEndedCopierOpensNothing(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	config := (&SubscriberConfig{}).withDefaults()
	e, err := newEndpoint(address, config.Connection, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := newCopier(e, &config, make(chan struct{}))
	c.close()
	if l, err := c.open(); !errors.Is(err, errStale) {
		t.Errorf("open returned %v, %v, want %v", l, err, errStale)
		c.close()
	}
}

// A broker with frame_max 0 sets no limit.
func TestFrameWithoutLimit(t *testing.T) {
	t.Parallel()
	p := amqp.Publishing{Headers: amqp.Table{outbox.HeaderReason: strings.Repeat("r", 1000), "x": strings.Repeat("x", 1<<20)}}
	if err := fit(&p, maxProperties(0)); err != nil || len(p.Headers[outbox.HeaderReason].(string)) != 1000 {
		t.Errorf("without a limit: %v", err)
	}
	if err := fit(&p, maxProperties(1<<17)); err == nil {
		t.Error("headers greater than a frame: no error")
	}
	if got := maxProperties(1 << 17); got != 1<<17-8 {
		t.Errorf("maxProperties is %d", got)
	}
}
