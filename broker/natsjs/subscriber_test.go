package natsjs_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/natsjs"
)

// consumer is a running Subscribe.
type consumer struct {
	tb    testing.TB
	sub   *natsjs.Subscriber
	got   chan *outbox.Received
	stop  context.CancelFunc
	ended chan error
}

func subscribe(tb testing.TB, b *natsjs.Broker, s outbox.Subscription) *consumer {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &consumer{tb: tb, got: make(chan *outbox.Received, 10_000), stop: cancel, ended: make(chan error, 1)}
	ready := make(chan struct{}, 100)
	sub := b.Subscriber()
	c.sub = sub
	go func() {
		c.ended <- sub.Subscribe(ctx, s, func() { ready <- struct{}{} }, func(r *outbox.Received) { c.got <- r })
	}()
	tb.Cleanup(func() {
		cancel()
		_ = sub.Close()
	})
	await(tb, ready, func() string { return "not subscribed" })
	return c
}

func (c *consumer) next() *outbox.Received {
	c.tb.Helper()
	select {
	case r := <-c.got:
		return r
	case <-time.After(patience):
		c.tb.Fatal("no message has come")
		return nil
	}
}

func (c *consumer) end() {
	c.tb.Helper()
	c.stop()
	if err := <-c.ended; err != nil {
		c.tb.Errorf("Subscribe: %v", err)
	}
}

func all(queue string, prefetch int) outbox.Subscription {
	return outbox.Subscription{Queue: queue, Topics: []string{"#"}, Prefetch: prefetch}
}

// TestAcksArrive looks at the server's own count: a message that is not
// acknowledged would come again only after AckWait.
func TestAcksArrive(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	config.AckWait = time.Hour
	broker := connect(t, s.url(), config)
	p := broker.Publisher()
	defer p.Close()
	const n = 500
	c := subscribe(t, broker, all("q", 50))
	for i := range n {
		if err := publish(t, p, benchMessage(i)); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if err := c.next().Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
			t.Fatal(err)
		}
	}
	c.end()
	js := s.jetStream(t)
	info := consumerInfo(t, js, config.Stream, "q")
	for began := time.Now(); info.NumAckPending != 0 && time.Since(began) < patience; {
		info = consumerInfo(t, js, config.Stream, "q") // the server works them off behind the connection
	}
	if info.NumAckPending != 0 || info.AckFloor.Stream != n || info.NumRedelivered != 0 {
		t.Errorf("after the end: %d unacknowledged, floor %d of %d, %d redelivered", info.NumAckPending, info.AckFloor.Stream, n, info.NumRedelivered)
	}
}

// TestEndLeavesNothing: what was on its way when the context ended does not have
// to wait for AckWait.
func TestEndLeavesNothing(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	config.AckWait = time.Hour
	broker := connect(t, s.url(), config)
	p := broker.Publisher()
	defer p.Close()
	const n, taken = 10_000, 2_000 // so many that others are on their way at the end
	msgs := make([]*outbox.Message, n)
	for i := range msgs {
		msgs[i] = benchMessage(i)
	}
	publishAll(t, p, msgs)
	ctx, cancel := context.WithCancel(context.Background())
	sub := broker.Subscriber()
	defer sub.Close()
	received := 0
	err := sub.Subscribe(ctx, all("q", n), func() {}, func(r *outbox.Received) {
		if received++; received == taken {
			cancel()
		}
		if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	c := subscribe(t, broker, all("q", n))
	for range n - taken {
		if err := c.next().Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
			t.Fatal(err)
		}
	}
	c.end()
}

// TestSlowHandlerKeepsItsMessage compares with a consumer that gives no sign of
// life: its message has come again several times when ours has not.
func TestSlowHandlerKeepsItsMessage(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	config.AckWait = 300 * time.Millisecond
	broker := connect(t, s.url(), config)
	control, err := s.jetStream(t).CreateConsumer(t.Context(), config.Stream, jetstream.ConsumerConfig{
		Durable: "control", AckPolicy: jetstream.AckExplicitPolicy, AckWait: 2 * config.AckWait,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := broker.Publisher()
	defer p.Close()
	c := subscribe(t, broker, all("slow", 10))
	if err := publish(t, p, benchMessage(1)); err != nil {
		t.Fatal(err)
	}
	r := c.next()
	for times := uint64(0); times < 3; {
		msg, err := control.Next(jetstream.FetchMaxWait(patience))
		if err != nil {
			t.Fatal(err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		times = meta.NumDelivered
	}
	if info := consumerInfo(t, s.jetStream(t), config.Stream, "slow"); info.NumRedelivered != 0 || len(c.got) > 0 {
		t.Errorf("the message of a slow handler was delivered %d times more", info.NumRedelivered+len(c.got))
	}
	if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
		t.Error(err)
	}
	c.end()
}

// TestNewQueueGetsHistory: what was published before a queue's first member came
// is not lost.
func TestNewQueueGetsHistory(t *testing.T) {
	t.Parallel()
	broker := connect(t, startServer(t).url(), place())
	p := broker.Publisher()
	defer p.Close()
	for i := range 10 {
		if err := publish(t, p, benchMessage(i)); err != nil {
			t.Fatal(err)
		}
	}
	c := subscribe(t, broker, all("new", 3))
	for i := range 10 {
		r := c.next()
		if r.Key != fmt.Sprint(i) {
			t.Errorf("got message %s, want %d", r.Key, i)
		}
		if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
			t.Error(err)
		}
	}
	c.end()
}

// TestTopicAddedByOtherMember: the first member's filters are greater than its
// patterns, so it gets, and must not throw away, what a later one has added.
func TestTopicAddedByOtherMember(t *testing.T) {
	t.Parallel()
	broker := connect(t, startServer(t).url(), place())
	p := broker.Publisher()
	defer p.Close()
	old := subscribe(t, broker, outbox.Subscription{Queue: "q", Topics: []string{"#.created"}, Prefetch: 5})
	if err := publish(t, p, &outbox.Message{ID: "1", Topic: "user.deleted"}); err != nil {
		t.Fatal(err)
	}
	newer := subscribe(t, broker, outbox.Subscription{Queue: "q", Topics: []string{"#.created", "#.changed"}, Prefetch: 5})
	newer.end()
	var want, got []string
	for i := range 20 {
		for _, topic := range []string{"user.changed", "user.created", "user.deleted"} {
			id := fmt.Sprintf("%s-%d", topic, i)
			if topic != "user.deleted" {
				want = append(want, id)
			}
			if err := publish(t, p, &outbox.Message{ID: id, Topic: topic}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range want {
		r := old.next()
		got = append(got, r.ID)
		if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	old.end()
}

// TestDeletedConsumerIsMadeAgain: an operator's mistake does not end a worker.
func TestDeletedConsumerIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	broker := connect(t, s.url(), config)
	p := broker.Publisher()
	defer p.Close()
	c := subscribe(t, broker, all("q", 5))
	if err := s.jetStream(t).DeleteConsumer(t.Context(), config.Stream, "q"); err != nil {
		t.Fatal(err)
	}
	if err := publish(t, p, benchMessage(1)); err != nil {
		t.Fatal(err)
	}
	if err := c.next().Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
		t.Error(err)
	}
	c.end()
}

// TestForeignMessage: who publishes without this package has no id and no
// creation time of ours.
func TestForeignMessage(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	broker := connect(t, s.url(), config)
	c := subscribe(t, broker, all("q", 1))
	before := time.Now().Add(-time.Minute)
	msg := &nats.Msg{Subject: config.SubjectPrefix + "user.created", Data: []byte("x"), Header: nats.Header{
		"X-Some": {"first", "second"}, outbox.HeaderKey: {"k"}, "outbox-other": {"o"}, "outbox-key-escaped": {"%zz"},
	}}
	if _, err := s.jetStream(t).PublishMsg(t.Context(), msg); err != nil {
		t.Fatal(err)
	}
	r := c.next()
	if r.ID != "" || r.Topic != "user.created" || string(r.Payload) != "x" || r.ContentType != "" || r.Key != "%zz" {
		t.Errorf("got %+v", r.Message)
	}
	if fmt.Sprint(r.Headers) != "map[X-Some:first outbox-other:o]" {
		t.Errorf("headers %v", r.Headers)
	}
	if r.CreatedAt.Before(before) || r.CreatedAt.After(time.Now().Add(time.Minute)) {
		t.Errorf("CreatedAt %v, want when the stream stored it", r.CreatedAt)
	}
	if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
		t.Error(err)
	}
	c.end()
}
