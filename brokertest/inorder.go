package brokertest

import (
	"slices"
	"strconv"
	"time"

	"github.com/outbox-go/outbox"
)

func inOrder(queue string, prefetch int, topic string) outbox.Subscription {
	s := subscription(queue, prefetch, topic)
	s.InOrder = true
	return s
}

// nextInOrder returns the next arrival, which must have that key and, unless it is
// nil, be at that member.
func (g *group) nextInOrder(key int, by *consumer) arrival {
	g.env.Helper()
	a := g.next()
	if a.Key != strconv.Itoa(key) {
		g.env.Fatalf("got message %s (redelivered: %t), want %d", a.Key, a.Redelivered, key)
	}
	if by != nil && a.by != by {
		g.env.Fatalf("message %s came to another member than the one before it", a.Key)
	}
	return a
}

// handleInOrder acknowledges n messages from key on, and returns who got them.
func (g *group) handleInOrder(key, n int, by *consumer) *consumer {
	g.env.Helper()
	for i := range n {
		a := g.nextInOrder(key+i, by)
		by = a.by
		g.env.settle(a.Received, outbox.Ack)
	}
	return by
}

// testInOrder: one member gets all, in order, however many it and the others may
// have unsettled.
func testInOrder(e *env) {
	const n = 100
	p := e.publisher()
	for _, prefetch := range []int{1, 20} {
		topic := "order." + strconv.Itoa(prefetch)
		s := inOrder(topic, prefetch, topic)
		g := e.group(s, s, s)
		p.publish(messages(topic, n)...)
		g.handleInOrder(0, n, nil)
		end := message(topic, "end")
		p.publish(end)
		if a := g.next(); a.ID != end.ID {
			e.Errorf("got message %s again", a.Key)
		}
	}
}

// testInOrderHandsOver: when the member that receives ends, another one goes on
// with what was left unsettled or given back, in order, and not before.
func testInOrderHandsOver(e *env) {
	for _, prefetch := range []int{1, 7} {
		handOver(e, prefetch)
	}
}

func handOver(e *env, prefetch int) {
	const n = 60
	topic := "hand." + strconv.Itoa(prefetch)
	fence := topic + ".fence" // its own: a new queue may begin with what is older
	s := inOrder("hand-"+strconv.Itoa(prefetch), prefetch, topic)
	g := e.group(s, s, s, s)
	other := e.subscribe(subscription("other-"+strconv.Itoa(prefetch), 100, topic, fence))
	p := e.publisher()
	p.publish(messages(topic, n)...)
	other.handle(n)

	active := g.handleInOrder(0, 5, nil)
	g.nextInOrder(5, active)
	g.close(active)

	active = g.handleInOrder(5, 5, nil)
	held := g.nextInOrder(10, active)
	active.cancel()
	g.standBy(active, p, other, fence)
	e.settle(held.Received, outbox.Requeue)
	g.settleEnd(active, outbox.Requeue)

	active = g.handleInOrder(10, 5, nil)
	held = g.nextInOrder(15, active)
	active.cancel()
	g.standBy(active, p, other, fence)
	e.settle(held.Received, outbox.Ack)
	done := 16 + g.settleEnd(active, outbox.Ack)

	active = g.handleInOrder(done, n-done, nil)
	end := message(topic, "end")
	p.publish(end)
	if a := g.next(); a.ID != end.ID || a.by != active {
		e.Errorf("got message %s, want the last one", a.Key)
	}
}

// standBy wants no message at another member while one of active is unsettled.
func (g *group) standBy(active *consumer, p *publisher, other *consumer, fence string) {
	g.env.Helper()
	other.nothingBut(p, fence) // gives the others the time to receive wrongly
	for len(g.got) > 0 {
		a := <-g.got
		g.put = append(g.put, a)
		if a.by != active && !g.gone[a.by] {
			g.env.Errorf("message %s came to another member while one before it was unsettled", a.Key)
		}
	}
}

// testInOrderRequeue: what is given back comes before what is behind it.
func testInOrderRequeue(e *env) {
	const n = 30
	p := e.publisher()
	s := inOrder("requeues", 1, "#")
	g := e.group(s, s)
	p.publish(messages("requeue.this", n)...)
	var by *consumer
	for i := range n {
		for range i % 3 {
			a := g.nextInOrder(i, by)
			e.settle(a.Received, outbox.Requeue)
			by = a.by
		}
		a := g.nextInOrder(i, by)
		if a.Redelivered && i%3 == 0 || !a.Redelivered && i%3 > 0 && e.broker.Features.Redelivered {
			e.Errorf("Redelivered of message %d is %t after %d deliveries", i, a.Redelivered, i%3)
		}
		e.settle(a.Received, outbox.Ack)
		by = a.by
	}
}

// testInOrderMoves: in a queue in order messages can be retried and die as well.
func testInOrderMoves(e *env) {
	const delay = 50 * time.Millisecond
	p := e.publisher()
	s := inOrder("moves", 5, "#")
	s.RetryDelays = []time.Duration{delay}
	g := e.group(s, s)
	d := e.subscribe(deadLetters("moves", 5))
	p.publish(messages("move.this", 4)...)
	var notBefore time.Time
	var got []string
	for range 5 {
		a := g.next()
		switch {
		case a.Key == "0" && a.Failure == nil:
			notBefore = e.retry(a.Received, delay, failure(1))
		case a.Key == "1":
			e.bury(a.Received, failure(1))
		default:
			if a.Key == "0" {
				e.wantNotBefore(a.Received, notBefore)
			}
			got = append(got, a.Key)
			e.settle(a.Received, outbox.Ack)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"0", "2", "3"}) {
		e.Errorf("got messages %v, want 0, 2 and 3", got)
	}
	if r := d.handle(1)[0]; r.Key != "1" {
		e.Errorf("got dead letter %s, want 1", r.Key)
	}
}

// testInOrderCut: what was unsettled when the connections broke comes first.
func testInOrderCut(e *env) {
	const n = 30
	if !e.has(e.broker.Features.Cut != nil, "Cut") {
		return
	}
	p := e.publisher()
	s := inOrder("cut", 1, "#")
	g := e.group(s, s)
	p.publish(messages("cut.order", n)...)
	a := g.nextInOrder(0, nil)
	e.cut()
	for _, c := range g.members {
		c.waitReady()
	}
	want := 0
	if a.Settle(outbox.Settlement{Outcome: outbox.Ack}) == nil {
		if b := g.next(); b.Key == "0" { // acknowledged too late, or into the void
			e.settle(b.Received, outbox.Ack)
		} else {
			g.put = append(g.put, b)
		}
		want = 1
	}
	g.handleInOrder(want, n-want, nil)
}
