package brokertest

import (
	"runtime"
	"time"

	"github.com/outbox-go/outbox"
)

// faultySettlements are errors on every message.
func faultySettlements() map[string]outbox.Settlement {
	return map[string]outbox.Settlement{
		"Retry without Failure":      {Outcome: outbox.Retry, Delay: time.Millisecond},
		"DeadLetter without Failure": {Outcome: outbox.DeadLetter},
		"Retry before now":           retryAfter(-1, failure(1)),
		"Retry after more than 24h":  retryAfter(24*time.Hour+1, failure(1)),
	}
}

// testFaultySettlement: what cannot be done leaves the message as it was.
func testFaultySettlement(e *env) {
	p := e.publisher()
	other := e.subscribe(subscription("other", 10, "#"))
	c := e.subscribe(retrying("faulty", 2, "faulty.*", time.Millisecond))
	for name, faulty := range faultySettlements() {
		m := message("faulty.this", name)
		p.publish(m)
		other.handle(1)
		r := c.next()
		for range 2 {
			if r.Settle(faulty) == nil {
				e.Fatalf("%s: no error", name)
			}
		}
		other.nothingBut(p, "other.fence") // gives the message the time to come again
		if len(c.got) > 0 {
			e.Errorf("%s: a message came while the first was unsettled: %+v", name, (<-c.got).Message)
		}
		e.settle(r, outbox.Requeue)
		r = c.next()
		e.wantMessage(r, m, nil)
		if r.Settle(faulty) == nil {
			e.Fatalf("%s: no error", name)
		}
		e.retry(r, 0, failure(1))
		r = c.next()
		e.wantMessage(r, m, failure(1))
		if r.Settle(faulty) == nil {
			e.Fatalf("%s: no error", name)
		}
		e.settle(r, outbox.Ack)
	}
	c.nothingBut(p, "faulty.end")
}

// testFaultySettlementOfDeadLetters: a dead letter cannot die again, nor go back.
func testFaultySettlementOfDeadLetters(e *env) {
	p := e.publisher()
	c := e.subscribe(subscription("faulty", 2, "#"))
	d := e.subscribe(deadLetters("faulty", 2))
	faulty := faultySettlements()
	faulty["Retry"], faulty["DeadLetter"] = retryAfter(0, failure(2)), dead(failure(2))
	m := message("faulty.dead", "")
	p.publish(m)
	e.bury(c.next(), failure(1))
	for name, s := range faulty {
		r := d.next()
		e.wantMessage(r, m, failure(1))
		if r.Settle(s) == nil {
			e.Fatalf("%s of a dead letter: no error", name)
		}
		e.settle(r, outbox.Requeue)
	}
	d.handle(1)
	d.nothingDeadBut(p, c, "faulty.end")
	c.nothingBut(p, "faulty.end")
}

// testEndWaitsForMoved: a Retry and a DeadLetter settle what Subscribe waits for at
// its end, and one that failed does not.
func testEndWaitsForMoved(e *env) {
	const delay = 50 * time.Millisecond
	p := e.publisher()
	other := e.subscribe(subscription("other", 50, "#"))
	c := e.subscribe(retrying("ending", 10, "end.*", delay))
	d := e.subscribe(deadLetters("ending", 10))
	p.publish(messages("end.this", 3)...)
	other.handle(3)
	running := c.take(3)
	c.cancel()
	notBefore := e.retry(running[0], delay, failure(1))
	e.bury(running[1], failure(2))
	if running[2].Settle(retryAfter(-1, failure(1))) == nil {
		e.Error("Retry with a negative delay: no error")
	}
	for range 10 {
		other.nothingBut(p, "other.fence") // gives Subscribe the time to return wrongly
		runtime.Gosched()                  // and, of a broker in memory, the processor
	}
	select {
	case <-c.ended:
		e.Fatalf("Subscribe returned %v while a message was not settled", c.err)
	default:
	}
	e.settle(running[2], outbox.Ack)
	c.stop()
	if r := d.handle(1)[0]; r.Key != "1" {
		e.Errorf("got dead letter %s, want 1", r.Key)
	}
	c = e.subscribe(retrying("ending", 10, "end.*", delay))
	r := c.handle(1)[0]
	if r.Key != "0" {
		e.Errorf("got message %s, want 0, which was retried", r.Key)
	}
	e.wantNotBefore(r, notBefore)
	c.nothingBut(p, "end.fence")
}

// testSlowHandler: whoever handles a message may take longer than the broker waits
// for a sign of life.
func testSlowHandler(e *env) {
	const n = 3
	hold := 2 * e.broker.Features.AckWait
	if !e.has(hold > 0, "AckWait") {
		return
	}
	p := e.publisher()
	c := e.subscribe(subscription("slow", n, "slow.*"))
	d := e.subscribe(deadLetters("slow", n))
	single := subscription("single", n, "slow.*")
	single.InOrder = true
	o := e.subscribe(single)
	p.publish(message("slow.dead", "dead"))
	e.bury(c.next(), failure(1))
	o.handle(1)
	// More than the consumer may pass on: the others wait in the driver's hands, or
	// at the broker.
	p.publish(messages("slow.this", 2*n)...)
	held, letter, first := c.take(n), d.next(), o.next()
	timer := time.NewTimer(hold)
	defer timer.Stop()
	inOrder := []*outbox.Received{first}
	for waiting := true; waiting; {
		select {
		case r := <-c.got:
			e.Fatalf("message %s came (redelivered: %t) while %d were unsettled", r.Key, r.Redelivered, n)
		case r := <-d.got:
			e.Fatalf("dead letter %s came again while it was unsettled", r.Key)
		case r := <-o.got:
			inOrder = append(inOrder, r)
		case <-timer.C:
			waiting = false
		}
	}
	e.settle(letter, outbox.Ack)
	for _, r := range held {
		e.settle(r, outbox.Ack)
	}
	for _, r := range c.handle(n) {
		if r.Redelivered {
			e.Errorf("Redelivered of message %s is true: it was delivered to nobody before", r.Key)
		}
	}
	for i := range 2 * n {
		if i == len(inOrder) {
			inOrder = append(inOrder, o.next())
		}
		if r := inOrder[i]; r.Redelivered {
			e.Errorf("message %s of the queue in order came again while it was unsettled", r.Key)
		}
		e.settle(inOrder[i], outbox.Ack)
	}
	d.nothingDeadBut(p, c, "slow.end")
	c.nothingBut(p, "slow.end")
	o.handle(2)
}
