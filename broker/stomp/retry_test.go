package stomp

import (
	"fmt"
	"maps"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
	"github.com/outbox-go/outbox/internal/testenv"
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

// One private broker for what would disturb the others' tests.
func TestBrokerInTrouble(t *testing.T) {
	t.Parallel()
	server := testenv.StartRabbitMQ(t, nil)
	blockedWhileRetrying(t, server)
	blockedWhileStopping(t, server)
	killedWhileDelaying(t, server)
}

// While the broker is short of memory it takes no retries, but acknowledgements: to
// consume is what helps it. And one can begin to consume.
func blockedWhileRetrying(t *testing.T, server *testenv.RabbitMQServer) {
	const n = 50
	address := server.STOMPURL(server.NewVHost(t))
	config := &SubscriberConfig{Connection: quick, ReceiptTimeout: time.Second}
	in := listen(t, address, config, everything(5), nil)
	in.waitReady()
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", n)); failed != nil {
		t.Fatal(failed)
	}
	server.Eval(`rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).`)
	blocked := in.next()
	for deadline := time.Now().Add(patience); blocked.Settle(retryAfter(0)) == nil; blocked = in.next() {
		if time.Now().After(deadline) {
			t.Fatal("the alarm has no effect")
		}
	}
	mustSettle(t, blocked, outbox.Settlement{Outcome: outbox.Requeue})
	seen := map[string]bool{}
	for len(seen) < n/2 {
		r := in.next()
		seen[r.ID] = true
		mustSettle(t, r, acked)
	}
	second := listen(t, address, config, everything(5), nil)
	second.waitReady()
	for len(seen) < n {
		var r *outbox.Received
		select {
		case r = <-in.got:
		case r = <-second.got:
		case <-time.After(patience):
			t.Fatalf("%d of %d messages have come", len(seen), n)
		}
		seen[r.ID] = true
		mustSettle(t, r, acked)
	}
	server.Eval(`rabbit_alarm:clear_alarm({resource_limit, memory, node()}).`)
	if len(in.ready) > 0 {
		t.Error("the subscription was interrupted")
	}
	in.stopWith(outbox.Ack) // retries that came again
	second.stopWith(outbox.Ack)
}

// A subscription ends though the broker confirms none of the copies under way.
func blockedWhileStopping(t *testing.T, server *testenv.RabbitMQServer) {
	address := server.STOMPURL(server.NewVHost(t))
	in := listen(t, address, &SubscriberConfig{Connection: quick, ReceiptTimeout: time.Hour}, everything(5), nil)
	in.waitReady()
	if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", 5)); failed != nil {
		t.Fatal(failed)
	}
	for range 5 {
		mustSettle(t, in.next(), retryAfter(3*time.Second))
	}
	server.Eval(`rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).`)
	for deadline := time.Now().Add(patience); in.from.copies() < 2; { // the broker may take the first
		if time.Now().After(deadline) {
			t.Fatal("nothing is sent on")
		}
		runtime.Gosched()
	}
	in.stopWith(outbox.Requeue)
	server.Eval(`rabbit_alarm:clear_alarm({resource_limit, memory, node()}).`)
	in = listen(t, address, nil, everything(5), nil)
	in.collect(map[string]bool{"a-00000": true, "a-00001": true, "a-00002": true, "a-00003": true, "a-00004": true})
}

// copies returns how many are under way.
func (s *Subscriber) copies() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.stops {
		n += len(c.copier.slots)
	}
	return n
}

// What waits when the broker is killed comes when it is back, not before its time.
func killedWhileDelaying(t *testing.T, server *testenv.RabbitMQServer) {
	const n = 100
	for _, queueType := range []QueueType{Quorum, Classic} {
		address := server.STOMPURL(server.NewVHost(t))
		in := listen(t, address, &SubscriberConfig{Connection: quick, QueueType: queueType}, everything(n), nil)
		in.waitReady()
		if failed := publishAgain(t, newPublisher(t, address, nil), testMessages("a", n)); failed != nil {
			t.Fatal(failed)
		}
		delays := []time.Duration{2 * time.Second, 4 * time.Second, 11 * time.Second}
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
		server.Start()
		for len(notBefore) > 0 {
			r := in.next()
			if r.Failure != nil && r.ReceivedAt.Before(notBefore[r.ID]) {
				t.Errorf("message %s came %v too early", r.ID, notBefore[r.ID].Sub(r.ReceivedAt))
			}
			if r.Failure != nil { // else the acknowledgement of the original was lost
				delete(notBefore, r.ID)
			}
			_ = r.Settle(acked)
		}
		in.stop()
	}
}

// A connection that breaks anywhere, between the receipt of a copy and the
// acknowledgement of its original too, leaves at least one of both.
func TestRetryCutAnywhere(t *testing.T) {
	t.Parallel()
	server, address := broker(t)
	proxy := testenv.NewProxy(t, server.STOMPAddr())
	in := listen(t, via(t, address, proxy), &SubscriberConfig{Connection: quick}, everything(10), nil)
	in.waitReady()
	p := newPublisher(t, address, nil)
	for bytes := int64(1); bytes < 3000; bytes += 197 {
		m := testMessages(fmt.Sprint("cut.", bytes), 1)[0]
		if err := publishOne(t, p, m); err != nil {
			t.Fatal(err)
		}
		cut := proxy.CutAfter(bytes)
		for again := in.next(); ; again = in.next() {
			if again.ID != m.ID || again.Failure != nil { // the former is a copy too many of one before
				_ = again.Settle(acked)
				if again.ID == m.ID {
					break
				}
				continue
			}
			if again.Settle(retryAfter(10*time.Millisecond)) != nil {
				_ = again.Settle(outbox.Settlement{Outcome: outbox.Requeue})
			}
		}
		select {
		case <-cut:
		default:
			proxy.Cut()
		}
		in.waitReady()
	}
}

// Members keep what waits, and give it back when they end. If that is more often than a
// delivery limit allows, the message comes early, and is not lost.
func TestDeliveryLimitLosesNoRetry(t *testing.T) {
	t.Parallel()
	server, address := broker(t)
	server.Eval(fmt.Sprintf(`rabbit_policy:set(<<"%s">>, <<"limit">>, <<"^RETRY">>, [{<<"delivery-limit">>, 2}], 0, <<"queues">>, <<"test">>).`, vhostOf(address)))
	config := &SubscriberConfig{Connection: quick}
	in := listen(t, address, config, everything(5), nil)
	in.waitReady()
	m := testMessages("a.b", 1)[0]
	if failed := publishAgain(t, newPublisher(t, address, nil), []*outbox.Message{m}); failed != nil {
		t.Fatal(failed)
	}
	mustSettle(t, in.next(), retryAfter(time.Hour))
	for range 20 {
		if len(in.got) > 0 {
			break
		}
		in.stopWith(outbox.Requeue) // a member has what waits when it is ready
		in = listen(t, address, config, everything(5), nil)
		in.waitReady()
	}
	r := in.next()
	if r.ID != m.ID || r.Topic != m.Topic || r.Failure == nil || *r.Failure != *failed(1) {
		t.Errorf("got %+v with %+v", r.Message, r.Failure)
	}
	mustSettle(t, r, acked)
}

// What the sender gave a message is there after a retry and in the dead letters.
func TestRetryKeepsProperties(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	in := listen(t, address, nil, everything(5), nil)
	in.waitReady()
	conn := rawConn(t, address)
	sent := &stomp.Frame{Command: stomp.Send, Body: []byte("x")}
	for _, h := range [][2]string{
		{"destination", "/topic/real.topic"}, {"receipt", "r"}, {"content-type", "text/plain"}, {"content-encoding", "gzip"}, {"priority", "3"},
		{"correlation-id", "c"}, {"reply-to", "/topic/answers"}, {"expiration", "3600000"}, {"amqp-message-id", "m"}, {"timestamp", "1000000000"},
		{"type", "t"}, {"user-id", "guest"}, {"app-id", "a"}, {"own", "v"},
	} {
		sent.Add(h[0], h[1])
	}
	exchange(t, conn, sent)
	first := in.next()
	mustSettle(t, first, retryAfter(20*time.Millisecond))
	again := in.next()
	want := maps.Clone(first.Headers)
	delete(want, headerExpiration)
	delete(want, headerUserID)
	if !maps.Equal(again.Headers, want) || again.Topic != "real.topic" || again.Type != "t" || again.ID != "m" || !again.CreatedAt.Equal(time.Unix(1e9, 0)) {
		t.Errorf("got\n%+v after the retry of\n%+v", again.Message, first.Message)
	}
	if again.Failure == nil || *again.Failure != *failed(1) || string(again.Payload) != "x" || want["priority"] != "3" {
		t.Errorf("got %+v with %+v", again.Message, again.Failure)
	}
	mustSettle(t, again, outbox.Settlement{Outcome: outbox.DeadLetter, Failure: failed(2)})
	d := listen(t, address, nil, deadLetters, nil).next()
	if !maps.Equal(d.Headers, want) || d.Topic != "real.topic" || d.Failure == nil || *d.Failure != *failed(2) {
		t.Errorf("got dead letter %+v with %+v", d.Message, d.Failure)
	}
}

// What the dead letters of one queue have been through is nothing to the others that
// get them, too, when somebody moves them to the exchange.
func TestFailureOfAnotherQueue(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	in := listen(t, address, nil, everything(5), nil)
	in.waitReady()
	s := everything(5)
	s.Queue = "other"
	other := listen(t, address, nil, s, nil)
	other.waitReady()
	m := testMessages("a", 1)[0]
	m.Headers = failed(5).Headers()
	if failed := publishAgain(t, newPublisher(t, address, nil), []*outbox.Message{m}); failed != nil {
		t.Fatal(failed)
	}
	if r := in.next(); r.Failure == nil || r.Failure.Attempts != 5 || !r.Redelivered {
		t.Errorf("its own queue gets the failure %+v, want one of 5 attempts", r.Failure)
	}
	if r := other.next(); r.Failure != nil || r.Headers != nil || r.Redelivered {
		t.Errorf("another queue gets the failure %+v, the headers %v and Redelivered %v, want none", r.Failure, r.Headers, r.Redelivered)
	}
}

func TestTiers(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "10s", 10 * time.Second: "10s", 10*time.Second + 1: "10m", 10 * time.Minute: "10m", 11 * time.Minute: "24h",
		outbox.MaxRetryDelay: "24h", 2 * outbox.MaxRetryDelay: "24h",
	} {
		if got := tierFor(d).name; got != want {
			t.Errorf("%v waits in tier %s, want %s", d, got, want)
		}
	}
	now := time.Now()
	for header, want := range map[string]time.Time{
		now.Add(time.Minute).Format(time.RFC3339Nano):        now.Add(time.Minute),
		now.Add(9 * 24 * time.Hour).Format(time.RFC3339Nano): now.Add(outbox.MaxRetryDelay),
		"": now, "soon": now,
	} {
		if got := dueAt(header, now); !got.Equal(want) {
			t.Errorf("%q is due at %v, want %v", header, got, want)
		}
	}
}

// A member keeps what waits no longer than RabbitMQ allows, and when it has all that
// it may keep it makes room for what is due sooner.
func TestWaiterMakesRoom(t *testing.T) {
	t.Parallel()
	w := newWaiter(nil, nil)
	start := time.Now()
	hour := frameOf(headerRetryAt, start.Add(time.Hour).UTC().Format(time.RFC3339Nano))
	soon := frameOf(headerRetryAt, start.Add(time.Second).UTC().Format(time.RFC3339Nano))
	w.add(hour, "24h")
	w.add(soon, "10s")
	look := func(after time.Duration, leaving int, wait time.Duration) {
		t.Helper()
		got, next := w.look(start.Add(after))
		if len(got) != leaving || next > wait || next < wait-time.Second {
			t.Errorf("after %v %d leave, and it looks again after %v; want %d and %v", after, len(got), next, leaving, wait)
		}
	}
	look(0, 0, time.Second)
	look(2*time.Second, 1, longHold-time.Second)
	look(longHold-time.Minute, 0, time.Minute+time.Second)
	for range tierPrefetch - 1 {
		w.add(hour, "24h")
	}
	look(shortHold-time.Second, 0, time.Second+time.Second)
	look(shortHold+time.Second, tierPrefetch, longHold)
}

// The largest message that may be sent comes back from retries and dead letters.
func TestManyHeadersAreTaken(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	in := listen(t, address, nil, everything(5), nil)
	in.waitReady()
	most := testMessages("most", 1)[0]
	most.Headers = map[string]string{}
	for i := range maxHeaders {
		most.Headers[fmt.Sprint("x-", i)] = "v"
	}
	largest := testMessages("largest", 1)[0]
	largest.Headers = map[string]string{"x": strings.Repeat(`\`, maxHeaderBytes-100)}
	if failed := publishAgain(t, newPublisher(t, address, nil), []*outbox.Message{most, largest}); failed != nil {
		t.Fatal(failed)
	}
	dead := outbox.Settlement{Outcome: outbox.DeadLetter, Failure: failed(2)}
	for _, s := range []outbox.Settlement{retryAfter(0), dead} {
		for range 2 {
			mustSettle(t, in.next(), s)
		}
	}
	d := listen(t, address, nil, deadLetters, nil)
	for _, m := range []*outbox.Message{most, largest} {
		if r := d.next(); !maps.Equal(r.Headers, m.Headers) {
			t.Errorf("message %s comes back with %d headers of %d", m.ID, len(r.Headers), len(m.Headers))
		}
	}
}
