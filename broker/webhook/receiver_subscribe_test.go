package webhook_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook"
	"github.com/outbox-go/outbox/worker"
)

// ended returns a context by which a Subscribe that should fail, and does not, ends
// all the same.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestSubscribeRefusesWhatNeedsAQueue(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	for _, test := range []struct {
		sub  outbox.Subscription
		want []string
	}{
		{outbox.Subscription{}, []string{"Queue", "Topics", "Prefetch"}},
		{outbox.Subscription{Queue: "q", Topics: []string{"#"}, Prefetch: 1, InOrder: true}, []string{"InOrder needs a queue"}},
		{outbox.Subscription{Queue: "q", Topics: []string{"a..b"}, Prefetch: 1, DeadLetters: true}, []string{"Topics[0]", "DeadLetters needs a queue"}},
	} {
		err := b.Subscribe(ended(), test.sub, func() { t.Error("ready") }, func(*outbox.Received) {})
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", test.sub, err, want)
			}
		}
	}
}

func TestOneSubscriptionAtATime(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	wantUnavailable(t, b.post(structured, event("1", "a")))
	for range 2 {
		first := b.subscribe(1, settling(t, ack))
		err := b.Subscribe(ended(), outbox.Subscription{Queue: "second", Topics: []string{"#"}, Prefetch: 1}, func() {}, nil)
		if err == nil || !strings.Contains(err.Error(), `"second"`) {
			t.Errorf("a second subscription: %v", err)
		}
		wantStatus(t, b.post(structured, event("1", "a")), 204)
		first.stop()
		wantUnavailable(t, b.post(structured, event("1", "a")))
	}
}

// TestStopWaitsForSettlements: what was passed on can still succeed; what was not,
// and what comes now, is told to come again.
func TestStopWaitsForSettlements(t *testing.T) {
	t.Parallel()
	b := newBed(t, &webhook.ReceiverConfig{MaxWaiting: 1})
	s := b.subscribe(1, nil)
	running := b.posting(structured, event("1", "a"))
	m := s.next()
	others := make(chan response, 2)
	for range 2 {
		go func(answer <-chan response) { others <- <-answer }(b.posting(structured, event("2", "a")))
	}
	wantUnavailable(t, await(t, "the answer to one of two, since one may wait", others))
	s.cancel()
	wantUnavailable(t, await(t, "the answer to the one that waits", others))
	wantUnavailable(t, b.post(structured, event("3", "a")))
	select {
	case err := <-s.ended:
		t.Errorf("Subscribe has ended with %v before the settlement", err)
	default:
	}
	settling(t, ack)(m)
	wantStatus(t, await(t, "the answer", running), 204)
	s.stop()
	if len(s.got) > 0 {
		t.Error("something was passed on after the end")
	}
}

func TestCloseEndsAll(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	s := b.subscribe(1, nil)
	running := b.posting(structured, event("1", "a"))
	m := s.next()
	waiting := b.posting(structured, event("2", "a"))
	for range 2 {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := await(t, "the end of Subscribe", s.ended); err == nil {
		t.Error("Subscribe of a closed receiver ended without an error")
	}
	wantUnavailable(t, await(t, "the answer", running))
	wantUnavailable(t, await(t, "the answer to what waits", waiting))
	wantUnavailable(t, b.post(structured, event("3", "a")))
	if m.Settle(ack) == nil {
		t.Error("the settlement succeeded: nobody has heard of it")
	}
	if err := b.Subscribe(ended(), outbox.Subscription{Queue: "q", Topics: []string{"#"}, Prefetch: 1}, func() {}, nil); err == nil {
		t.Error("Subscribe after Close: no error")
	}
}

func TestCloseEndsTheWaitForSettlements(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	s := b.subscribe(1, nil)
	_ = b.posting(structured, event("1", "a"))
	s.next()
	s.cancel()
	_ = b.Close()
	if err := await(t, "the end of Subscribe", s.ended); err == nil {
		t.Error("Subscribe ended without an error: something is unsettled")
	}
}

// TestMoreThanThePrefetchMayWait: a busy worker is no reason to send senders away, who
// would take the server for unavailable.
func TestMoreThanThePrefetchMayWait(t *testing.T) {
	t.Parallel()
	const senders = 50
	b := newBed(t, nil)
	s := b.subscribe(1, nil)
	var answers []<-chan response
	for range senders {
		answers = append(answers, b.posting(structured, event("1", "a")))
	}
	for range senders {
		settling(t, ack)(s.next())
	}
	for _, answer := range answers {
		wantStatus(t, await(t, "the answer", answer), 204)
	}
}

// TestPrefetchBoundsWhatIsPassedOn: MaxWaiting requests may wait, and no more.
func TestPrefetchBoundsWhatIsPassedOn(t *testing.T) {
	t.Parallel()
	const prefetch = 2
	b := newBed(t, &webhook.ReceiverConfig{MaxWaiting: prefetch})
	s := b.subscribe(prefetch, nil)
	var answers []<-chan response
	for range prefetch {
		answers = append(answers, b.posting(structured, event("1", "a")))
	}
	first, second := s.next(), s.next()
	// One of three is one too many, whichever it is.
	all := make(chan response, prefetch+1)
	for range prefetch + 1 {
		go func(answer <-chan response) { all <- <-answer }(b.posting(structured, event("2", "a")))
	}
	wantUnavailable(t, await(t, "the answer to the one too many", all))
	if len(s.got) > 0 {
		t.Fatal("more than the prefetch were passed on")
	}
	settling(t, ack)(first)
	settling(t, ack)(second)
	for range prefetch {
		settling(t, ack)(s.next())
		wantStatus(t, await(t, "the answer to one that waited", all), 204)
	}
	for _, answer := range answers {
		wantStatus(t, await(t, "the answer", answer), 204)
	}
}

// TestABatchMayBeLargerThanThePrefetch, and two of them do not block each other.
func TestABatchMayBeLargerThanThePrefetch(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	b.subscribe(2, func(m *outbox.Received) { go settling(t, ack)(m) })
	var events []string
	for range 50 {
		events = append(events, event("1", "a"))
	}
	one, two := b.posting(batched, batch(events...)), b.posting(batched, batch(events...))
	wantStatus(t, await(t, "the first answer", one), 204)
	wantStatus(t, await(t, "the second answer", two), 204)
}

// TestTimeout: the sender is told to come again, and that it is this event which took
// too long; what the worker says later is an error where it matters, and gives the
// slot back.
func TestTimeout(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]struct {
		settlement outbox.Settlement
		fails      bool
	}{
		"ack":     {ack, true},
		"requeue": {outbox.Settlement{Outcome: outbox.Requeue}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, &webhook.ReceiverConfig{Timeout: 10 * time.Millisecond})
			s := b.subscribe(1, nil)
			var r response
			for len(s.got) == 0 { // the time may be too short even for that
				r = b.post(structured, event("1", "a"))
			}
			wantAttempted(t, r)
			m := s.next()
			await(t, "the loss", m.Lost)
			wantUnavailable(t, b.post(structured, event("2", "a"))) // waits for a slot in vain
			for _, outcome := range []outbox.Outcome{outbox.Retry, outbox.DeadLetter} {
				if m.Settle(outbox.Settlement{Outcome: outcome, Failure: failure}) == nil {
					t.Errorf("outcome %d of a lost message succeeded", outcome)
				}
			}
			if err := m.Settle(late.settlement); (err != nil) != late.fails {
				t.Errorf("late settlement: %v", err)
			}
			s.stop() // has all slots
			if len(s.got) > 0 {
				t.Error("what waited was passed on after its answer")
			}
		})
	}
}

// TestATimedOutBatchCountsOnlyIfTheWorkerHasSomeOfIt: an event that hangs holds up its
// batch, and what only waits for a slot is to blame for nothing.
func TestATimedOutBatchCountsOnlyIfTheWorkerHasSomeOfIt(t *testing.T) {
	t.Parallel()
	b := newBed(t, &webhook.ReceiverConfig{Timeout: time.Second})
	s := b.subscribe(1, nil)
	hangs := b.posting(batched, batch(event("1", "a"), event("2", "a")))
	m := s.next()
	wantAttempted(t, await(t, "the answer", hangs))
	wantUnavailable(t, b.post(batched, batch(event("3", "a"), event("4", "a"))))
	if m.Settle(ack) == nil {
		t.Error("the settlement succeeded: nobody has heard of it")
	}
	s.stop()
}

// TestSenderHangsUp: the message is lost to those who have not begun with it.
func TestSenderHangsUp(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	s := b.subscribe(1, nil)
	ctx, hangUp := context.WithCancel(t.Context())
	answer := make(chan response, 1)
	req := b.request(ctx, http.MethodPost, structured, event("1", "a"))
	go func() { answer <- do(req) }()
	m := s.next()
	hangUp()
	if r := await(t, "the end of the request", answer); !errors.Is(r.failure, context.Canceled) {
		t.Errorf("%+v", r)
	}
	await(t, "the loss", m.Lost)
	if m.Settle(ack) == nil {
		t.Error("the settlement succeeded: nobody has heard of it")
	}
	s.stop()
}

func TestSettleOnce(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	s := b.subscribe(1, nil)
	answer := b.posting(structured, event("1", "a"))
	m := s.next()
	for _, wrong := range []outbox.Settlement{{Outcome: 7}, {Outcome: outbox.Retry}, {Outcome: outbox.Retry, Delay: -1, Failure: failure}, {Outcome: outbox.DeadLetter}} {
		if m.Settle(wrong) == nil {
			t.Errorf("%+v: no error", wrong)
		}
	}
	if err := m.Settle(ack); err != nil {
		t.Errorf("after settlements that failed: %v", err)
	}
	for _, again := range []outbox.Settlement{ack, {Outcome: outbox.Requeue}, {Outcome: outbox.Retry, Failure: failure}} {
		if m.Settle(again) == nil {
			t.Error("settled twice")
		}
	}
	wantStatus(t, await(t, "the answer", answer), 204)
	s.stop()
}

// TestWorkerOverHTTP: what handlers return is what senders are answered.
func TestWorkerOverHTTP(t *testing.T) {
	t.Parallel()
	b := newBed(t, nil)
	w := worker.New(b.Receiver, &worker.Config{Queue: "orders"})
	runs := 0
	worker.Handle(w, "order.placed", func(_ context.Context, d *worker.Delivery[struct{ N int }]) error {
		if d.Attempt != 1 {
			t.Errorf("attempt %d: the sender counts", d.Attempt)
		}
		if runs++; runs == 1 {
			return worker.RetryAfter(5*time.Second, errors.New("not yet"))
		}
		return nil
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	await(t, "the worker", w.Ready())
	r := b.post(structured, event("1", "order.placed"))
	wantStatus(t, r, 503)
	if r.header.Get("Retry-After") != "5" {
		t.Errorf("Retry-After %q, want 5", r.header.Get("Retry-After"))
	}
	wantStatus(t, b.post(structured, event("1", "order.placed")), 204)
	wantStatus(t, b.post(structured, strings.Replace(event("2", "order.placed"), "{}", `{"N":"none"}`, 1)), 400)
	wantStatus(t, b.post(structured, event("3", "order.shipped")), 400)
	stop()
	if err := await(t, "the worker's end", ended); err != nil {
		t.Error(err)
	}
	wantUnavailable(t, b.post(structured, event("4", "order.placed")))
	if runs != 2 {
		t.Errorf("%d runs, want 2", runs)
	}
}
