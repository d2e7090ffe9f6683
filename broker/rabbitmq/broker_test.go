package rabbitmq

import (
	"errors"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
)

// One private broker for what would disturb the others' tests.
func TestBrokerInTrouble(t *testing.T) {
	t.Parallel()
	server := testenv.StartRabbitMQ(t, nil)
	blockedWhileRetrying(t, server)
	killedWhileDelaying(t, server)
}

// While the broker is short of memory it takes no retries, but acknowledgements: to
// consume is what helps it.
func blockedWhileRetrying(t *testing.T, server *testenv.RabbitMQServer) {
	const n, timeout = 300, 500 * time.Millisecond
	address := server.NewVHost(t)
	s := all(20)
	in := subscribe(t, address, &SubscriberConfig{Connection: quick, ConfirmTimeout: timeout}, s)
	in.waitReady()
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", n)); failed != nil {
		t.Fatal(failed)
	}
	const alarm = `{{resource_limit, memory, node()}, []}`
	server.Eval(`rabbit_alarm:set_alarm(` + alarm + `).`)
	// It takes a while until the connections hear of it.
	blocked := in.next()
	deadline := time.Now().Add(patience)
	for blocked.Settle(retryAfter(0)) == nil && time.Now().Before(deadline) {
		blocked = in.next()
	}
	start := time.Now()
	for i := range 4 {
		if err := blocked.Settle(retryAfter(0)); !errors.Is(err, errBlocked) {
			t.Errorf("try %d: Settle returned %v, want %v", i, err, errBlocked)
		}
	}
	if took := time.Since(start); took > timeout {
		t.Errorf("it took %v to refuse what is known not to work", took)
	}
	mustSettle(t, blocked, outbox.Settlement{Outcome: outbox.Requeue})
	held := in.next()
	seen := map[string]bool{held.ID: true}
	for len(seen) < n {
		r := in.next()
		seen[r.ID] = true
		mustSettle(t, r, outbox.Settlement{Outcome: outbox.Ack})
	}
	server.Eval(`rabbit_alarm:clear_alarm({resource_limit, memory, node()}).`)
	for err := held.Settle(retryAfter(0)); err != nil; err = held.Settle(retryAfter(0)) {
		if time.Now().After(deadline) {
			t.Fatalf("Settle returns %v after the alarm", err)
		}
	}
	again := in.next()
	for ; again.ID != held.ID; again = in.next() {
		mustSettle(t, again, outbox.Settlement{Outcome: outbox.Ack})
	}
	mustSettle(t, again, outbox.Settlement{Outcome: outbox.Ack})
	if len(in.ready) > 0 {
		t.Error("the subscription was interrupted")
	}
	in.end()
}

// What waits in the delay queues of a broker that is killed comes when it is back,
// in several steps where the delay needs them.
func killedWhileDelaying(t *testing.T, server *testenv.RabbitMQServer) {
	const n = 200
	address := server.NewVHost(t)
	s := retrying(2*time.Second, 4*time.Second)
	s.Prefetch = n
	config := &SubscriberConfig{Connection: quick}
	in := subscribe(t, address, config, s)
	in.waitReady()
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", n)); failed != nil {
		t.Fatal(failed)
	}
	delays := []time.Duration{2 * time.Second, 4 * time.Second, 3500 * time.Millisecond}
	notBefore := map[string]time.Time{}
	for i := range n {
		r := in.next()
		d := delays[i%len(delays)]
		if r.Failure != nil {
			t.Fatal("a message came back too early for the test")
		}
		notBefore[r.ID] = time.Now().Add(d)
		mustSettle(t, r, retryAfter(d))
	}
	server.Kill()
	time.Sleep(100 * time.Millisecond)
	server.Start()
	for len(notBefore) > 0 {
		r := in.next()
		if r.Failure != nil && r.ReceivedAt.Before(notBefore[r.ID]) {
			t.Errorf("message %s came %v too early", r.ID, notBefore[r.ID].Sub(r.ReceivedAt))
		}
		if r.Failure != nil { // else the acknowledgement of the original was lost
			delete(notBefore, r.ID)
		}
		_ = r.Settle(outbox.Settlement{Outcome: outbox.Ack})
	}
	in.end()
}

// The connection lives while nobody takes what it delivers.
func TestSlowReceiverKeepsTheConnection(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	s := newSubscriber(t, address, &SubscriberConfig{Connection: Connection{Heartbeat: time.Second, ReconnectMin: time.Millisecond}})
	ready := make(chan struct{}, 100)
	got := make(chan *outbox.Received, 100)
	go func() {
		_ = s.Subscribe(t.Context(), all(50), func() { ready <- struct{}{} }, func(r *outbox.Received) {
			if r.Key == "0" {
				time.Sleep(4 * time.Second) // what is tested takes its time
			}
			got <- r
		})
	}()
	<-ready
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
			mustSettle(t, r, outbox.Settlement{Outcome: outbox.Ack})
		case <-time.After(patience):
			t.Fatal("no message")
		}
	}
	if len(ready) > 0 {
		t.Error("the connection was lost")
	}
}
