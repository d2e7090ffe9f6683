package brokertest

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
)

// retrying returns a subscription that declares delays.
func retrying(queue string, prefetch int, topic string, delays ...time.Duration) outbox.Subscription {
	s := subscription(queue, prefetch, topic)
	s.RetryDelays = delays
	return s
}

// testRetryKeepsAll: each message comes as it was sent, several times, with the
// failure that it was settled with last.
func testRetryKeepsAll(e *env) {
	delays := []time.Duration{50 * time.Millisecond, 0, 120 * time.Millisecond}
	c := e.subscribe(retrying("retries", 5, "#", delays[0]))
	p := e.publisher()
	sent, attempts, notBefore := map[string]*outbox.Message{}, map[string]int{}, map[string]time.Time{}
	for _, m := range fieldMessages() {
		sent[m.ID] = m
		p.publish(m)
	}
	for range len(sent) * (1 + len(delays)) {
		r := c.next()
		n, m := attempts[r.ID], sent[r.ID]
		if m == nil {
			e.Fatalf("got message %q, which was not sent", r.ID)
		}
		var last *outbox.Failure
		if n > 0 {
			last = failure(n)
			e.wantNotBefore(r, notBefore[r.ID])
		}
		e.wantMessage(r, m, last)
		if r.Redelivered && n == 0 || !r.Redelivered && n > 0 && e.broker.Features.Redelivered {
			e.Errorf("Redelivered is %t after %d attempts", r.Redelivered, n)
		}
		attempts[r.ID]++
		if n == len(delays) {
			e.settle(r, outbox.Ack)
		} else {
			notBefore[r.ID] = e.retry(r, delays[n], failure(n+1))
		}
	}
	c.nothingBut(p, "retry.end")
}

// testRetryCarriesFailures: whatever became of a message is told at the next
// delivery, and once more after Requeue.
func testRetryCarriesFailures(e *env) {
	c := e.subscribe(retrying("failures", 1, "#", 10*time.Millisecond))
	p := e.publisher()
	for name, f := range strangeFailures() {
		m := message("failure.strange", name)
		p.publish(m)
		r := c.next()
		e.wantMessage(r, m, nil)
		e.retry(r, 10*time.Millisecond, f)
		for range 2 {
			r = c.next()
			e.wantMessage(r, m, f)
			e.settle(r, outbox.Requeue)
		}
		r = c.next()
		e.retry(r, 0, failure(9))
		r = c.next()
		e.wantMessage(r, m, failure(9))
		e.settle(r, outbox.Ack)
	}
	c.nothingBut(p, "failure.end")
}

// testRetryDelays: a message comes after its delay, be it one of those declared by
// the member that asks, by another one, or by none.
func testRetryDelays(e *env) {
	const ms = time.Millisecond
	g := e.group(retrying("delays", 10, "#", 100*ms, 300*ms), retrying("delays", 10, "#", 150*ms, 100*ms))
	p := e.publisher()
	delays := []time.Duration{300 * ms, 250 * ms, 150 * ms, 100 * ms, 101 * ms, ms, 0, 70 * ms}
	p.publish(messages("delay.this", len(delays))...)
	notBefore := make([]time.Time, len(delays))
	for range 2 * len(delays) {
		r := g.next().Received
		i, err := strconv.Atoi(r.Key)
		switch {
		case err != nil:
			e.Fatal(err)
		case r.Failure == nil:
			notBefore[i] = e.retry(r, delays[i], failure(1))
		default:
			e.wantNotBefore(r, notBefore[i])
			e.settle(r, outbox.Ack)
		}
	}
}

// testRetryShortPassesLong: the time of a message does not depend on that of those
// retried before it.
func testRetryShortPassesLong(e *env) {
	const short = 100 * time.Millisecond
	c := e.subscribe(retrying("ladder", 10, "#", never, short))
	p := e.publisher()
	for i, delays := range [][2]time.Duration{{never, short}, {never - time.Minute, 2 * short}} {
		p.publish(messages("ladder."+strconv.Itoa(i), 2)...)
		e.retry(c.next(), delays[0], failure(1))
		notBefore := e.retry(c.next(), delays[1], failure(1))
		r := c.next()
		if r.Key != "1" || r.Failure == nil {
			e.Errorf("got message %s with failure %v, want the second one again", r.Key, r.Failure)
		}
		e.wantNotBefore(r, notBefore)
		e.settle(r, outbox.Ack)
	}
}

// testRetryLetsOthersPass: more messages wait than may be unsettled, and those
// behind them come nevertheless.
func testRetryLetsOthersPass(e *env) {
	const n, prefetch = 20, 3
	c := e.subscribe(retrying("passing", prefetch, "#", never))
	p := e.publisher()
	p.publish(messages("pass.this", n)...)
	seen := map[string]bool{}
	for i := range n {
		r := c.next()
		seen[r.Key] = true
		if i < n/2 {
			e.retry(r, never, failure(1))
		} else {
			e.settle(r, outbox.Ack)
		}
	}
	if len(seen) != n {
		e.Errorf("got %d different messages of %d: %v", len(seen), n, seen)
	}
	c.nothingBut(p, "pass.end")
}

// testRetryOneQueueAlone: the other queues of the topic see nothing of a retry.
func testRetryOneQueueAlone(e *env) {
	const n, delay = 5, 50 * time.Millisecond
	first := e.subscribe(retrying("first", n, "alone.*", delay))
	second := e.subscribe(retrying("second", n, "alone.#", delay))
	p := e.publisher()
	p.publish(messages("alone.this", n)...)
	second.handle(n)
	for _, d := range []time.Duration{delay, 0} {
		for range n {
			e.retry(first.next(), d, failure(1))
		}
	}
	first.handle(n)
	first.nothingBut(p, "alone.end")
	if r := second.handle(1)[0]; r.Topic != "alone.end" {
		e.Errorf("the other queue got message %s (topic %s) again", r.Key, r.Topic)
	}
}

// testRetryMany: many settle at once, and each message comes exactly as often as
// was asked for.
func testRetryMany(e *env) {
	const n, retries = 200, 2
	delays := []time.Duration{20 * time.Millisecond, 60 * time.Millisecond}
	c := e.subscribe(retrying("many", n, "#", delays...))
	p := e.publisher()
	p.publish(messages("many.these", n)...)
	var settling sync.WaitGroup
	attempts := map[string]int{}
	for range n * (1 + retries) {
		r := c.next()
		got := 0
		if r.Failure != nil {
			got = r.Failure.Attempts
		}
		if got != attempts[r.Key] {
			e.Errorf("message %s has had %d attempts, want %d", r.Key, got, attempts[r.Key])
		}
		attempts[r.Key]++
		settling.Go(func() {
			s := outbox.Settlement{Outcome: outbox.Ack}
			if got < retries {
				s = retryAfter(delays[len(r.Key)%2], failure(got+1))
			}
			if err := r.Settle(s); err != nil {
				e.Errorf("settle message %s with %+v: %v", r.Key, s, err)
			}
		})
	}
	settling.Wait()
	c.nothingBut(p, "many.end")
}

// testRetryOutlivesReceiver: what waits belongs to the queue, whoever asked for it
// and whichever delays the next one declares.
func testRetryOutlivesReceiver(e *env) {
	const n, delay = 5, 200 * time.Millisecond
	p := e.publisher()
	for _, end := range []string{"stop", "close"} {
		topic := "outlive." + end
		first := e.subscribe(retrying(end, n, topic, delay))
		p.publish(messages(topic, n)...)
		var notBefore time.Time
		for _, r := range first.take(n) {
			at := e.retry(r, delay, failure(1))
			if notBefore.IsZero() {
				notBefore = at
			}
		}
		if end == "stop" {
			first.stop()
		} else {
			first.close()
			wait(e, first.ended, "Subscribe to return after Close")
		}
		second := e.subscribe(retrying(end, 1, topic, time.Hour, 50*time.Millisecond))
		var got []string
		for _, r := range second.handle(n) {
			got = append(got, r.Key)
			e.wantNotBefore(r, notBefore)
			for _, fault := range failureFaults(failure(1), r.Failure) {
				e.Error(fault)
			}
		}
		slices.Sort(got)
		if len(slices.Compact(got)) != n {
			e.Errorf("got messages %v, want all %d", got, n)
		}
		second.nothingBut(p, topic)
	}
}

// testRetryOfLargest: what was small enough to be published is small enough to be
// retried and buried, with the longest reason.
func testRetryOfLargest(e *env) {
	limit := e.broker.Features.MaxPayload
	if !e.has(limit > 0, "MaxPayload") {
		return
	}
	c := e.subscribe(retrying("largest", 1, "#", time.Millisecond))
	d := e.subscribe(deadLetters("largest", 1))
	p := e.publisher()
	m := message("size.largest", "largest")
	m.ContentType, m.Payload = outbox.ContentTypeBytes, make([]byte, limit)
	f := strangeFailures()["long"]
	p.publish(m)
	e.retry(c.next(), time.Millisecond, f)
	r := c.next()
	e.wantMessage(r, m, f)
	e.bury(r, f)
	r = d.next()
	e.wantMessage(r, m, f)
	e.settle(r, outbox.Ack)
}
