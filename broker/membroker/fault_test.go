package membroker_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
)

// publish publishes a message with each key and returns the answers as they come.
func publish(p *membroker.Publisher, keys ...string) *[]error {
	answers := &[]error{}
	for _, key := range keys {
		m := outbox.Message{ID: "id-" + key, Topic: "a.b", Key: key}
		p.Publish(context.Background(), &m, func(err error) { *answers = append(*answers, err) })
	}
	return answers
}

func keys(msgs []outbox.Message) []string {
	var out []string
	for _, m := range msgs {
		out = append(out, m.Key)
	}
	return out
}

func wantKeys(t *testing.T, b *membroker.Broker, want ...string) {
	t.Helper()
	if got := keys(b.Messages("q")); !slices.Equal(got, want) {
		t.Errorf("the queue has %q, want %q", got, want)
	}
}

// wantAnswers compares answers; a nil wants nil, an error its class.
func wantAnswers(t *testing.T, got []error, want ...error) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("answers %v, want %v", got, want)
	}
	for i := range want {
		if !errors.Is(got[i], want[i]) {
			t.Errorf("answer %d is %v, want %v", i, got[i], want[i])
		}
	}
}

func newBroker() (*membroker.Broker, *membroker.Publisher) {
	b := membroker.New()
	b.Declare("q", "#")
	return b, b.Publisher()
}

func TestDownIsUnavailable(t *testing.T) {
	t.Parallel()
	b, p := newBroker()
	b.SetDown(true)
	wantAnswers(t, *publish(p, "1"), outbox.ErrUnavailable)
	b.SetDown(false)
	wantAnswers(t, *publish(p, "2"), nil)
	wantKeys(t, b, "2")
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	b, p := newBroker()
	b.Refuse(func(m *outbox.Message) error {
		switch m.Key {
		case "plain":
			return errors.New("no")
		case "invalid":
			return outbox.Invalid(errors.New("no"))
		}
		return nil
	})
	wantAnswers(t, *publish(p, "1", "plain", "invalid", "2"), nil, outbox.ErrRefused, outbox.ErrInvalid, nil)
	b.Refuse(nil)
	wantAnswers(t, *publish(p, "plain"), nil)
	wantKeys(t, b, "1", "2", "plain")
}

func TestHold(t *testing.T) {
	t.Parallel()
	b, p := newBroker()
	b.Hold()
	answers := publish(p, "1", "2", "3", "4", "5", "6")
	wantAnswers(t, *answers)
	wantKeys(t, b)
	if n := b.Held(); n != 6 {
		t.Errorf("%d held, want 6", n)
	}
	if n := b.Confirm(2); n != 2 {
		t.Errorf("Confirm(2) confirmed %d", n)
	}
	if n := b.Lose(1); n != 1 {
		t.Errorf("Lose(1) lost %d", n)
	}
	wantAnswers(t, *answers, nil, nil, outbox.ErrUnavailable)
	wantKeys(t, b, "1", "2", "3")
	b.Refuse(func(*outbox.Message) error { return errors.New("no") })
	b.Confirm(1)
	b.Refuse(nil)
	wantAnswers(t, *answers, nil, nil, outbox.ErrUnavailable, outbox.ErrRefused)
	b.Cut()
	wantAnswers(t, *answers, nil, nil, outbox.ErrUnavailable, outbox.ErrRefused, outbox.ErrUnavailable, outbox.ErrUnavailable)
	answers = publish(p, "7")
	b.Release()
	wantAnswers(t, *answers, nil)
	wantAnswers(t, *publish(p, "8"), nil)
	wantKeys(t, b, "1", "2", "3", "7", "8")
	if n := b.Confirm(9); n != 0 {
		t.Errorf("Confirm of nothing confirmed %d", n)
	}
}

func TestCloseLosesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	b, first := newBroker()
	second := b.Publisher()
	b.Hold()
	mine, theirs := publish(first, "1"), publish(second, "2")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	b.Release()
	wantAnswers(t, *mine, outbox.ErrUnavailable)
	wantAnswers(t, *theirs, nil)
	wantKeys(t, b, "2")
}

func TestMessagesAreCopies(t *testing.T) {
	t.Parallel()
	b, p := newBroker()
	m := outbox.Message{
		ID: "1", Topic: "a", Payload: []byte("x"), Headers: map[string]string{"a": "b"},
		Position: 7, Attempts: 3, LastError: "e", CreatedAt: time.Now(),
	}
	p.Publish(context.Background(), &m, func(error) {})
	m.Payload[0], m.Headers["a"] = 'y', "c"
	b.Messages("q")[0].Payload[0] = 'z'
	got := b.Messages("q")[0]
	if string(got.Payload) != "x" || got.Headers["a"] != "b" {
		t.Errorf("got payload %s and headers %v, want those at Publish", got.Payload, got.Headers)
	}
	if got.Position != 0 || got.Attempts != 0 || got.LastError != "" {
		t.Errorf("got %+v: these fields do not travel", got)
	}
}

func TestRequeuedComeFirstInOrder(t *testing.T) {
	t.Parallel()
	b, p := newBroker()
	publish(p, "1", "2", "3", "4")
	ctx, cancel := context.WithCancel(context.Background())
	var taken []*outbox.Received
	s := outbox.Subscription{Queue: "q", Topics: []string{"#"}, Prefetch: 3}
	err := b.Subscriber().Subscribe(ctx, s, func() {}, func(r *outbox.Received) {
		taken = append(taken, r)
		if len(taken) == 3 {
			cancel()
			for _, i := range []int{2, 0} {
				if err := taken[i].Settle(outbox.Settlement{Outcome: outbox.Requeue}); err != nil {
					t.Error(err)
				}
			}
			if err := taken[1].Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
				t.Error(err)
			}
			if taken[1].Settle(outbox.Settlement{Outcome: outbox.Ack}) == nil {
				t.Error("settled twice without an error")
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	wantKeys(t, b, "1", "3", "4")
}

// TestSynctest: what waits in this package lets a bubble's clock advance.
func TestSynctest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := newBroker()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var got []string
		established := 0
		ended := make(chan error)
		go func() {
			s := outbox.Subscription{Queue: "q", Topics: []string{"#"}, Prefetch: 1}
			ended <- b.Subscriber().Subscribe(ctx, s, func() { established++ }, func(r *outbox.Received) {
				got = append(got, r.Key+strconv.FormatBool(r.Redelivered))
				if r.Key == "hold" && !r.Redelivered {
					go func() {
						time.Sleep(time.Minute)
						if r.Settle(outbox.Settlement{Outcome: outbox.Ack}) == nil {
							t.Error("a message could be settled after its connection was cut")
						}
					}()
					return
				}
				if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
					t.Error(err)
				}
			})
		}()
		synctest.Wait()
		publish(p, "1", "hold", "3")
		synctest.Wait()
		if !slices.Equal(got, []string{"1false", "holdfalse"}) {
			t.Errorf("got %v while the second is unsettled", got)
		}
		b.SetDown(true)
		synctest.Wait()
		wantKeys(t, b, "hold", "3")
		time.Sleep(2 * time.Minute)
		b.SetDown(false)
		synctest.Wait()
		if !slices.Equal(got, []string{"1false", "holdfalse", "holdtrue", "3false"}) || established != 2 {
			t.Errorf("got %v, established %d times", got, established)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkPublishConsume(b *testing.B) {
	broker, p := newBroker()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	left := b.N
	m := &outbox.Message{ID: "id", Topic: "user.created", Payload: make([]byte, 250)}
	b.ReportAllocs()
	go func() {
		for range b.N {
			p.Publish(ctx, m, func(error) {})
		}
	}()
	s := outbox.Subscription{Queue: "q", Topics: []string{"#"}, Prefetch: 100}
	err := broker.Subscriber().Subscribe(ctx, s, func() {}, func(r *outbox.Received) {
		if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); err != nil {
			b.Error(err)
		}
		if left--; left == 0 {
			cancel()
		}
	})
	if err != nil {
		b.Fatal(err)
	}
}
