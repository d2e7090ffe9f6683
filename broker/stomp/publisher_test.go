package stomp

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
)

// The broker ends the connection because of one message of the window: replayed as a
// relay does it, that one is refused, and all others are confirmed.
func TestPoisonMessageAloneIsRefused(t *testing.T) {
	t.Parallel()
	for destination, c := range map[string]struct {
		class error
		text  string
	}{
		"/nowhere/x":          {outbox.ErrInvalid, "Unknown destination"},
		"/topic/":             {outbox.ErrInvalid, "Invalid destination"},
		"/exchange/missing/x": {outbox.ErrRefused, "no exchange 'missing'"},
		"/queue/q":            {outbox.ErrRefused, "inequivalent arg"}, // it is of another type
	} {
		t.Run(destination[:min(len(destination), 20)], func(t *testing.T) {
			t.Parallel()
			_, address := broker(t)
			declared(t, address, nil)
			p := newPublisher(t, address, &PublisherConfig{Connection: quick})
			msgs := testMessages("a", 1000)
			const poison = "a-00500"
			msgs[500].Headers = map[string]string{HeaderDestination: destination}
			var again []*outbox.Message
			for _, o := range publishAsync(t, p, 1000, msgs) {
				if o.err != nil {
					wantErr(t, o.err, outbox.ErrUnavailable)
					again = append(again, o.m)
				}
			}
			failed := publishAgain(t, p, again)
			if len(failed) != 1 || failed[0].m.ID != poison {
				t.Fatalf("not confirmed were %v, want the poison message alone", failed)
			}
			wantErr(t, failed[0].err, c.class, c.text)
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.suspects.any() {
				t.Errorf("%d messages are suspects after all were answered", len(p.suspects.ids))
			}
		})
	}
}

// RabbitMQ's plugin does not survive a queue that refuses a message: it ends the
// connection without a word, as it does when it goes down.
func TestFullQueueRefuses(t *testing.T) {
	t.Parallel()
	for _, queueType := range []QueueType{Quorum, Classic} {
		t.Run(string(queueType), func(t *testing.T) {
			t.Parallel()
			server, address := broker(t)
			server.Eval(fmt.Sprintf(`rabbit_policy:set(<<"%s">>, <<"p">>, <<"^q$">>, [{<<"max-length">>, 10}, {<<"overflow">>, <<"reject-publish">>}], 0, <<"queues">>, <<"t">>).`, vhostOf(address)))
			full := listen(t, address, &SubscriberConfig{QueueType: queueType}, outbox.Subscription{Queue: "q", Topics: []string{"a"}, Prefetch: 1}, nil)
			full.waitReady()
			full.stop()
			bystander := everything(10)
			bystander.Queue, bystander.Topics = "other", []string{"other"}
			in := listen(t, address, nil, bystander, nil)
			in.waitReady()
			p := newPublisher(t, address, &PublisherConfig{Connection: quick, Destination: "/amq/queue/q"})
			var failed []outcome
			for _, m := range testMessages("a", 30) {
				failed = append(failed, publishAgain(t, p, []*outbox.Message{m})...)
			}
			if len(failed) == 0 || len(failed) > 20 {
				t.Fatalf("%d of 30 messages were not confirmed, want those that the queue has no room for", len(failed))
			}
			for _, o := range failed {
				wantErr(t, o.err, outbox.ErrRefused, "reject-publish")
			}
			// Others go on.
			m := testMessages("other", 1)[0]
			m.Headers = map[string]string{HeaderDestination: "/topic/other"}
			if failed := publishAgain(t, p, []*outbox.Message{m}); failed != nil {
				t.Fatal(failed)
			}
			mustSettle(t, in.next(), acked)
		})
	}
}

func TestPayloadAboveTheBrokersLimitIsInvalid(t *testing.T) {
	t.Parallel()
	server := testenv.StartRabbitMQ(t, &testenv.RabbitMQOptions{Config: "max_message_size = 100000\n"})
	address := server.STOMPURL(server.NewVHost(t))
	p := newPublisher(t, address, &PublisherConfig{Connection: quick})
	msgs := testMessages("a", 3)
	msgs[0].Payload, msgs[1].Payload = make([]byte, 100_001), make([]byte, 200_000)
	wantErr(t, publishOne(t, p, msgs[0]), outbox.ErrInvalid, "100001", "100000")
	if failed := publishAgain(t, p, msgs[2:]); failed != nil {
		t.Fatal(failed)
	}
	// It does not cost the connection again.
	session := currentSession(p)
	wantErr(t, publishOne(t, p, msgs[1]), outbox.ErrInvalid, "200000", "max_message_size", "100000")
	if currentSession(p) != session {
		t.Error("the connection was opened again")
	}
}

// No message is to blame for what every message would meet with.
func TestMissingExchangeIsUnavailable(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	p := newPublisher(t, address, &PublisherConfig{Connection: quick, Destination: "/exchange/orders/{topic}"})
	for range 3 {
		wantErr(t, publishOne(t, p, testMessages("a", 1)[0]), outbox.ErrUnavailable)
	}
}

func TestFlushedMessagesGoOut(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	p := newPublisher(t, address, &PublisherConfig{Connection: Connection{SendHeartbeat: 10 * time.Minute}}) // a heart-beat would send, too
	if err := publishOne(t, p, testMessages("a", 1)[0]); err != nil {
		t.Fatal(err)
	}
	// Less than the buffer holds: nothing but Flush sends it.
	answered := make(chan error, 10)
	for _, m := range testMessages("b", 10) {
		p.Publish(t.Context(), m, func(err error) { answered <- err })
	}
	if n := len(answered); n > 0 {
		t.Errorf("%d messages are answered before Flush", n)
	}
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		select {
		case err := <-answered:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatal("messages are not answered after Flush")
		}
	}
}

// Publish sends by itself when its window is full.
func TestFullWindowGoesOut(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	p := newPublisher(t, address, nil)
	const n = 2*maxUnanswered + 1
	var answered atomic.Int64
	for _, m := range testMessages("a", n) {
		p.Publish(t.Context(), m, func(err error) {
			if err == nil {
				answered.Add(1)
			}
		})
	}
	if got := answered.Load(); got < n-maxUnanswered {
		t.Errorf("%d of %d messages are confirmed, at most %d may be unanswered", got, n, maxUnanswered)
	}
}

func TestBlockedBroker(t *testing.T) {
	t.Parallel()
	server := testenv.StartRabbitMQ(t, nil)
	p := newPublisher(t, server.STOMPURL(server.NewVHost(t)), &PublisherConfig{Connection: quick, ReceiptTimeout: 500 * time.Millisecond})
	if failed := publishAgain(t, p, testMessages("a", 1)); failed != nil {
		t.Fatal(failed)
	}
	server.Eval(`rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).`)
	var err error
	for err == nil { // the broker blocks who publishes: it may still take the first message
		err = publishOne(t, p, testMessages("a", 1)[0])
	}
	wantErr(t, err, outbox.ErrUnavailable)
	server.Eval(`rabbit_alarm:clear_alarm({resource_limit, memory, node()}).`)
	if failed := publishAgain(t, p, testMessages("a", 10)); failed != nil {
		t.Fatal(failed)
	}
}

func TestHostsAreTriedInTurn(t *testing.T) {
	t.Parallel()
	server, address := broker(t)
	first, second := testenv.NewProxy(t, server.STOMPAddr()), testenv.NewProxy(t, server.STOMPAddr())
	first.Refuse()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	both := strings.Replace(address, u.Host, first.Addr()+","+second.Addr(), 1)
	p := newPublisher(t, both, &PublisherConfig{Connection: quick})
	if failed := publishAgain(t, p, testMessages("a", 1)); failed != nil || second.Connections() != 1 {
		t.Fatalf("%v; the second host has %d connections", failed, second.Connections())
	}
	first.Accept()
	second.Refuse()
	second.Cut()
	if failed := publishAgain(t, p, testMessages("a", 100)); failed != nil || first.Connections() != 1 {
		t.Fatalf("%v; the first host has %d connections", failed, first.Connections())
	}
}

func TestWrongCredentialsAreHopeless(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	address = strings.Replace(address, "guest:guest@", "guest:s3cr3t@", 1)
	err := listen(t, address, nil, everything(1), nil).waitEnd()
	wantTexts(t, err, "Access refused")
	failed := publishOne(t, newPublisher(t, address, nil), testMessages("a", 1)[0])
	wantErr(t, failed, outbox.ErrUnavailable, "Access refused")
	if strings.Contains(err.Error()+failed.Error(), "s3cr3t") {
		t.Errorf("an error has the password: %v; %v", err, failed)
	}
}

func TestKilledBrokerKeepsWhatItConfirmed(t *testing.T) {
	t.Parallel()
	server := testenv.StartRabbitMQ(t, nil)
	for _, queueType := range []QueueType{Quorum, Classic} {
		killedBroker(t, server, &SubscriberConfig{Connection: quick, QueueType: queueType})
	}
}

func killedBroker(t *testing.T, server *testenv.RabbitMQServer, config *SubscriberConfig) {
	t.Helper()
	address := server.STOMPURL(server.NewVHost(t))
	declared(t, address, config)
	p := newPublisher(t, address, &PublisherConfig{Connection: quick})
	const n = 5000
	msgs := testMessages("a", n)
	outcomes, confirmed := make([]outcome, n), atomic.Int64{}
	slots, answers := make(chan struct{}, 1000), make(chan struct{}, n)
	go func() {
		for i, m := range msgs {
			select {
			case slots <- struct{}{}:
			default:
				_ = p.Flush()
				slots <- struct{}{}
			}
			outcomes[i].m = m
			p.Publish(context.Background(), m, func(err error) {
				if err == nil {
					confirmed.Add(1)
				}
				outcomes[i].err = err
				<-slots
				answers <- struct{}{}
			})
		}
		_ = p.Flush()
	}()
	for confirmed.Load() < n/10 {
		time.Sleep(time.Millisecond)
	}
	server.Kill()
	for range n {
		select {
		case <-answers:
		case <-time.After(patience):
			t.Fatalf("%d of %d messages are not answered", n-len(answers), n)
		}
	}
	server.Start()
	want, again := map[string]bool{}, []*outbox.Message{}
	for _, o := range outcomes {
		if o.err == nil {
			want[o.m.ID] = true
		} else {
			wantErr(t, o.err, outbox.ErrUnavailable)
			again = append(again, o.m)
		}
	}
	if len(again) == 0 {
		t.Fatal("the kill came too late")
	}
	listen(t, address, config, everything(1000), nil).collect(want)
	// The publisher comes back by itself.
	if failed := publishAgain(t, p, again[:min(100, len(again))]); failed != nil {
		t.Fatal(failed)
	}
}

func TestCutInMidWindow(t *testing.T) {
	t.Parallel()
	server, address := broker(t)
	proxy := testenv.NewProxy(t, server.STOMPAddr())
	in := listen(t, address, nil, everything(1000), nil)
	in.waitReady()
	p := newPublisher(t, via(t, address, proxy), &PublisherConfig{Connection: quick})
	if failed := publishAgain(t, p, testMessages("first", 1)); failed != nil {
		t.Fatal(failed)
	}
	for _, bytes := range []int64{1, 1000, 50_000, 150_001} {
		cut := proxy.CutAfter(bytes)
		want, again := map[string]bool{}, []*outbox.Message{}
		for _, o := range publishAsync(t, p, 1000, testMessages(fmt.Sprint("cut.", bytes), 1500)) {
			want[o.m.ID] = true
			if o.err != nil {
				wantErr(t, o.err, outbox.ErrUnavailable)
				again = append(again, o.m)
			}
		}
		<-cut
		if len(again) == 0 {
			t.Errorf("cut after %d bytes: all messages were confirmed", bytes)
		}
		if failed := publishAgain(t, p, again); failed != nil {
			t.Fatal(failed)
		}
		in.collect(want)
	}
}

// A connection that is down answers at once.
func TestLostConnectionRefusesAtOnce(t *testing.T) {
	t.Parallel()
	server, address := broker(t)
	proxy := testenv.NewProxy(t, server.STOMPAddr())
	p := newPublisher(t, via(t, address, proxy), &PublisherConfig{Connection: Connection{ReconnectMin: time.Hour, ReconnectMax: time.Hour}})
	if err := publishOne(t, p, testMessages("a", 1)[0]); err != nil {
		t.Fatal(err)
	}
	proxy.Stall()
	answered := make(chan error, 100)
	for _, m := range testMessages("a", 100) {
		p.Publish(t.Context(), m, func(err error) { answered <- err })
	}
	_ = p.Flush()
	proxy.Cut()
	for range 100 {
		select {
		case err := <-answered:
			wantErr(t, err, outbox.ErrUnavailable)
		case <-time.After(patience):
			t.Fatal("messages are not answered")
		}
	}
	// The next attempt to connect is an hour away.
	wantErr(t, publishOne(t, p, testMessages("a", 1)[0]), outbox.ErrUnavailable)
}

// Everything that is silent for longer than the ReceiptTimeout is answered.
func TestSilentBrokerIsUnavailable(t *testing.T) {
	t.Parallel()
	server, address := broker(t)
	proxy := testenv.NewProxy(t, server.STOMPAddr())
	p := newPublisher(t, via(t, address, proxy), &PublisherConfig{Connection: quick, ReceiptTimeout: 200 * time.Millisecond})
	if failed := publishAgain(t, p, testMessages("a", 1)); failed != nil {
		t.Fatal(failed)
	}
	proxy.Stall()
	for _, o := range publishAsync(t, p, 10, testMessages("a", 10)) {
		wantErr(t, o.err, outbox.ErrUnavailable)
	}
	proxy.Resume()
	if failed := publishAgain(t, p, testMessages("a", 1)); failed != nil {
		t.Fatal(failed)
	}
}

func TestSuspectsAreForgotten(t *testing.T) {
	t.Parallel()
	var s suspects
	lost := []pending{{id: "a"}, {id: "b"}}
	s.witness(lost)
	if s.any() {
		t.Error("one lost connection makes suspects")
	}
	s.answered("b")
	s.witness(lost)
	if !s.has("a") || s.has("b") {
		t.Errorf("suspects are %v, want a alone: b was answered meanwhile", s.ids)
	}
	// Nobody sends a again: it is another relay's by now.
	for range 4 {
		s.answered("others")
	}
	if s.any() {
		t.Error("the suspect that does not come is waited for")
	}
}

// Of a message that is unanswered each time that the broker goes down nothing is known.
func TestOutagesMakeNoSuspects(t *testing.T) {
	t.Parallel()
	var s suspects
	s.add("blamed")
	lost := []pending{{id: "a"}}
	for range 3 {
		s.witness(lost)
		s.witness(lost)
		s.down()
	}
	s.witness(lost)
	if s.has("a") || !s.has("blamed") {
		t.Errorf("suspects are %v, want that alone which the broker has blamed", s.ids)
	}
}

// A queue that a subscriber has declared has other properties than a SEND to it asks for.
// That is the configuration's fault, and not a message's.
func TestQueueWithOtherPropertiesIsUnavailable(t *testing.T) {
	t.Parallel()
	_, address := broker(t)
	declared(t, address, nil)
	p := newPublisher(t, address, &PublisherConfig{Connection: quick, Destination: "/queue/q"})
	for range 3 {
		wantErr(t, publishOne(t, p, testMessages("a", 1)[0]), outbox.ErrUnavailable)
	}
	right := newPublisher(t, address, &PublisherConfig{Destination: "/amq/queue/q"})
	if err := publishOne(t, right, testMessages("a", 1)[0]); err != nil {
		t.Errorf("by /amq/queue the answer is %v", err)
	}
}

func currentSession(p *Publisher) *session {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.session
}
