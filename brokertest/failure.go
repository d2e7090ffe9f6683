package brokertest

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
)

// grain is what brokers may be early by when they count in milliseconds.
const grain = time.Millisecond

// never is a delay that no test outlasts.
const never = time.Hour

// failure returns the history of a message after some attempts, of values that a
// driver may well get wrong.
func failure(attempts int) *outbox.Failure {
	first := time.Date(2024, 2, 29, 23, 59, 59, 123456789, time.UTC)
	return &outbox.Failure{
		Attempts: attempts,
		Reason:   fmt.Sprintf("attempt %d:\n\"größe\" 世界 is 100%%25", attempts),
		Handler:  "größe.#", Queue: "grüße/here",
		FirstAt: first, LastAt: first.Add(time.Duration(attempts)*time.Hour + time.Nanosecond),
	}
}

// strangeFailures are those at the ends of what there can be.
func strangeFailures() map[string]*outbox.Failure {
	at := time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)
	return map[string]*outbox.Failure{
		"only attempts": {Attempts: 1},
		"zero":          {},
		"long": {
			Attempts: 1 << 30, Reason: strings.Repeat("ä", 4000), Handler: strings.Repeat("abcd.", 50) + "12345",
			Queue: strings.Repeat("q", outbox.MaxQueue), FirstAt: at, LastAt: at,
		},
		"elsewhere": {Attempts: 2, Reason: "\xff\x00", FirstAt: at.In(time.FixedZone("", 3600)), LastAt: at.Local()},
	}
}

// failureFaults tells in what a failure that arrived is not the one that the
// message was settled with, nil if with none.
func failureFaults(sent, got *outbox.Failure) []string {
	if sent == nil || got == nil {
		if sent != got {
			return []string{fmt.Sprintf("Failure: got %+v, want %+v", got, sent)}
		}
		return nil
	}
	want := outbox.TakeFailure(sent.Headers()) // headers bound what can be carried
	var faults []string
	for _, f := range [...]struct {
		name      string
		want, got any
	}{
		{"Attempts", want.Attempts, got.Attempts}, {"Reason", strconv.Quote(want.Reason), strconv.Quote(got.Reason)},
		{"Handler", strconv.Quote(want.Handler), strconv.Quote(got.Handler)}, {"Queue", strconv.Quote(want.Queue), strconv.Quote(got.Queue)},
		{"FirstAt", want.FirstAt, got.FirstAt}, {"LastAt", want.LastAt, got.LastAt},
	} {
		if f.want != f.got { // times too: in UTC and without a monotonic reading they are comparable
			faults = append(faults, fmt.Sprintf("Failure.%s: got %.200v, want %.200v", f.name, f.got, f.want))
		}
	}
	return faults
}

// wantMessage reports in what r is not m as settled with f before, nil for the
// first delivery.
func (e *env) wantMessage(r *outbox.Received, m *outbox.Message, f *outbox.Failure) {
	e.Helper()
	for _, fault := range append(differences(m, &r.Message), failureFaults(f, r.Failure)...) {
		e.Errorf("message %.50q: %s", m.ID, fault)
	}
}

func retryAfter(d time.Duration, f *outbox.Failure) outbox.Settlement {
	return outbox.Settlement{Outcome: outbox.Retry, Delay: d, Failure: f}
}

func dead(f *outbox.Failure) outbox.Settlement {
	return outbox.Settlement{Outcome: outbox.DeadLetter, Failure: f}
}

// retry settles r with Retry and returns the time before which it must not come.
func (e *env) retry(r *outbox.Received, delay time.Duration, f *outbox.Failure) time.Time {
	e.Helper()
	notBefore := time.Now().Add(delay)
	if err := r.Settle(retryAfter(delay, f)); err != nil {
		e.Fatalf("settle message %s with Retry after %s: %v", r.ID, delay, err)
	}
	return notBefore
}

// wantNotBefore reports a retry that came too early.
func (e *env) wantNotBefore(r *outbox.Received, at time.Time) {
	e.Helper()
	if early := at.Sub(r.ReceivedAt); early > grain {
		e.Errorf("message %s (key %s) came %s too early", r.ID, r.Key, early)
	}
}

// bury settles r with DeadLetter.
func (e *env) bury(r *outbox.Received, f *outbox.Failure) {
	e.Helper()
	if err := r.Settle(dead(f)); err != nil {
		e.Fatalf("settle message %s with DeadLetter: %v", r.ID, err)
	}
}

// deadLetters returns a subscription to the dead letters of a queue.
func deadLetters(queue string, prefetch int) outbox.Subscription {
	return outbox.Subscription{Queue: queue, Prefetch: prefetch, DeadLetters: true}
}

// nothingDeadBut has one more message of topic die in c's queue and wants it to be
// the next dead letter that arrives at d.
func (d *consumer) nothingDeadBut(p *publisher, c *consumer, topic string) {
	d.env.Helper()
	fence := message(topic, "fence")
	p.publishAgain(fence)
	r := c.next()
	if r.ID != fence.ID {
		d.env.Fatalf("got message %s (topic %s, key %s), want none before the last one", r.ID, r.Topic, r.Key)
	}
	d.env.bury(r, failure(1))
	r = d.next()
	if r.ID != fence.ID {
		d.env.Errorf("got dead letter %s (topic %s, key %s), want none before the last one", r.ID, r.Topic, r.Key)
	}
	d.env.settle(r, outbox.Ack)
}
