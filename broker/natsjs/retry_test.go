package natsjs_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/natsjs"
	"github.com/outbox-go/outbox/internal/testenv"
)

func retryAfter(d time.Duration, attempts int) outbox.Settlement {
	return outbox.Settlement{Outcome: outbox.Retry, Delay: d, Failure: failure(attempts)}
}

func failure(attempts int) *outbox.Failure {
	return &outbox.Failure{Attempts: attempts, Reason: "it failed", Queue: "q"}
}

func (c *consumer) settle(r *outbox.Received, s outbox.Settlement) {
	c.tb.Helper()
	if err := r.Settle(s); err != nil {
		c.tb.Errorf("settle message %s with %+v: %v", r.Key, s, err)
	}
}

// want returns the next message, which must be the one with key and have so many
// failed attempts.
func (c *consumer) want(key, attempts int) *outbox.Received {
	c.tb.Helper()
	r := c.next()
	got := 0
	if r.Failure != nil {
		got = r.Failure.Attempts
	}
	if r.Key != fmt.Sprint(key) || got != attempts {
		c.tb.Fatalf("got message %s with %d failed attempts, want %d with %d", r.Key, got, key, attempts)
	}
	return r
}

func publishN(tb testing.TB, b *natsjs.Broker, n int) {
	tb.Helper()
	p := b.Publisher()
	defer p.Close()
	msgs := make([]*outbox.Message, n)
	for i := range msgs {
		msgs[i] = benchMessage(i)
	}
	publishAll(tb, p, msgs)
}

// entries returns how many entries the bucket has.
func entries(tb testing.TB, js jetstream.JetStream, config *natsjs.Config) uint64 {
	tb.Helper()
	return streamState(tb, js, "KV_"+config.Stream+"-retries").Msgs
}

func streamState(tb testing.TB, js jetstream.JetStream, name string) jetstream.StreamState {
	tb.Helper()
	stream, err := js.Stream(tb.Context(), name)
	if err != nil {
		tb.Fatal(err)
	}
	return stream.CachedInfo().State
}

// eventually waits until is says so.
func eventually(tb testing.TB, what string, is func() bool) {
	tb.Helper()
	for began := time.Now(); !is(); time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			tb.Fatalf("waited %s in vain until %s", patience, what)
		}
	}
}

// TestRetriesOutliveRestart: a server that is stopped and started again keeps time
// in whole seconds, and delivers up to one too early.
func TestRetriesOutliveRestart(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	outliveServer(t, s.url(), s.stop, s.start)
}

// TestRetriesOutliveKill: a server that is killed forgets, as well, what it
// delivered and was told a moment ago.
func TestRetriesOutliveKill(t *testing.T) {
	t.Parallel()
	p := startProcess(t)
	outliveServer(t, "nats://"+p.addr, p.kill, p.start)
}

func outliveServer(t *testing.T, url string, stop, start func()) {
	t.Helper()
	const n, delay = 10, 1600 * time.Millisecond
	b := connect(t, url, place())
	p := b.Publisher()
	defer p.Close()
	c := subscribe(t, b, all("q", n))
	notBefore := map[string]time.Time{}
	for i := range n { // one by one: the server writes down now and then what it has delivered
		if err := publish(t, p, benchMessage(i)); err != nil {
			t.Fatal(err)
		}
		r := c.want(i, 0)
		notBefore[r.Key] = time.Now().Add(delay)
		c.settle(r, retryAfter(delay, 2))
	}
	stop()
	start()
	for len(notBefore) > 0 {
		r := c.next()
		at, ok := notBefore[r.Key]
		if !ok {
			t.Fatalf("message %s came twice", r.Key)
		}
		delete(notBefore, r.Key)
		if early := at.Sub(r.ReceivedAt); early > 0 {
			t.Errorf("message %s came %s too early", r.Key, early)
		}
		if r.Failure == nil || r.Failure.Attempts != 2 {
			t.Errorf("message %s came with failure %+v, want that of the second attempt", r.Key, r.Failure)
		}
		c.settle(r, outbox.Settlement{Outcome: outbox.Ack})
	}
	c.end()
}

// TestShorterAckWaitDoesNotHurry: the server counts the delay of a nak from an
// AckWait ago, whatever that was when the nak came.
func TestShorterAckWaitDoesNotHurry(t *testing.T) {
	t.Parallel()
	const delay = time.Second
	s := startServer(t)
	config := place()
	config.AckWait = time.Minute
	b := connect(t, s.url(), config)
	publishN(t, b, 1)
	c := subscribe(t, b, all("q", 1))
	notBefore := time.Now().Add(delay)
	c.settle(c.want(0, 0), retryAfter(delay, 1))

	js := s.jetStream(t)
	changed := consumerInfo(t, js, config.Stream, "q").Config
	changed.AckWait, changed.Metadata = time.Second, nil
	if _, err := js.UpdateConsumer(t.Context(), config.Stream, changed); err != nil {
		t.Fatal(err)
	}
	r := c.want(0, 1)
	if early := notBefore.Sub(r.ReceivedAt); early > 0 {
		t.Errorf("the message came %s too early", early)
	}
	eventually(t, "the message has been sent back", func() bool { return consumerInfo(t, js, config.Stream, "q").Delivered.Consumer > 2 })
	c.settle(r, outbox.Settlement{Outcome: outbox.Ack})
	c.end()
}

// TestOnlyFailuresAreAttempts: neither Requeue, nor a lost connection, nor a
// member that dies counts.
func TestOnlyFailuresAreAttempts(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	proxy := testenv.NewProxy(t, s.addr())
	config := place()
	direct := connect(t, s.url(), config)
	b := connect(t, "nats://"+proxy.Addr(), config)
	publishN(t, direct, 1)
	c := subscribe(t, b, all("q", 1))
	requeue := outbox.Settlement{Outcome: outbox.Requeue}
	c.settle(c.want(0, 0), requeue)
	c.settle(c.want(0, 0), retryAfter(time.Millisecond, 1))
	c.settle(c.want(0, 1), requeue)
	c.want(0, 1)
	proxy.Stall() // the server hears nothing of it any more
	other := subscribe(t, direct, all("q", 1))
	r := other.want(0, 1)
	if !r.Redelivered {
		t.Error("Redelivered is false after four deliveries")
	}
	other.settle(r, retryAfter(0, 2))
	other.settle(other.want(0, 2), outbox.Settlement{Outcome: outbox.Ack})
	proxy.Cut()
	other.end()
}

// TestRetryWithoutBucket: what cannot be kept is not tried; the caller is told and
// gives the message back. The bucket comes again by itself.
func TestRetryWithoutBucket(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	b := connect(t, s.url(), config)
	publishN(t, b, 1)
	c := subscribe(t, b, all("q", 1))
	c.settle(c.want(0, 0), retryAfter(time.Millisecond, 1))
	r := c.want(0, 1)
	bucket := config.Stream + "-retries"
	if err := s.jetStream(t).DeleteStream(t.Context(), "KV_"+bucket); err != nil {
		t.Fatal(err)
	}
	wantError(t, r.Settle(retryAfter(time.Millisecond, 2)), bucket)
	eventually(t, "the connection is renewed", func() bool {
		_, err := s.jetStream(t).Stream(t.Context(), "KV_"+bucket)
		return err == nil
	})
	eventually(t, "the message can be given back", func() bool { return r.Settle(outbox.Settlement{Outcome: outbox.Requeue}) != nil })
	r = c.want(0, 0) // what was kept is lost with the bucket
	c.settle(r, retryAfter(time.Millisecond, 1))
	c.settle(c.want(0, 1), outbox.Settlement{Outcome: outbox.Ack})
	c.end()
}

// TestRetryNotPermitted: after a Retry that failed the message is still being
// worked on, so that no other member gets it.
func TestRetryNotPermitted(t *testing.T) {
	t.Parallel()
	s := startServer(t, users("$KV.>"))
	config := place()
	config.AckWait, config.ConnectTimeout = 300*time.Millisecond, 300*time.Millisecond
	full := connect(t, s.as("full"), config)
	publishN(t, full, 1)
	c := subscribe(t, connect(t, s.as("limited"), config), all("q", 1))
	r := c.want(0, 0)
	other := subscribe(t, full, all("q", 1))
	for range 3 {
		wantError(t, r.Settle(retryAfter(time.Millisecond, 1)), config.Stream+"-retries")
	}
	if n := len(other.got); n > 0 {
		t.Errorf("the message of a Retry that failed was delivered %d times more", n)
	}
	c.settle(r, outbox.Settlement{Outcome: outbox.Requeue})
	c.end() // or it gets it again
	other.settle(other.want(0, 0), outbox.Settlement{Outcome: outbox.Ack})
	other.end()
}

// TestLookupUnanswered: a message whose history is not known is not passed on, and
// keeps others back for a moment only.
func TestLookupUnanswered(t *testing.T) {
	t.Parallel()
	s := startServer(t, users("$JS.API.STREAM.MSG.GET.>"))
	config := place()
	config.ConnectTimeout = 300 * time.Millisecond // after which it is asked for again
	full := connect(t, s.as("full"), config)
	publishN(t, full, 2)
	first := subscribe(t, full, all("q", 1))
	first.settle(first.want(0, 0), retryAfter(0, 1))
	first.want(0, 1)
	if err := first.sub.Close(); err != nil {
		t.Fatal(err)
	}
	c := subscribe(t, connect(t, s.as("limited"), config), all("q", 5))
	r := c.want(1, 0)
	c.settle(r, outbox.Settlement{Outcome: outbox.Ack})
	c.end()
	if len(c.got) > 0 {
		t.Errorf("a message came with failure %+v, which cannot be known", (<-c.got).Failure)
	}
	last := subscribe(t, full, all("q", 5))
	last.settle(last.want(0, 1), outbox.Settlement{Outcome: outbox.Ack})
	last.end()
}

// TestEntriesGo: the bucket keeps nothing of messages that are done with.
func TestEntriesGo(t *testing.T) {
	t.Parallel()
	const n = 6
	s := startServer(t)
	config := place()
	b := connect(t, s.url(), config)
	publishN(t, b, n)
	c := subscribe(t, b, all("q", n))
	for i := range n {
		c.settle(c.want(i, 0), retryAfter(time.Hour, 1))
	}
	js := s.jetStream(t)
	if got := entries(t, js, config); got != n {
		t.Errorf("the bucket has %d entries, want %d", got, n)
	}
	c.end()
	if err := js.DeleteConsumer(t.Context(), config.Stream, "q"); err != nil {
		t.Fatal(err)
	}
	// A consumer that is made anew begins anew: its messages have failed at no
	// attempt, and it must not take the entries of the old one for its own.
	c = subscribe(t, b, all("q", n))
	for i := range n {
		c.settle(c.want(i, 0), outbox.Settlement{Outcome: outbox.Requeue})
	}
	var held []*outbox.Received
	for range n {
		r := c.next()
		if r.Failure != nil {
			t.Errorf("message %s has the failure of another life", r.Key)
		}
		held = append(held, r)
	}
	for _, r := range held {
		c.settle(r, retryAfter(time.Millisecond, 1))
	}
	for i := range n {
		how := outbox.Settlement{Outcome: outbox.Ack}
		if i%2 == 0 {
			how = outbox.Settlement{Outcome: outbox.DeadLetter, Failure: failure(2)}
		}
		c.settle(c.next(), how)
	}
	eventually(t, "the bucket is empty", func() bool { return entries(t, js, config) == 0 })
	c.end()
}

// TestFirstDeliveryIsNotLookedUp: the way of most messages costs no question.
func TestFirstDeliveryIsNotLookedUp(t *testing.T) {
	t.Parallel()
	const n = 50
	s := startServer(t)
	config := place()
	b := connect(t, s.url(), config)
	nc, err := nats.Connect(s.url())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	questions, err := nc.SubscribeSync("$JS.API.STREAM.MSG.GET.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	publishN(t, b, n)
	c := subscribe(t, b, all("q", 10))
	for i := range n - 1 {
		c.settle(c.want(i, 0), outbox.Settlement{Outcome: outbox.Ack})
	}
	c.settle(c.want(n-1, 0), outbox.Settlement{Outcome: outbox.Requeue})
	c.settle(c.want(n-1, 0), outbox.Settlement{Outcome: outbox.Ack})
	c.end()
	if _, err := questions.NextMsg(patience); err != nil {
		t.Errorf("no question about the message that came twice: %v", err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if more, _, _ := questions.Pending(); more > 0 {
		t.Errorf("%d questions more than that about the message that came twice", more)
	}
}

// TestRetryAtOnce: a message comes again while its Settle still waits to hear that
// it will.
func TestRetryAtOnce(t *testing.T) {
	t.Parallel()
	const n = 100
	config := place()
	config.AckWait = time.Hour
	b := connect(t, startServer(t).url(), config)
	publishN(t, b, 1)
	c := subscribe(t, b, all("q", 5))
	for i := range n {
		c.settle(c.want(0, i), retryAfter(0, i+1))
	}
	c.settle(c.want(0, n), outbox.Settlement{Outcome: outbox.Ack})
	c.end()
}

// TestConsumerMadeAnewDuringHandling: what it delivers again is settled by whoever
// has it.
func TestConsumerMadeAnewDuringHandling(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	config.AckWait = time.Hour
	b := connect(t, s.url(), config)
	publishN(t, b, 1)
	c := subscribe(t, b, all("q", 5))
	for range 5 { // the new one has not delivered so often
		c.settle(c.want(0, 0), outbox.Settlement{Outcome: outbox.Requeue})
	}
	r := c.want(0, 0)
	js := s.jetStream(t)
	if err := js.DeleteConsumer(t.Context(), config.Stream, "q"); err != nil {
		t.Fatal(err)
	}
	publishN(t, b, 2) // the first is known
	second := c.want(1, 0)
	c.settle(r, retryAfter(time.Millisecond, 1))
	c.settle(c.want(0, 1), outbox.Settlement{Outcome: outbox.Ack})
	c.settle(second, outbox.Settlement{Outcome: outbox.Ack})
	c.end()
	eventually(t, "both are acknowledged", func() bool { return consumerInfo(t, js, config.Stream, "q").AckFloor.Stream == 2 })
}

// TestRestartLeavesHandlersAlone: a server that starts delivers again what is being
// handled, if it stored that longer ago than AckWait.
func TestRestartLeavesHandlersAlone(t *testing.T) {
	t.Parallel()
	const n = 5
	s := startServer(t)
	config := place()
	b := connect(t, s.url(), config)
	publishN(t, b, n)
	c := subscribe(t, b, all("q", 3*n)) // there is room for more
	var held []*outbox.Received
	for i := range n {
		held = append(held, c.want(i, 0))
	}
	s.stop()
	time.Sleep(config.AckWait) // as long as that lasts: nothing happens meanwhile
	s.start()
	js := s.jetStream(t)
	eventually(t, "the server has delivered again", func() bool { return consumerInfo(t, js, config.Stream, "q").Delivered.Consumer >= 2*n })
	publishN(t, b, n+1)                                            // those before are known
	c.settle(c.want(n, 0), outbox.Settlement{Outcome: outbox.Ack}) // which came after them
	for i, r := range held {
		switch i {
		case 0:
			eventually(t, "the message is retried", func() bool { return r.Settle(retryAfter(time.Hour, 1)) == nil })
		case 1:
			eventually(t, "the message is dead", func() bool { return r.Settle(deadLetter(1)) == nil })
		default:
			c.settle(r, outbox.Settlement{Outcome: outbox.Ack})
		}
	}
	c.end()
	info := consumerInfo(t, js, config.Stream, "q")
	if len(c.got) > 0 || info.NumAckPending != 1 {
		t.Errorf("%d messages came twice, %d are unacknowledged, want the retried one", len(c.got), info.NumAckPending)
	}
}
