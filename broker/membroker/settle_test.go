package membroker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
)

var plain = outbox.Subscription{Queue: "q", Topics: []string{"#"}, Prefetch: 100}

// consume subscribes until the end of the test, in its bubble. What is received is
// to be had from take.
func consume(t *testing.T, sub *membroker.Subscriber, s outbox.Subscription) <-chan *outbox.Received {
	t.Helper()
	got := make(chan *outbox.Received, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- sub.Subscribe(context.Background(), s, func() {}, func(r *outbox.Received) { got <- r })
	}()
	t.Cleanup(func() {
		_ = sub.Close()
		if err := <-ended; err == nil {
			t.Error("Subscribe returned nil after Close")
		}
	})
	synctest.Wait()
	return got
}

// take returns all that has come since the last call, unsettled.
func take(got <-chan *outbox.Received) []*outbox.Received {
	synctest.Wait()
	var taken []*outbox.Received
	for len(got) > 0 {
		taken = append(taken, <-got)
	}
	return taken
}

func wantReceived(t *testing.T, got []*outbox.Received, want ...string) {
	t.Helper()
	var keys []string
	for _, r := range got {
		keys = append(keys, r.Key)
	}
	if !slices.Equal(keys, want) {
		t.Errorf("got messages %q, want %q", keys, want)
	}
}

func settle(t *testing.T, r *outbox.Received, s outbox.Settlement) {
	t.Helper()
	if err := r.Settle(s); err != nil {
		t.Errorf("settle message %s: %v", r.Key, err)
	}
}

func retry(d time.Duration) outbox.Settlement {
	return outbox.Settlement{Outcome: outbox.Retry, Delay: d, Failure: &outbox.Failure{Attempts: 1, Reason: "no\nidea"}}
}

func deadLetter() outbox.Settlement {
	return outbox.Settlement{Outcome: outbox.DeadLetter, Failure: &outbox.Failure{Attempts: 2, Reason: "still none"}}
}

// TestRetryComesOnTime: to the nanosecond, behind what is ready then, and in the
// order of the calls if several are due at once.
func TestRetryComesOnTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := newBroker()
		got := consume(t, b.Subscriber(), plain)
		publish(p, "hour", "1", "2", "3", "now")
		for i, r := range take(got) {
			settle(t, r, retry([]time.Duration{time.Hour, time.Minute, time.Minute, time.Minute, 0}[i]))
		}
		wantReceived(t, take(got), "now")
		if w := keys(b.Waiting("q")); !slices.Equal(w, []string{"1", "2", "3", "hour"}) {
			t.Errorf("%q wait", w)
		}
		wantKeys(t, b)
		time.Sleep(time.Minute - time.Nanosecond)
		wantReceived(t, take(got))
		time.Sleep(time.Nanosecond)
		wantReceived(t, take(got), "1", "2", "3")
		time.Sleep(time.Hour)
		r := take(got)
		wantReceived(t, r, "hour")
		if f := r[0].Failure; f == nil || f.Attempts != 1 || f.Reason != "no idea" {
			t.Errorf("got failure %+v, want it as headers carry it", f)
		}
	})
}

func TestRetryWaitsWhileDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := newBroker()
		got := consume(t, b.Subscriber(), plain)
		publish(p, "1", "2")
		held := take(got)
		settle(t, held[0], retry(time.Minute))
		b.SetDown(true)
		if held[1].Settle(retry(0)) == nil || held[1].Settle(outbox.Settlement{Outcome: outbox.Ack}) == nil {
			t.Error("a message could be settled while the broker was down")
		}
		publish(p, "lost")
		if w := keys(b.Waiting("q")); !slices.Equal(w, []string{"1"}) {
			t.Errorf("%q wait, want 1", w)
		}
		time.Sleep(time.Hour)
		wantReceived(t, take(got))
		wantKeys(t, b, "2", "1")
		b.SetDown(false)
		wantReceived(t, take(got), "2", "1")
	})
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := newBroker()
		b.Declare("other", "#")
		got := consume(t, b.Subscriber(), plain)
		publish(p, "1", "2")
		for _, r := range take(got) {
			settle(t, r, deadLetter())
		}
		letters := b.DeadLetters("q")
		if len(letters) != 2 || letters[0].Message.Key != "1" || letters[1].Failure.Reason != "still none" {
			t.Errorf("got dead letters %+v", letters)
		}
		for _, name := range []string{"other", "nowhere"} {
			if letters := b.DeadLetters(name); letters != nil {
				t.Errorf("queue %s has dead letters %+v", name, letters)
			}
		}
		s := outbox.Subscription{Queue: "q", Prefetch: 1, DeadLetters: true}
		r := take(consume(t, b.Subscriber(), s))
		wantReceived(t, r, "1")
		r[0].Failure.Reason = "changed"
		b.Cut()
		if got := b.DeadLetters("q"); len(got) != 2 || got[0].Failure.Reason != "still none" {
			t.Errorf("the dead letters after a cut are %+v", got)
		}
	})
}

// TestRefuseSettle: what was refused can be tried again, or settled otherwise.
func TestRefuseSettle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := newBroker()
		got := consume(t, b.Subscriber(), plain)
		no := errors.New("no")
		var asked []string
		b.RefuseSettle(func(m *outbox.Message, s outbox.Settlement) error {
			asked = append(asked, fmt.Sprint(m.Key, " ", s.Delay))
			if s.Outcome == outbox.DeadLetter {
				b.RefuseSettle(nil)
			}
			return no
		})
		publish(p, "1", "2", "3")
		held := take(got)
		settle(t, held[2], outbox.Settlement{Outcome: outbox.Ack})
		for i, s := range []outbox.Settlement{retry(time.Second), deadLetter()} {
			if err := held[i].Settle(s); !errors.Is(err, no) {
				t.Errorf("settle: %v, want what was set", err)
			}
		}
		if want := []string{"1 1s", "2 0s"}; !slices.Equal(asked, want) {
			t.Errorf("asked about %q, want %q", asked, want)
		}
		settle(t, held[0], outbox.Settlement{Outcome: outbox.Requeue})
		wantReceived(t, take(got), "1")
		settle(t, held[1], deadLetter())
		if held[1].Settle(deadLetter()) == nil {
			t.Error("settled twice without an error")
		}
	})
}

func TestMembersAgreeOnOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, _ := newBroker()
		consume(t, b.Subscriber(), plain)
		dead := outbox.Subscription{Queue: "q", Prefetch: 1, DeadLetters: true}
		consume(t, b.Subscriber(), dead)
		s := plain
		s.InOrder = true
		err := b.Subscriber().Subscribe(t.Context(), s, func() { t.Error("ready was called") }, nil)
		if err == nil || !strings.Contains(err.Error(), "InOrder") {
			t.Errorf("Subscribe returned %v, want an error that names InOrder", err)
		}
	})
}

// TestFullMemberLeavesTheQueue: after a cut a member whose handlers still hold all
// that it may have does not keep the others from receiving.
func TestFullMemberLeavesTheQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, p := newBroker()
		s := plain
		s.InOrder, s.Prefetch = true, 1
		first := consume(t, b.Subscriber(), s)
		second := consume(t, b.Subscriber(), s)
		publish(p, "1", "2")
		wantReceived(t, take(first), "1")
		b.Cut()
		wantReceived(t, take(second), "1")
		wantReceived(t, take(first))
	})
}
