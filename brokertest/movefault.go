package brokertest

import (
	"sync"
	"time"

	"github.com/outbox-go/outbox"
)

// testCutWhileWaiting: a message that waits is the broker's, whatever becomes of
// the connections.
func testCutWhileWaiting(e *env) {
	const n, delay = 20, 200 * time.Millisecond
	if !e.has(e.broker.Features.Cut != nil, "Cut") {
		return
	}
	c := e.subscribe(retrying("waiting", n, "#", delay))
	p := e.publisher()
	p.publish(messages("wait.here", n)...)
	for _, r := range c.take(n) {
		e.retry(r, delay, failure(1))
	}
	e.cut()
	c.waitReady()
	e.wantAllAgain(c, n, delay)
}

// testCutWhileRetrying: some Retry succeed, others fail, and no message is lost.
func testCutWhileRetrying(e *env) {
	const n, delay = 200, 20 * time.Millisecond
	if !e.has(e.broker.Features.Cut != nil, "Cut") {
		return
	}
	c := e.subscribe(retrying("cut", n, "#", delay))
	p := e.publisher()
	p.publish(messages("cut.retry", n)...)
	e.settleWhileCut(c.take(n), retryAfter(delay, failure(1)))
	e.wantAllAgain(c, n, delay)
}

// testCutWhileDying is the same for DeadLetter. What comes again dies again.
func testCutWhileDying(e *env) {
	const n = 200
	if !e.has(e.broker.Features.Cut != nil, "Cut") {
		return
	}
	c := e.subscribe(subscription("cut", n, "#"))
	d := e.subscribe(deadLetters("cut", n))
	p := e.publisher()
	p.publish(messages("cut.dead", n)...)
	e.settleWhileCut(c.take(n), dead(failure(1)))
	timeout := time.After(patience)
	for seen := map[string]bool{}; len(seen) < n; {
		select {
		case r := <-c.got:
			e.settleAnyhow(r, dead(failure(1)))
		case r := <-d.got:
			seen[r.Key] = true
			for _, fault := range failureFaults(failure(1), r.Failure) {
				e.Error(fault)
			}
			e.settleAnyhow(r, outbox.Settlement{Outcome: outbox.Ack})
		case <-timeout:
			e.Fatalf("got %d of %d dead letters in %s", len(seen), n, patience)
		}
	}
}

// testSettleAfterCut: a message that came by a connection that is gone is retried,
// buried, or still there.
func testSettleAfterCut(e *env) {
	const n = 10
	if !e.has(e.broker.Features.Cut != nil, "Cut") {
		return
	}
	c := e.subscribe(subscription("cut", n, "#"))
	d := e.subscribe(deadLetters("cut", n))
	p := e.publisher()
	p.publish(messages("cut.before", n)...)
	held := c.take(n)
	e.cut()
	c.waitReady()
	for i, r := range held {
		if i%2 == 0 {
			e.settleAnyhow(r, retryAfter(0, failure(1)))
		} else {
			e.settleAnyhow(r, dead(failure(1)))
		}
	}
	timeout := time.After(patience)
	for seen := map[string]bool{}; len(seen) < n; {
		var r *outbox.Received
		select {
		case r = <-c.got:
		case r = <-d.got:
		case <-timeout:
			e.Fatalf("got %d of %d messages in %s", len(seen), n, patience)
		}
		seen[r.Key] = true
		e.settleAnyhow(r, outbox.Settlement{Outcome: outbox.Ack})
	}
}

// settleWhileCut settles each message as told, and cuts the connections in the
// middle of it.
func (e *env) settleWhileCut(held []*outbox.Received, s outbox.Settlement) {
	e.Helper()
	var settling sync.WaitGroup
	for i, r := range held {
		if i == len(held)/2 {
			settling.Go(e.cut)
		}
		settling.Go(func() { e.settleAnyhow(r, s) })
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		settling.Wait()
	}()
	wait(e, done, "every Settle to return")
}

// settleAnyhow settles r as told, or else as a worker does.
func (e *env) settleAnyhow(r *outbox.Received, s outbox.Settlement) {
	if r.Settle(s) != nil {
		_ = r.Settle(outbox.Settlement{Outcome: outbox.Requeue}) // may fail as well: the broker has it then
	}
}

// wantAllAgain waits until messages "0" to n-1 have come with a failure. What comes
// without one was not retried, or comes twice, and is retried again.
func (e *env) wantAllAgain(c *consumer, n int, delay time.Duration) {
	e.Helper()
	for seen := map[string]bool{}; len(seen) < n; {
		r := c.next()
		if r.Failure == nil {
			e.settleAnyhow(r, retryAfter(delay, failure(1)))
			continue
		}
		seen[r.Key] = true
		e.settleAnyhow(r, outbox.Settlement{Outcome: outbox.Ack})
	}
}
