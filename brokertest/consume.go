package brokertest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/outbox-go/outbox"
)

func testAckRemoves(e *env) {
	p := e.publisher()
	c := e.subscribe(subscription("acks", 10, "#"))
	p.publish(messages("ack.this", 20)...)
	c.handle(20)
	c.stop()
	c = e.subscribe(subscription("acks", 10, "#"))
	c.nothingBut(p, "ack.end")
}

func testRequeueRedelivers(e *env) {
	p := e.publisher()
	c := e.subscribe(subscription("requeues", 10, "#"))
	m := fieldMessages()["full"]
	p.publish(m)
	first := c.next()
	if first.Redelivered {
		e.Error("Redelivered is true at the first delivery")
	}
	e.settle(first, outbox.Requeue)
	for range 3 {
		again := c.next()
		for _, fault := range differences(m, &again.Message) {
			e.Error(fault)
		}
		if e.broker.Features.Redelivered && !again.Redelivered {
			e.Error("Redelivered is false after Requeue")
		}
		e.settle(again, outbox.Requeue)
	}
	e.settle(c.next(), outbox.Ack)
	c.nothingBut(p, "requeue.end")
}

func testUnsettledComeBack(e *env) {
	const n = 5
	p := e.publisher()
	first := e.subscribe(subscription("unsettled", n, "#"))
	p.publish(messages("come.back", n)...)
	taken := first.take(n)
	first.close()
	wait(e, first.ended, "Subscribe to return after Close")
	if first.err == nil {
		e.Error("Subscribe returned nil after Close, want an error: its context has not ended")
	}
	for _, r := range taken {
		if r.Settle(outbox.Settlement{Outcome: outbox.Ack}) == nil {
			e.Errorf("message %s could be settled after Close", r.Key)
		}
	}
	second := e.subscribe(subscription("unsettled", n, "#"))
	seen := map[string]bool{}
	for _, r := range second.handle(n) {
		seen[r.Key] = true
		if e.broker.Features.Redelivered && !r.Redelivered {
			e.Errorf("Redelivered of message %s is false after its first receiver was closed", r.Key)
		}
	}
	if len(seen) != n {
		e.Errorf("got messages %v, want all %d", seen, n)
	}
}

func testPrefetch(e *env) {
	for _, prefetch := range []int{1, 3} {
		topic := "limit." + strconv.Itoa(prefetch)
		limited := e.subscribe(subscription("limited-"+strconv.Itoa(prefetch), prefetch, topic))
		other := e.subscribe(subscription("other", 50, "#"))
		p := e.publisher()
		p.publish(messages(topic, 10)...)
		held := limited.take(prefetch)
		for len(held) > 0 {
			// A round trip by another queue gives one too many the time to come.
			fence := message("other.fence", "")
			p.publish(fence)
			for other.handle(1)[0].ID != fence.ID {
				continue
			}
			if n := len(limited.got); n > 0 {
				e.Fatalf("got %d messages more than Prefetch, which is %d", n, prefetch)
			}
			last, err := strconv.Atoi(held[len(held)-1].Key)
			if err != nil {
				e.Fatal(err)
			}
			e.settle(held[0], outbox.Ack)
			held = held[1:]
			if last < 9 {
				held = append(held, limited.next())
			}
		}
		limited.stop()
		other.stop()
	}
}

func testKeptWhileNobodyListens(e *env) {
	p := e.publisher()
	c := e.subscribe(subscription("kept", 10, "keep.*"))
	c.stop()
	p.publish(messages("keep.this", 100)...)
	p.close()
	c = e.subscribe(subscription("kept", 10, "keep.*"))
	for i, r := range c.handle(100) {
		if r.Key != strconv.Itoa(i) {
			e.Fatalf("message %d to arrive is number %s of those published", i, r.Key)
		}
	}
}

func testEndWaitsForSettled(e *env) {
	p := e.publisher()
	other := e.subscribe(subscription("other", 50, "#"))
	c := e.subscribe(subscription("ending", 10, "end.*"))
	p.publish(messages("end.this", 2)...)
	other.handle(2)
	running := c.take(2)
	c.cancel()
	e.settle(running[0], outbox.Ack)
	other.nothingBut(p, "other.fence") // gives Subscribe the time to return wrongly
	select {
	case <-c.ended:
		e.Fatalf("Subscribe returned %v while a message was not settled", c.err)
	default:
	}
	e.settle(running[1], outbox.Ack)
	c.stop()
	c = e.subscribe(subscription("ending", 10, "end.*"))
	c.nothingBut(p, "end.fence")
}

// testEndGivesBackTheRest: receive is blocked on the first message while the
// others are on their way or in the driver's hands.
func testEndGivesBackTheRest(e *env) {
	const n = 10
	p := e.publisher()
	var mu sync.Mutex
	var passed []string
	in, release := make(chan *outbox.Received, n), make(chan struct{})
	c := e.start(subscription("rest", n, "rest.*"), func(r *outbox.Received) {
		mu.Lock()
		passed = append(passed, r.Key)
		mu.Unlock()
		in <- r
		<-release
	})
	e.Cleanup(sync.OnceFunc(func() {
		select {
		case <-release:
		default:
			close(release)
		}
	}))
	c.waitReady()
	other := e.subscribe(subscription("other", n+1, "#"))
	p.publish(messages("rest.this", n)...)
	other.handle(n)
	first := wait(e, in, "the first message")
	c.cancel()
	close(release)
	other.nothingBut(p, "other.fence") // gives the second message the time to come
	e.settle(first, outbox.Ack)
	c.stop()
	mu.Lock()
	if got := strings.Join(passed, " "); got != "0" {
		e.Errorf("messages %s were passed on, want 0 alone: the context had ended before the next", got)
	}
	mu.Unlock()

	c = e.subscribe(subscription("rest", n, "rest.*"))
	got := keys(c.handle(n - 1))
	slices.Sort(got)
	if fmt.Sprint(got) != "[1 2 3 4 5 6 7 8 9]" {
		e.Errorf("got messages %v after the end of the first, want 1 to 9", got)
	}
	c.nothingBut(p, "rest.end")
}
