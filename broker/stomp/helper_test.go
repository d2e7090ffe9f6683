package stomp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
	"github.com/outbox-go/outbox/internal/testenv"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// quick is a connection that is tried again soon.
var quick = Connection{ReconnectMin: 10 * time.Millisecond, ReconnectMax: 100 * time.Millisecond}

// broker returns the shared server and the URL of a virtual host of the test's own.
func broker(tb testing.TB) (*testenv.RabbitMQServer, string) {
	tb.Helper()
	server := testenv.RabbitMQ(tb)
	return server, server.STOMPURL(server.NewVHost(tb))
}

func vhostOf(address string) string { return address[strings.LastIndex(address, "/")+1:] }

// outcome is what one message was answered.
type outcome struct {
	m   *outbox.Message
	err error
}

// testMessages returns n messages of topic, the i-th with the key and id i.
func testMessages(topic string, n int) []*outbox.Message {
	msgs := make([]*outbox.Message, n)
	for i := range msgs {
		msgs[i] = &outbox.Message{
			ID: fmt.Sprintf("%s-%05d", topic, i), Topic: topic, Key: fmt.Sprint(i),
			ContentType: outbox.ContentTypeBytes, Payload: []byte(fmt.Sprint(i)), CreatedAt: time.Now().UTC(),
		}
	}
	return msgs
}

// publishAsync publishes msgs in order, with at most window unanswered, and returns
// the answers in the order of the messages.
func publishAsync(t *testing.T, p *Publisher, window int, msgs []*outbox.Message) []outcome {
	t.Helper()
	out := make([]outcome, len(msgs))
	answered := make(chan struct{}, len(msgs))
	took := 0
	take := func() {
		_ = p.Flush()
		select {
		case <-answered:
			took++
		case <-time.After(patience):
			t.Fatalf("%d of %d messages are not answered", len(msgs)-took, len(msgs))
		}
	}
	for i, m := range msgs {
		if i-took >= window {
			take()
		}
		out[i].m = m
		p.Publish(context.Background(), m, func(err error) {
			out[i].err = err
			if len(m.Payload) > 0 { // it is ours again: the race detector looks on
				m.Payload[0] ^= 1
				m.Payload[0] ^= 1
			}
			answered <- struct{}{}
		})
	}
	for took < len(msgs) {
		take()
	}
	return out
}

// publishOne publishes m and returns the answer.
func publishOne(t *testing.T, p *Publisher, m *outbox.Message) error {
	t.Helper()
	return publishAsync(t, p, 1, []*outbox.Message{m})[0].err
}

// publishAgain sends msgs until each has an answer other than ErrUnavailable, as a
// relay does, and returns those that were not confirmed.
func publishAgain(t *testing.T, p *Publisher, msgs []*outbox.Message) []outcome {
	t.Helper()
	var failed []outcome
	deadline := time.Now().Add(patience)
	for len(msgs) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d messages are still unavailable", len(msgs))
		}
		var again []*outbox.Message
		for _, o := range publishAsync(t, p, 1000, msgs) {
			switch {
			case errors.Is(o.err, outbox.ErrUnavailable):
				again = append(again, o.m)
			case o.err != nil:
				failed = append(failed, o)
			}
		}
		if len(again) == len(msgs) {
			time.Sleep(time.Millisecond) // the relay's back-off
		}
		msgs = again
	}
	return failed
}

// inbox is a subscription whose messages are taken one by one.
type inbox struct {
	tb    testing.TB
	from  *Subscriber
	ready chan struct{}
	got   chan *outbox.Received
	ended chan error
	end   context.CancelFunc
}

// listen subscribes. What is received goes to receive or, if that is nil, to next.
func listen(tb testing.TB, address string, config *SubscriberConfig, sub outbox.Subscription, receive func(*outbox.Received)) *inbox {
	tb.Helper()
	s := newSubscriber(tb, address, config)
	ctx, cancel := context.WithCancel(context.Background())
	in := &inbox{
		tb: tb, from: s, ready: make(chan struct{}, 1000), got: make(chan *outbox.Received, 100_000),
		ended: make(chan error, 1), end: cancel,
	}
	tb.Cleanup(cancel)
	if receive == nil {
		receive = func(r *outbox.Received) { in.got <- r }
	}
	go func() { in.ended <- s.Subscribe(ctx, sub, func() { in.ready <- struct{}{} }, receive) }()
	return in
}

func (in *inbox) waitReady() {
	in.tb.Helper()
	select {
	case <-in.ready:
	case err := <-in.ended:
		in.tb.Fatalf("Subscribe returned: %v", err)
	case <-time.After(patience):
		in.tb.Fatal("the subscription is not established")
	}
}

func (in *inbox) next() *outbox.Received {
	in.tb.Helper()
	select {
	case r := <-in.got:
		return r
	case err := <-in.ended:
		in.tb.Fatalf("Subscribe returned: %v", err)
	case <-time.After(patience):
		in.tb.Fatal("no message")
	}
	return nil
}

func (in *inbox) waitEnd() error {
	in.tb.Helper()
	select {
	case err := <-in.ended:
		return err
	case <-time.After(patience):
		in.tb.Fatal("Subscribe does not return")
	}
	return nil
}

// stop ends the subscription in order.
func (in *inbox) stop() {
	in.tb.Helper()
	in.end()
	if err := in.waitEnd(); err != nil {
		in.tb.Errorf("Subscribe returned %v after its context ended", err)
	}
}

// stopWith ends the subscription and settles what it has been passed.
func (in *inbox) stopWith(how outbox.Outcome) {
	in.tb.Helper()
	in.end()
	for {
		select {
		case r := <-in.got:
			_ = r.Settle(outbox.Settlement{Outcome: how})
		case err := <-in.ended:
			if err != nil {
				in.tb.Errorf("Subscribe returned %v after its context ended", err)
			}
			return
		case <-time.After(patience):
			in.tb.Fatal("Subscribe does not return")
		}
	}
}

// collect acknowledges messages until it has seen those ids.
func (in *inbox) collect(ids map[string]bool) {
	in.tb.Helper()
	seen := map[string]bool{}
	for missing := len(ids); missing > 0; {
		r := in.next()
		_ = r.Settle(outbox.Settlement{Outcome: outbox.Ack}) // fails for what came by a connection that is lost
		if ids[r.ID] && !seen[r.ID] {
			missing--
		}
		seen[r.ID] = true
	}
}

func everything(prefetch int) outbox.Subscription {
	return outbox.Subscription{Queue: "q", Topics: []string{"#"}, Prefetch: prefetch}
}

var deadLetters = outbox.Subscription{Queue: "q", Prefetch: 10, DeadLetters: true}

// declared subscribes by the queue "q" to all topics, once, so that it is there.
func declared(t *testing.T, address string, config *SubscriberConfig) {
	t.Helper()
	in := listen(t, address, config, everything(1), nil)
	in.waitReady()
	in.stop()
}

// rawConn opens a connection by the protocol's client itself.
func rawConn(t *testing.T, address string) *stomp.Conn {
	t.Helper()
	e, err := newEndpoint(address, Connection{}.withDefaults(), nil)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := e.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// exchange sends a frame and returns what the broker answers.
func exchange(t *testing.T, conn *stomp.Conn, f *stomp.Frame) *stomp.Frame {
	t.Helper()
	if err := conn.Write(f); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	answer, err := conn.Read()
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func mustSettle(t *testing.T, r *outbox.Received, s outbox.Settlement) {
	t.Helper()
	if err := r.Settle(s); err != nil {
		t.Fatalf("settle message %s by %+v: %v", r.ID, s, err)
	}
}

var acked = outbox.Settlement{Outcome: outbox.Ack}

func wantErr(t *testing.T, err, class error, texts ...string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("got error %v, want one that is %v", err, class)
	}
	wantTexts(t, err, texts...)
}

func wantTexts(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error\n%v\ndoes not say %q", err, text)
		}
	}
}
