package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	amqp "github.com/rabbitmq/amqp091-go"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

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
	answered := make(chan int, len(msgs))
	took := 0
	take := func() {
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
			answered <- i
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
	t     *testing.T
	ready chan struct{}
	got   chan *outbox.Received
	ended chan error
	end   context.CancelFunc
}

func subscribe(t *testing.T, address string, config *SubscriberConfig, sub outbox.Subscription) *inbox {
	t.Helper()
	s := newSubscriber(t, address, config)
	ctx, cancel := context.WithCancel(context.Background())
	in := &inbox{
		t: t, ready: make(chan struct{}, 1000), got: make(chan *outbox.Received, 100_000),
		ended: make(chan error, 1), end: cancel,
	}
	t.Cleanup(cancel)
	go func() {
		in.ended <- s.Subscribe(ctx, sub, func() { in.ready <- struct{}{} }, func(r *outbox.Received) { in.got <- r })
	}()
	return in
}

func (in *inbox) waitReady() {
	in.t.Helper()
	select {
	case <-in.ready:
	case err := <-in.ended:
		in.t.Fatalf("Subscribe returned: %v", err)
	case <-time.After(patience):
		in.t.Fatal("the subscription is not established")
	}
}

func (in *inbox) next() *outbox.Received {
	in.t.Helper()
	select {
	case r := <-in.got:
		return r
	case err := <-in.ended:
		in.t.Fatalf("Subscribe returned: %v", err)
	case <-time.After(patience):
		in.t.Fatal("no message")
	}
	return nil
}

func (in *inbox) waitEnd() error {
	in.t.Helper()
	select {
	case err := <-in.ended:
		return err
	case <-time.After(patience):
		in.t.Fatal("Subscribe does not return")
	}
	return nil
}

// collect acknowledges messages until it has seen those ids.
func (in *inbox) collect(ids map[string]bool) map[string]int {
	in.t.Helper()
	seen := map[string]int{}
	for missing := len(ids); missing > 0; {
		r := in.next()
		_ = r.Settle(outbox.Settlement{Outcome: outbox.Ack})
		if seen[r.ID]++; seen[r.ID] == 1 && ids[r.ID] {
			missing--
		}
	}
	return seen
}

func all(prefetch int) outbox.Subscription {
	return outbox.Subscription{Queue: "q", Topics: []string{"#"}, Prefetch: prefetch}
}

// declared subscribes by the queue "q" to all topics, once, so that it is there.
func declared(t *testing.T, address string, config *SubscriberConfig) {
	t.Helper()
	in := subscribe(t, address, config, all(1))
	in.waitReady()
	in.end()
	if err := in.waitEnd(); err != nil {
		t.Fatal(err)
	}
}

// rawChannel opens a channel by the client library itself.
func rawChannel(t *testing.T, address string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func wantErr(t *testing.T, err, class error, texts ...string) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Fatalf("got error %v, want one that is %v", err, class)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}
