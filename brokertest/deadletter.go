package brokertest

import (
	"slices"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
)

// testDeadLetterKeepsAll: a dead letter is the message as it was sent, with what
// became of it, whether it was retried before or not.
func testDeadLetterKeepsAll(e *env) {
	c := e.subscribe(retrying("deadly", 5, "#"))
	d := e.subscribe(deadLetters("deadly", 5))
	p := e.publisher()
	sent, failures := map[string]*outbox.Message{}, map[string]*outbox.Failure{}
	for _, m := range fieldMessages() {
		sent[m.ID], failures[m.ID] = m, failure(1+len(sent)%2)
		p.publish(m)
	}
	retried := map[string]bool{}
	for left := len(sent); left > 0; {
		r := c.next()
		if failures[r.ID].Attempts > 1 && !retried[r.ID] {
			retried[r.ID] = true
			e.retry(r, 0, failure(1))
			continue
		}
		e.bury(r, failures[r.ID])
		left--
	}
	for range len(sent) {
		r := d.next()
		m := sent[r.ID]
		if m == nil {
			e.Fatalf("got dead letter %q, which was not sent or came before", r.ID)
		}
		delete(sent, r.ID)
		e.wantMessage(r, m, failures[r.ID])
		e.settle(r, outbox.Ack)
	}
	d.nothingDeadBut(p, c, "dead.end")
	c.nothingBut(p, "living.end")
}

func testDeadLetterCarriesFailures(e *env) {
	c := e.subscribe(subscription("failures", 1, "#"))
	d := e.subscribe(deadLetters("failures", 1))
	p := e.publisher()
	for name, f := range strangeFailures() {
		m := message("failure.strange", name)
		p.publish(m)
		e.bury(c.next(), f)
		r := d.next()
		e.wantMessage(r, m, f)
		e.settle(r, outbox.Ack)
	}
}

// testDeadLetterStays: a dead letter is gone after Ack, and not before.
func testDeadLetterStays(e *env) {
	const n = 4
	p := e.publisher()
	c := e.subscribe(subscription("stays", n, "#"))
	p.publish(messages("dead.stays", n)...)
	for _, r := range c.take(n) {
		e.bury(r, failure(2))
	}
	d := e.subscribe(deadLetters("stays", n))
	for _, r := range d.take(n) {
		e.settle(r, outbox.Requeue)
	}
	d.take(n)
	d.close()
	wait(e, d.ended, "Subscribe to return after Close")

	d = e.subscribe(deadLetters("stays", n))
	var got []string
	for _, r := range d.handle(n) {
		got = append(got, r.Key)
		if e.broker.Features.Redelivered && !r.Redelivered {
			e.Errorf("Redelivered of dead letter %s is false after its first receiver was closed", r.Key)
		}
		for _, fault := range failureFaults(failure(2), r.Failure) {
			e.Error(fault)
		}
	}
	slices.Sort(got)
	if strings.Join(got, " ") != "0 1 2 3" {
		e.Errorf("got dead letters %v, want 0 to 3", got)
	}
	d.stop()
	d = e.subscribe(deadLetters("stays", n))
	d.nothingDeadBut(p, c, "dead.end")
}

// testDeadLettersKeptWhileNobodyListens: not even the queue has a subscriber.
func testDeadLettersKeptWhileNobodyListens(e *env) {
	const n = 100
	p := e.publisher()
	c := e.subscribe(subscription("kept", 10, "#"))
	p.publish(messages("dead.kept", n)...)
	for range n {
		e.bury(c.next(), failure(1))
	}
	c.stop()
	d := e.subscribe(deadLetters("kept", 10))
	seen := map[string]bool{}
	for _, r := range d.handle(n) {
		seen[r.Key] = true
	}
	if len(seen) != n {
		e.Errorf("got %d different dead letters of %d", len(seen), n)
	}
}

// testDeadLettersApart: queues with names as one might give them to a queue's
// retries and dead letters, or with the longest name, have their own.
func testDeadLettersApart(e *env) {
	names := []string{
		"plain", "plain.dead", "plain.retry", "plain.dlq", "plain-dead", "plain.dead.dead", "plain:dead", "with>greater", "grüße", "Plain",
		strings.Repeat("q", outbox.MaxQueue), strings.Repeat("ß", outbox.MaxQueue/2),
	}
	p := e.publisher()
	const delay = time.Millisecond
	living := make([]*consumer, len(names))
	for i, name := range names {
		living[i] = e.subscribe(retrying(name, 2, "#", delay))
	}
	m := message("for.all", "")
	p.publish(m)
	for i, name := range names {
		e.retry(living[i].next(), delay, failure(1))
		r := living[i].next()
		f := failure(2)
		f.Queue = name
		e.wantMessage(r, m, failure(1))
		e.bury(r, f)
	}
	end := message("for.all", "end")
	p.publish(end)
	for i, name := range names {
		if r := living[i].handle(1)[0]; r.ID != end.ID {
			e.Errorf("queue %.30q: got message %s with %+v, want the last one", name, r.ID, r.Failure)
		}
		living[i].stop()
		d := e.subscribe(deadLetters(name, 2))
		r := d.handle(1)[0]
		if r.ID != m.ID || r.Failure == nil || r.Failure.Queue != name {
			e.Errorf("queue %.30q: got dead letter %s with %+v", name, r.ID, r.Failure)
		}
		d.stop()
	}
}

// testDeadLettersShare: members share the dead letters, and none has more of them
// unsettled than it may.
func testDeadLettersShare(e *env) {
	const prefetch = 5
	p := e.publisher()
	c := e.subscribe(subscription("shared", 20, "#"))
	first, second := e.subscribe(deadLetters("shared", prefetch)), e.subscribe(deadLetters("shared", prefetch))
	p.publish(messages("dead.shared", 2*prefetch)...)
	for range 2 * prefetch {
		e.bury(c.next(), failure(1))
	}
	seen := map[string]bool{}
	for _, r := range slices.Concat(first.take(prefetch), second.take(prefetch)) {
		seen[r.Key] = true
		e.settle(r, outbox.Ack)
	}
	if len(seen) != 2*prefetch {
		e.Errorf("the two got %d different dead letters of %d: %v", len(seen), 2*prefetch, seen)
	}
}

// testDeadLettersBeforeMessages: one can listen to the dead letters of a queue that
// is new, and of one that is not there yet. That makes nothing else be collected.
func testDeadLettersBeforeMessages(e *env) {
	p := e.publisher()
	e.subscribe(subscription("everything", 10, "#"))
	early := deadLetters("late", 10)
	early.Topics = []string{"other.*"}
	d := e.subscribe(early)
	c := e.subscribe(subscription("late", 10, "late.*"))
	fresh := e.subscribe(deadLetters("late", 10))
	fresh.stop()
	p.publish(message("other.this", "not collected"))
	c.nothingBut(p, "late.first")
	d.nothingDeadBut(p, c, "late.dead")
}
