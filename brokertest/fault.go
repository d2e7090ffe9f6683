package brokertest

import (
	"errors"
	"strconv"

	"github.com/outbox-go/outbox"
)

// testCutWhilePublishing plays the relay: what is answered ErrUnavailable is sent
// again, from the first of them on, and nothing may be lost.
func testCutWhilePublishing(e *env) {
	const n, cuts = 3 * window, 3
	f := e.broker.Features
	if !e.has(f.Cut != nil, "Cut") {
		return
	}
	c := e.subscribe(subscription("cut", 100, "#"))
	p := e.publisher()
	unavailable := 0
	for round := range cuts {
		msgs := messages("cut."+strconv.Itoa(round), n)
		answers := make([]*answer, 0, n)
		for i, m := range msgs {
			if i >= window {
				_ = answers[i-window].wait(e) // counted below
			}
			answers = append(answers, p.send(background(), m))
			if i == n/2+round {
				e.cut()
			}
		}
		p.flush()
		for i, a := range answers {
			if err := a.wait(e); errors.Is(err, outbox.ErrUnavailable) {
				unavailable++
				p.publishAgain(msgs[i])
			} else if err != nil {
				e.Fatalf("message %d was answered %v, want nil or ErrUnavailable", i, err)
			}
		}
		seen := map[string]bool{}
		for len(seen) < n {
			r := c.next()
			_ = r.Settle(outbox.Settlement{Outcome: outbox.Ack}) // fails for what came before the cut
			if r.Topic == "cut."+strconv.Itoa(round) {
				seen[r.Key] = true
			}
		}
	}
	e.Logf("%d of %d messages were answered ErrUnavailable", unavailable, cuts*n)
}

func testCutWhileConsuming(e *env) {
	const n = 500
	f := e.broker.Features
	if !e.has(f.Cut != nil, "Cut") {
		return
	}
	p := e.publisher()
	c := e.subscribe(subscription("cut", 20, "#"))
	p.publish(messages("cut.here", n)...)
	seen := map[string]bool{}
	for received := 1; len(seen) < n; received++ {
		r := c.next()
		seen[r.Key] = true
		if received == 50 || received == 250 {
			e.cut()
			c.waitReady()
		}
		_ = r.Settle(outbox.Settlement{Outcome: outbox.Ack}) // may fail for what came before a cut
	}
	if len(c.ready) > 2 {
		e.Logf("the subscription was established %d times more than there were cuts", len(c.ready))
	}
	c.cancel()
	// Copies that the cuts made have been passed on and wait to be settled.
	go func() {
		for {
			select {
			case r := <-c.got:
				_ = r.Settle(outbox.Settlement{Outcome: outbox.Ack})
			case <-c.ended:
				return
			}
		}
	}()
	c.stop()
}

// testCutIdle: connections that nobody uses when they break come back as well,
// and what a handler has unsettled meanwhile is not lost.
func testCutIdle(e *env) {
	f := e.broker.Features
	if !e.has(f.Cut != nil, "Cut") {
		return
	}
	p := e.publisher()
	c := e.subscribe(subscription("idle", 10, "#"))
	for i := range 5 {
		m := message("idle.cut", strconv.Itoa(i))
		p.publishAgain(m)
		r := c.next()
		for r.ID != m.ID {
			_ = r.Settle(outbox.Settlement{Outcome: outbox.Ack})
			r = c.next()
		}
		e.cut()
		c.waitReady()
		if r.Settle(outbox.Settlement{Outcome: outbox.Ack}) == nil {
			continue
		}
		again := c.next()
		for again.ID != m.ID {
			_ = again.Settle(outbox.Settlement{Outcome: outbox.Ack})
			again = c.next()
		}
		e.settle(again, outbox.Ack)
	}
}

// testStalledThenCut: all that is outstanding at a cut is answered
// ErrUnavailable, and a publisher that sent it again by itself would be caught.
func testStalledThenCut(e *env) {
	const n = 100
	f := e.broker.Features
	if !e.has(f.Stall != nil && f.Cut != nil, "Stall and Cut") {
		return
	}
	c := e.subscribe(subscription("stalled", n, "#"))
	p := e.publisher()
	before := message("before.stall", "before")
	p.publish(before)
	c.handle(1)
	e.stall()
	var answers []*answer
	for _, m := range messages("stalled.lost", n) {
		answers = append(answers, p.send(background(), m))
	}
	p.flush()
	for i, a := range answers {
		if isGiven(a) {
			e.Errorf("message %d was answered %v before the broker could get it", i, a.err)
		}
	}
	e.cut()
	for _, a := range answers {
		e.wantErr(a, outbox.ErrUnavailable)
	}
	f.Resume()
	fence := message("after.stall", "fence")
	p.publishAgain(fence)
	r := c.next()
	for r.ID == before.ID { // the cut can have taken its acknowledgement
		e.settle(r, outbox.Ack)
		r = c.next()
	}
	if r.ID != fence.ID {
		e.Errorf("message %s (topic %s) arrived, want none of those that were stalled", r.ID, r.Topic)
	}
	e.settle(r, outbox.Ack)
}

func testStalledThenClosed(e *env) {
	f := e.broker.Features
	if !e.has(f.Stall != nil, "Stall") {
		return
	}
	e.subscribe(subscription("everything", 10, "#"))
	p := e.publisher()
	p.publish(message("before.stall", "before"))
	e.stall()
	var answers []*answer
	for _, m := range messages("stalled.closed", 100) {
		answers = append(answers, p.send(background(), m))
	}
	p.close()
	for i, a := range answers {
		if !isGiven(a) {
			e.Fatalf("Close returned before message %d was answered", i)
		}
		e.wantErr(a, outbox.ErrUnavailable)
	}
	f.Resume()
}

func testStalledThenResumed(e *env) {
	const n = 100
	f := e.broker.Features
	if !e.has(f.Stall != nil, "Stall") {
		return
	}
	c := e.subscribe(subscription("stalled", n, "#"))
	p := e.publisher()
	p.publish(message("before.stall", "before"))
	c.handle(1)
	e.stall()
	var answers []*answer
	for _, m := range messages("stalled.kept", n) {
		answers = append(answers, p.send(background(), m))
	}
	p.flush()
	f.Resume()
	for _, a := range answers {
		if err := a.wait(e); err != nil {
			e.Errorf("message %s, sent while the connection stalled: %v", a.message.Key, err)
		}
	}
	for i, r := range c.handle(n) {
		if r.Key != strconv.Itoa(i) {
			e.Fatalf("message %d to arrive is number %s of those published", i, r.Key)
		}
	}
}
