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
	var moving []func()
	for _, r := range c.take(n) {
		moving = append(moving, func() { e.settleAnyhow(r, retryAfter(delay, failure(1))) })
	}
	e.meanwhile(e.cut, moving)
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
	var moving []func()
	for _, r := range c.take(n) {
		moving = append(moving, func() { e.settleAnyhow(r, dead(failure(1))) })
	}
	e.meanwhile(e.cut, moving)
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

// testSettleAfterCut: a message that came by a connection that is gone is known to
// be lost, if the driver can tell, and is retried, buried, or still there.
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
		if r.Lost != nil {
			wait(e, r.Lost, "Lost to be closed after the cut")
		}
		if i%2 == 0 {
			e.settleAnyhow(r, retryAfter(0, failure(1)))
		} else {
			e.settleAnyhow(r, dead(failure(1)))
		}
	}
	e.wantEach(n, c, d)
}

// testLostIsNotTheNext: to settle a message that came by a lost connection does
// nothing to its next delivery.
func testLostIsNotTheNext(e *env) {
	const n = 10
	if !e.has(e.broker.Features.Cut != nil, "Cut") {
		return
	}
	c := e.subscribe(subscription("cut", 2*n, "#"))
	p := e.publisher()
	p.publish(messages("cut.before", n)...)
	held := c.take(n)
	if !e.has(held[0].Lost != nil, "Lost") {
		for _, r := range held {
			e.settle(r, outbox.Ack)
		}
		return
	}
	e.cut()
	again := c.take(n)
	for i, r := range held {
		wait(e, r.Lost, "Lost to be closed after the cut")
		if err := r.Settle(outbox.Settlement{Outcome: outbox.Outcome(i % 2)}); err == nil {
			e.Errorf("message %s, which came by the lost connection, could be settled", r.Key)
		}
	}
	for _, r := range again {
		select {
		case <-r.Lost:
			e.Errorf("the next delivery of message %s is lost as well", r.Key)
		default:
		}
		e.settle(r, outbox.Requeue)
	}
	c.handle(n)
	c.nothingBut(p, "cut.end")
}

// testCloseWhileMoving: some Retry and DeadLetter succeed before Close, others
// fail, all of them return, and no message is lost.
func testCloseWhileMoving(e *env) {
	const n = 200
	p := e.publisher()
	c := e.subscribe(subscription("closing", n, "#"))
	p.publish(messages("close.race", n)...)
	var moving []func()
	for i, r := range c.take(n) {
		s := retryAfter(time.Duration(i%3)*10*time.Millisecond, failure(1))
		if i%2 == 0 {
			s = dead(failure(1))
		}
		moving = append(moving, func() { e.settleAnyhow(r, s) })
	}
	e.meanwhile(c.close, moving)
	wait(e, c.ended, "Subscribe to return after Close")
	e.wantEach(n, e.subscribe(subscription("closing", n, "#")), e.subscribe(deadLetters("closing", n)))
}

// testStalledRetryThenCut: a Retry that the broker cannot get does not block for
// ever, and loses nothing.
func testStalledRetryThenCut(e *env) {
	const n = 20
	f := e.broker.Features
	if !e.has(f.Stall != nil && f.Cut != nil, "Stall and Cut") {
		return
	}
	p := e.publisher()
	c := e.subscribe(subscription("stalled", n, "#"))
	d := e.subscribe(deadLetters("stalled", n))
	p.publish(messages("stalled.retry", n)...)
	var moving []func()
	for i, r := range c.take(n) {
		s := retryAfter(0, failure(1))
		if i%2 == 0 {
			s = dead(failure(1))
		}
		moving = append(moving, func() { e.settleAnyhow(r, s) })
	}
	e.stall()
	e.meanwhile(func() {
		e.cut()
		f.Resume()
	}, moving)
	e.wantEach(n, c, d)
}

// meanwhile runs all of moving at once, and disturb in the middle of them.
func (e *env) meanwhile(disturb func(), moving []func()) {
	e.Helper()
	var running sync.WaitGroup
	for i, move := range moving {
		if i == len(moving)/2 {
			running.Go(disturb)
		}
		running.Go(move)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		running.Wait()
	}()
	wait(e, done, "every Settle to return")
}

// settleAnyhow settles r as told, or else as a worker does.
func (e *env) settleAnyhow(r *outbox.Received, s outbox.Settlement) {
	if r.Settle(s) != nil {
		_ = r.Settle(outbox.Settlement{Outcome: outbox.Requeue}) // may fail as well: the broker has it then
	}
}

// wantEach waits until messages "0" to n-1 have come to c or to d.
func (e *env) wantEach(n int, c, d *consumer) {
	e.Helper()
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

// wantAllAgain waits until messages "0" to n-1 have come with a failure. What comes
// without one was not retried, or comes twice, and is retried again.
func (e *env) wantAllAgain(c *consumer, n int, delay time.Duration) {
	e.Helper()
	deadline := time.Now().Add(patience)
	for seen := map[string]bool{}; len(seen) < n; {
		r := c.next()
		if time.Now().After(deadline) {
			e.Fatalf("%d of %d messages have come with a failure in %s", len(seen), n, patience)
		}
		if r.Failure == nil {
			e.settleAnyhow(r, retryAfter(delay, failure(1)))
			continue
		}
		seen[r.Key] = true
		e.settleAnyhow(r, outbox.Settlement{Outcome: outbox.Ack})
	}
}
