package natsjs_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/natsjs"
)

func deadLetter(attempts int) outbox.Settlement {
	return outbox.Settlement{Outcome: outbox.DeadLetter, Failure: failure(attempts)}
}

func deadOf(queue string) outbox.Subscription {
	return outbox.Subscription{Queue: queue, Prefetch: 5, DeadLetters: true}
}

// TestDeadLetterOnce: a member that dies between the dead letter and its
// acknowledgement leaves the message to another, which buries it once more.
func TestDeadLetterOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t, users("$JS.ACK.>"))
	config := place()
	config.ConnectTimeout = 300 * time.Millisecond
	full := connect(t, s.as("full"), config)
	publishN(t, full, 1)
	c := subscribe(t, connect(t, s.as("limited"), config), all("q", 1))
	r := c.want(0, 0)
	if err := r.Settle(deadLetter(1)); err == nil {
		t.Error("a dead letter whose message could not be acknowledged: no error")
	}
	if err := c.sub.Close(); err != nil {
		t.Fatal(err)
	}
	second := subscribe(t, full, all("q", 1))
	second.settle(second.want(0, 0), deadLetter(1))
	third := subscribe(t, full, all("other", 1)) // the same message, another dead letter
	third.settle(third.want(0, 0), deadLetter(1))
	js := s.jetStream(t)
	state := streamState(t, js, config.Stream+"-dead")
	if state.Msgs != 2 {
		t.Errorf("%d dead letters, want one for each queue", state.Msgs)
	}
	second.end()
	third.end()
	dead := subscribe(t, full, deadOf("q"))
	dead.settle(dead.want(0, 1), outbox.Settlement{Outcome: outbox.Ack})
	dead.end()
	eventually(t, "the dead letter is gone", func() bool { return streamState(t, js, config.Stream+"-dead").Msgs == 1 })
}

// TestStreamMadeAnewHasOtherDeadLetters: it counts from one again.
func TestStreamMadeAnewHasOtherDeadLetters(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	js := s.jetStream(t)
	b := connect(t, s.url(), config)
	for i := range 2 {
		publishN(t, b, 1)
		c := subscribe(t, b, all("q", 1))
		c.settle(c.want(0, 0), deadLetter(1))
		c.end()
		if got := streamState(t, js, config.Stream+"-dead").Msgs; got != uint64(i+1) {
			t.Errorf("%d dead letters, want %d", got, i+1)
		}
		if err := js.DeleteStream(t.Context(), config.Stream); err != nil {
			t.Fatal(err)
		}
		b = connect(t, s.url(), config)
	}
}

// TestDeadLetterPublishedAgain: to all queues that get it, it is a new message.
func TestDeadLetterPublishedAgain(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	b := connect(t, s.url(), config)
	c := subscribe(t, b, all("q", 1))
	publishN(t, b, 1)
	js := s.jetStream(t)
	c.settle(c.want(0, 0), outbox.Settlement{Outcome: outbox.DeadLetter, Failure: &outbox.Failure{
		Attempts: 5, Reason: "it failed ", Handler: "#", Queue: "q", FirstAt: time.Unix(1, 0), LastAt: time.Unix(2, 0),
	}})
	stream, err := js.Stream(t.Context(), config.Stream+"-dead")
	if err != nil {
		t.Fatal(err)
	}
	dead, err := stream.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	delete(dead.Header, nats.ExpectedStreamHdr)
	topic := benchMessage(0).Topic
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: config.SubjectPrefix + topic, Data: dead.Data, Header: dead.Header}); err != nil {
		t.Fatal(err)
	}
	r := c.want(0, 0)
	for name := range r.Headers {
		if strings.Contains(name, outbox.HeaderPrefix) && name != outbox.HeaderID {
			t.Errorf("the header %s reaches the handler", name)
		}
	}
	c.settle(r, outbox.Settlement{Outcome: outbox.Ack})
	c.end()
}

// TestDeadLettersOfOthers: messages that this package has not published, without
// any headers and with strange ones.
func TestDeadLettersOfOthers(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	b := connect(t, s.url(), config)
	js := s.jetStream(t)
	for _, h := range []nats.Header{nil, {
		nats.MsgIdHdr: {" id "}, "X-Some": {"some"}, outbox.HeaderID: {"a user's"}, outbox.HeaderAttempts: {"99"}, outbox.HeaderReason: {"a lie"},
		outbox.HeaderKey: {"k"}, "outbox-other": {"o"}, "outbox-key-escaped": {"%zz"}, "Content-Type": {"text/plain"},
	}} {
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: config.SubjectPrefix + "user.created", Data: []byte("x"), Header: h}); err != nil {
			t.Fatal(err)
		}
	}
	c := subscribe(t, b, all("q", 1))
	dead := subscribe(t, b, deadOf("q"))
	for i := range 2 {
		r := c.next()
		c.settle(r, outbox.Settlement{Outcome: outbox.DeadLetter, Failure: &outbox.Failure{Attempts: 1}})
		d := dead.next()
		want := r.Message
		delete(want.Headers, outbox.HeaderAttempts)
		delete(want.Headers, outbox.HeaderReason)
		wantSame(t, &d.Message, &want)
		if d.Failure == nil || *d.Failure != (outbox.Failure{Attempts: 1}) {
			t.Errorf("message %d has failure %+v", i, d.Failure)
		}
		dead.settle(d, outbox.Settlement{Outcome: outbox.Ack})
	}
	c.end()
	dead.end()
}

func wantSame(tb testing.TB, got, want *outbox.Message) {
	tb.Helper()
	for _, f := range []struct{ name, got, want string }{
		{"ID", got.ID, want.ID}, {"Topic", got.Topic, want.Topic}, {"Key", got.Key, want.Key}, {"Type", got.Type, want.Type},
		{"ContentType", got.ContentType, want.ContentType}, {"Payload", string(got.Payload), string(want.Payload)},
		{"CreatedAt", got.CreatedAt.String(), want.CreatedAt.String()},
	} {
		if f.got != f.want {
			tb.Errorf("%s: got %.100q, want %.100q", f.name, f.got, f.want)
		}
	}
	for name, value := range want.Headers {
		if got.Headers[name] != value {
			tb.Errorf("header %s: got %q, want %q", name, got.Headers[name], value)
		}
	}
	if len(got.Headers) != len(want.Headers) {
		tb.Errorf("headers: got %v, want %v", got.Headers, want.Headers)
	}
}

// TestDeadLetterOfGreatest: a message that leaves no room for a long reason dies
// without one.
func TestDeadLetterOfGreatest(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	b := connect(t, s.url(), config)
	p := b.Publisher()
	defer p.Close()
	m := benchMessage(0)
	m.Payload = make([]byte, 1<<20-1000)
	if err := publish(t, p, m); err != nil {
		t.Fatal(err)
	}
	c := subscribe(t, b, all("q", 1))
	f := failure(3)
	f.Reason = strings.Repeat("long ", 200)
	c.settle(c.want(0, 0), outbox.Settlement{Outcome: outbox.DeadLetter, Failure: f})
	dead := subscribe(t, b, deadOf("q"))
	r := dead.want(0, 3)
	if len(r.Payload) != len(m.Payload) || r.Failure.Reason != "" || r.Failure.Queue != "q" {
		t.Errorf("got %d bytes with %+v", len(r.Payload), r.Failure)
	}
	dead.settle(r, outbox.Settlement{Outcome: outbox.Ack})
	c.end()
	dead.end()
}

// TestDeadStream looks at what an operator finds.
func TestDeadStream(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	js := s.jetStream(t)
	config := place()
	name := config.Stream
	config.SubjectPrefix, config.DeadLetterMaxAge, config.MaxAge = name+".eu.", time.Minute, time.Hour
	// Its subjects are more than the prefix: those of the dead letters are not
	// among them nevertheless.
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}, MaxAge: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	b := connect(t, s.url(), config)
	publishN(t, b, 1)
	c := subscribe(t, b, all("q.1", 1))
	c.settle(c.want(0, 0), deadLetter(1))
	c.end()

	dead, err := js.Stream(t.Context(), name+"-dead")
	if err != nil {
		t.Fatal(err)
	}
	if got := dead.CachedInfo().Config; got.MaxAge != time.Minute || got.Duplicates != time.Minute || got.Storage != jetstream.FileStorage || got.Discard != jetstream.DiscardNew || !got.AllowDirect {
		t.Errorf("the dead letters' stream is %+v", got)
	}
	msg, err := dead.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if want := name + "-dead.eu.q=2E1.user.created"; msg.Subject != want {
		t.Errorf("the dead letter's subject is %q, want %q", msg.Subject, want)
	}
	if h := msg.Header; h.Get(outbox.HeaderAttempts) != "1" || h.Get(outbox.HeaderReason) != "it failed" || h.Get(outbox.HeaderID) != benchMessage(0).ID {
		t.Errorf("the dead letter's headers are %v", h)
	}
	kv, err := js.KeyValue(t.Context(), name+"-retries")
	if err != nil {
		t.Fatal(err)
	}
	if status, err := kv.Status(t.Context()); err != nil || status.TTL() != 2*time.Hour || status.History() != 1 {
		t.Errorf("the bucket is %+v, %v", status, err)
	}
}

// TestDeadStreamMustNotOverlap: the main stream would collect its own dead letters.
func TestDeadStreamMustNotOverlap(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	_, err := s.jetStream(t).CreateStream(t.Context(), jetstream.StreamConfig{Name: config.Stream, Subjects: []string{config.SubjectPrefix + ">", config.Stream + "-dead.*.>"}})
	if err != nil {
		t.Fatal(err)
	}
	b := connect(t, s.url(), config)
	err = b.Subscriber().Subscribe(t.Context(), all("q", 1), func() {}, func(*outbox.Received) {})
	wantError(t, err, config.Stream+"-dead.*.>", config.Stream+"-dead.>")
}

// TestConsumerOfAllDeadLetters: somebody else's consumer with the queue's name.
func TestConsumerOfAllDeadLetters(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	b := connect(t, s.url(), config)
	subscribe(t, b, all("q", 1)).end()
	_, err := s.jetStream(t).CreateConsumer(t.Context(), config.Stream+"-dead", jetstream.ConsumerConfig{Durable: "q", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	err = b.Subscriber().Subscribe(t.Context(), deadOf("q"), func() {}, func(*outbox.Received) {})
	wantError(t, err, "q", config.Stream+"-dead.q.>")
}

// TestDeadLetterWithoutStream: the message stays until the stream is there again.
func TestDeadLetterWithoutStream(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	b := connect(t, s.url(), config)
	publishN(t, b, 1)
	c := subscribe(t, b, all("q", 1))
	r := c.want(0, 0)
	if err := s.jetStream(t).DeleteStream(t.Context(), config.Stream+"-dead"); err != nil {
		t.Fatal(err)
	}
	wantError(t, r.Settle(deadLetter(1)), config.Stream+"-dead")
	if n := consumerInfo(t, s.jetStream(t), config.Stream, "q").NumAckPending; n != 1 {
		t.Errorf("%d messages are unacknowledged after a dead letter that nobody has, want 1", n)
	}
	eventually(t, "the stream is made again", func() bool { return r.Settle(deadLetter(1)) == nil })
	dead := subscribe(t, b, deadOf("q"))
	dead.settle(dead.want(0, 1), outbox.Settlement{Outcome: outbox.Ack})
	c.end()
	dead.end()
}

func TestDeadLettersCheckOnly(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	b := connect(t, s.url(), config)
	checking := *config
	checking.Topology = natsjs.CheckOnly
	checked, err := natsjs.New(s.url(), &checking)
	if err != nil {
		t.Fatal(err)
	}
	run := func() error {
		return checked.Subscriber().Subscribe(t.Context(), deadOf("q"), func() {}, func(*outbox.Received) {})
	}
	wantError(t, run(), config.Stream+"-dead", "workqueue", "does not exist")
	subscribe(t, b, all("q", 1)).end()
	wantError(t, run(), config.Stream+"-dead", `consumer "q"`, "does not exist")
	subscribe(t, b, deadOf("q")).end()
	subscribe(t, checked, deadOf("q")).end()
}
