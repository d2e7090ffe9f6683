package natsjs_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
)

// TestInOrderFailsOver: when the active member falls silent another one goes on
// with the message that it had, and nothing is overtaken.
func TestInOrderFailsOver(t *testing.T) {
	t.Parallel()
	const n = 20
	s := startServer(t)
	proxy := testenv.NewProxy(t, s.addr())
	config := place()
	direct := connect(t, s.url(), config)
	sub := all("q", 5)
	sub.InOrder = true
	active := subscribe(t, connect(t, "nats://"+proxy.Addr(), config), sub)
	publishN(t, direct, n)
	for i := range n / 2 {
		active.settle(active.want(i, 0), outbox.Settlement{Outcome: outbox.Ack})
	}
	active.want(n/2, 0)
	next := subscribe(t, direct, sub)
	proxy.Stall()
	r := next.want(n/2, 0)
	next.settle(r, outbox.Settlement{Outcome: outbox.Requeue})
	next.settle(next.want(n/2, 0), retryAfter(10*time.Millisecond, 1))
	next.settle(next.want(n/2, 1), outbox.Settlement{Outcome: outbox.Ack})
	for i := n/2 + 1; i < n; i++ {
		next.settle(next.want(i, 0), outbox.Settlement{Outcome: outbox.Ack})
	}
	if len(active.got) > 0 {
		t.Errorf("the silent member got message %s", (<-active.got).Key)
	}
	proxy.Cut()
	next.end()
}

// TestInOrderHandsOverAtOnce: a member that ends, or is closed, does not leave the
// others to wait until the server misses it.
func TestInOrderHandsOverAtOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	config.AckWait = time.Hour
	b := connect(t, s.url(), config)
	sub := all("q", 3)
	sub.InOrder = true
	publishN(t, b, 4)
	first := subscribe(t, b, sub)
	first.settle(first.want(0, 0), outbox.Settlement{Outcome: outbox.Ack})
	held := first.want(1, 0)
	second := subscribe(t, b, sub)
	began := time.Now()
	first.stop()
	first.settle(held, outbox.Settlement{Outcome: outbox.Requeue})
	first.end()
	second.settle(second.want(1, 0), outbox.Settlement{Outcome: outbox.Ack})
	second.want(2, 0)
	third := subscribe(t, b, sub)
	if err := second.sub.Close(); err != nil {
		t.Fatal(err)
	}
	third.settle(third.want(2, 0), outbox.Settlement{Outcome: outbox.Ack})
	third.settle(third.want(3, 0), outbox.Settlement{Outcome: outbox.Ack})
	third.end()
	if took := time.Since(began); took > patience/2 {
		t.Errorf("two members were followed by others after %s", took)
	}
}

// TestInOrderOutlivesRestart: the server forgets which member it kept to.
func TestInOrderOutlivesRestart(t *testing.T) {
	t.Parallel()
	const n = 10
	s := startServer(t)
	b := connect(t, s.url(), place())
	sub := all("q", 3)
	sub.InOrder = true
	publishN(t, b, n)
	c := subscribe(t, b, sub)
	for i := range n / 2 {
		c.settle(c.want(i, 0), outbox.Settlement{Outcome: outbox.Ack})
	}
	held := c.want(n/2, 0)
	s.stop()
	s.start()
	eventually(t, "the message can be settled again", func() bool { return held.Settle(retryAfter(0, 1)) == nil })
	c.settle(c.want(n/2, 1), outbox.Settlement{Outcome: outbox.Ack})
	for i := n/2 + 1; i < n; i++ {
		c.settle(c.want(i, 0), outbox.Settlement{Outcome: outbox.Ack})
	}
	c.end()
}

// TestMembersAgreeOnOrder: one that asks for order, or for none, where the others
// do not, is told at the start.
func TestMembersAgreeOnOrder(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	b := connect(t, s.url(), config)
	ordered := func(queue string) outbox.Subscription {
		sub := all(queue, 1)
		sub.InOrder = true
		return sub
	}
	subscribe(t, b, all("free", 1))
	subscribe(t, b, ordered("ordered"))
	run := func(sub outbox.Subscription) error {
		return b.Subscriber().Subscribe(t.Context(), sub, func() {}, func(*outbox.Received) {})
	}
	wantError(t, run(ordered("free")), "free", "max_ack_pending", "InOrder")
	wantError(t, run(all("ordered", 1)), "ordered", "max_ack_pending", "InOrder")

	for queue, c := range map[string]jetstream.ConsumerConfig{
		"max_deliver": {MaxDeliver: 5}, "backoff": {BackOff: []time.Duration{time.Second}},
	} {
		c.Durable, c.AckPolicy = queue, jetstream.AckExplicitPolicy
		if c.MaxDeliver == 0 {
			c.MaxDeliver = -1
		}
		if _, err := s.jetStream(t).CreateConsumer(t.Context(), config.Stream, c); err != nil {
			t.Fatal(err)
		}
		wantError(t, run(all(queue, 1)), queue)
	}
}
