package relay_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
)

// moody is a broker that takes, refuses and loses messages at random, and answers
// late and in any order.
type moody struct {
	*sink
	dice   *dice
	refuse float64 // refused
	lose   float64 // neither taken nor refused: unavailable
	forget float64 // taken, but the answer is unavailable
	late   time.Duration
}

func (p *moody) Publish(_ context.Context, m *outbox.Message, done func(error)) {
	var err error
	switch {
	case p.dice.chance(p.refuse):
		err = outbox.Refused(errTampered)
	case p.dice.chance(p.lose):
		err = outbox.Unavailable(errTampered)
	default:
		p.deliver(m)
		if p.dice.chance(p.forget) {
			err = outbox.Unavailable(errTampered)
		}
	}
	if p.late == 0 || p.dice.chance(0.2) {
		done(err)
		return
	}
	time.AfterFunc(p.dice.wait(p.late), func() { done(err) })
}

func TestOrderByKeyInFailure(t *testing.T) {
	for _, keys := range []int{1, 10, 200} {
		for relays := 1; relays <= 3; relays++ {
			for seed := range seeds(8) {
				t.Run(fmt.Sprintf("%d keys %d relays seed %d", keys, relays, seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { orderInFailure(t, keys, relays, seed) })
				})
			}
		}
	}
}

func orderInFailure(t *testing.T, keys, relays int, seed uint64) {
	b, d := newBench(t), newDice(seed)
	p := &moody{
		sink: newSink(), dice: d, late: 5 * time.Millisecond,
		refuse: 0.02 * float64(d.upTo(3)), lose: 0.01 * float64(d.upTo(3)), forget: 0.01 * float64(d.upTo(3)),
	}
	config := &relay.Config{
		Window: 1 + d.upTo(100), SettleBatch: 1 + d.upTo(100), ReadBatch: 1 + d.upTo(200),
		RefusedBackoff: 20 * time.Millisecond, MaxRefusedBackoff: time.Second,
		UnavailableBackoff: time.Millisecond, MaxUnavailableBackoff: 20 * time.Millisecond,
	}
	var stops []func() error
	for range relays {
		_, stop := b.startWith(p, config)
		stops = append(stops, stop)
	}
	for range 10 {
		b.emitMany(100, keys)
		time.Sleep(d.wait(500 * time.Millisecond))
	}
	time.Sleep(5 * time.Minute)
	p.want(t, b.next)
	if p.jumps != 0 {
		t.Fatalf("%d repeats of others than the key's last message: more than one was in flight", p.jumps)
	}
	if p.forget == 0 && p.repeats != 0 {
		t.Fatalf("%d repeats though no answer was lost", p.repeats)
	}
	for _, stop := range stops {
		b.stopped(stop)
	}
	if n := b.store.Pending(); n != 0 {
		t.Fatalf("%d messages are pending", n)
	}
}

// TestOneMessageOfAKeyIsInFlight says what strict order rests upon.
func TestOneMessageOfAKeyIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d := newBench(t), newDice(1)
		var mu sync.Mutex
		var fault string
		unanswered := map[string]int{}
		p := publisherFunc(func(_ context.Context, m *outbox.Message, done func(error)) {
			mu.Lock()
			defer mu.Unlock()
			key := m.Key
			if unanswered[key]++; unanswered[key] > 1 && key != "" {
				fault = "two messages of key " + key + " are in flight"
			}
			time.AfterFunc(d.wait(time.Second), func() {
				mu.Lock()
				unanswered[key]--
				mu.Unlock()
				done(nil)
			})
		})
		_, stop := b.startWith(p, nil)
		b.emitMany(2000, 50)
		time.Sleep(5 * time.Minute)
		b.stopped(stop)
		if n := b.store.Pending(); n != 0 {
			t.Errorf("%d messages are pending", n)
		}
		if fault != "" {
			t.Fatal(fault)
		}
	})
}

// connection is a broker behind a connection that is cut at random: what the
// broker has not taken by then it never gets, and no answer arrives any more. That
// the messages are lost is found out one by one, and after the first of them the
// connection is up again.
type connection struct {
	*sink
	dice *dice
	cut  float64

	mu     sync.Mutex
	sent   []*sending // on this connection, without an answer
	broken bool
}

type sending struct {
	done     func(error)
	answered bool
	lost     bool
}

func (c *connection) Publish(_ context.Context, m *outbox.Message, done func(error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		go done(outbox.Unavailable(errTampered))
		return
	}
	s := &sending{done: done}
	c.sent = append(c.sent, s)
	if c.dice.chance(c.cut) {
		c.lose()
		return
	}
	c.deliver(m)
	time.AfterFunc(c.dice.wait(3*time.Millisecond), func() { c.confirm(s) })
}

// confirm answers all up to s, as a broker does that confirms several at once.
func (c *connection) confirm(s *sending) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !s.lost && !s.answered {
		c.sent[0].answered = true
		c.sent[0].done(nil)
		c.sent = c.sent[1:]
	}
}

// lose breaks the connection. The caller holds mu.
func (c *connection) lose() {
	c.broken = true
	delay := time.Duration(0)
	for _, s := range c.sent {
		s.lost = true
		delay += c.dice.wait(time.Millisecond)
		time.AfterFunc(delay, func() {
			s.done(outbox.Unavailable(errTampered))
			c.mu.Lock()
			defer c.mu.Unlock()
			c.broken = false
		})
	}
	c.sent = nil
}

func TestPipelinedTopicsKeepTheirOrderWhenConnectionsBreak(t *testing.T) {
	for _, keys := range []int{1, 10, 200} {
		for seed := range seeds(15) {
			t.Run(fmt.Sprintf("%d keys seed %d", keys, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { pipelinedOrder(t, keys, seed) })
			})
		}
	}
}

func pipelinedOrder(t *testing.T, keys int, seed uint64) {
	b, d := newBench(t), newDice(seed)
	c := &connection{sink: newSink(), dice: d, cut: 0.002 * float64(d.upTo(5))}
	_, stop := b.startWith(c, &relay.Config{
		Window: 1 + d.upTo(200), SettleBatch: 1 + d.upTo(100), ReadBatch: 1 + d.upTo(200), Pipelined: []string{"t", "other.#"},
		UnavailableBackoff: time.Millisecond, MaxUnavailableBackoff: 20 * time.Millisecond,
	})
	for range 10 {
		b.emitMany(200, keys)
		time.Sleep(d.wait(100 * time.Millisecond))
	}
	time.Sleep(time.Minute)
	c.want(t, b.next)
	b.stopped(stop)
	if n := b.store.Pending(); n != 0 {
		t.Fatalf("%d messages are pending", n)
	}
	if c.cut == 0 && c.repeats != 0 {
		t.Fatalf("%d repeats though no connection broke", c.repeats)
	}
}

// TestPipelinedTopicFillsTheWindow: that is what the setting is for.
func TestPipelinedTopicFillsTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Hold()
		for range 100 {
			b.emitKey("fast.a", "k")
		}
		for range 100 {
			b.emitKey("slow.a", "l")
		}
		_, stop := b.start(&relay.Config{Window: 50, Pipelined: []string{"fast.*"}})
		synctest.Wait()
		if n := b.broker.Held(); n != 50 {
			t.Fatalf("%d messages are in flight, want a window of 50", n)
		}
		b.broker.Release()
		time.Sleep(time.Second)
		b.wantAll()
		b.stopped(stop)
	})
}

// TestStrictMessageIsNotPipelinedBehindAPipelinedOne: of a key with both kinds of
// topics the strict one waits for those before it, and those behind wait for it.
func TestStrictMessageIsNotPipelinedBehindAPipelinedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.broker.Hold()
		for _, topic := range []string{"fast", "fast", "slow", "fast", "fast"} {
			b.emitKey(topic, "k")
		}
		_, stop := b.start(&relay.Config{Pipelined: []string{"fast"}})
		for _, want := range []int{2, 1, 2} {
			time.Sleep(time.Second)
			if n := b.broker.Held(); n != want {
				t.Fatalf("%d messages are in flight, want %d", n, want)
			}
			b.broker.Confirm(want)
		}
		b.broker.Release()
		b.wantAll()
		b.stopped(stop)
	})
}

// TestRefusedPipelinedMessageWaitsItsTime: it stands in the queue of what may be
// sent from before, and does not go out a second time at once.
func TestRefusedPipelinedMessageWaitsItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for range 3 {
			b.emitKey("t", "k")
		}
		var answers []func(error)
		var sent []string
		var mu sync.Mutex
		p := publisherFunc(func(_ context.Context, m *outbox.Message, done func(error)) {
			mu.Lock()
			defer mu.Unlock()
			sent = append(sent, string(m.Payload))
			answers = append(answers, done)
			switch len(sent) {
			case 1: // in flight alone, by the window
			case 2:
				done(nil)
			default:
				done(outbox.Refused(errTampered))
			}
		})
		_, stop := b.startWith(p, &relay.Config{Window: 1, Pipelined: []string{"#"}, UnavailableBackoff: time.Millisecond})
		time.Sleep(100 * time.Millisecond)
		mu.Lock()
		first := answers[0]
		mu.Unlock()
		first(outbox.Unavailable(errTampered)) // 1 goes first again, 2 is listed twice
		time.Sleep(400 * time.Millisecond)
		mu.Lock()
		if got := fmt.Sprint(sent); got != "[1 1 2]" {
			t.Errorf("sent %s within half a second, want the refused message once", got)
		}
		mu.Unlock()
		time.Sleep(3 * time.Second)
		b.stopped(stop)
	})
}

// TestRefusedPipelinedMessageIsOvertakenByThoseInFlightAlone: what was not sent yet
// waits for it.
func TestRefusedPipelinedMessageIsOvertakenByThoseInFlightAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		for range 10 {
			b.emitKey("t", "k")
		}
		refusing := true
		b.broker.Refuse(func(m *outbox.Message) error {
			if refusing && string(m.Payload) == "1" {
				refusing = false
				return errTampered
			}
			return nil
		})
		b.broker.Hold()
		_, stop := b.start(&relay.Config{Window: 5, Pipelined: []string{"#"}})
		for range 5 { // the answers to those in flight come one by one
			time.Sleep(10 * time.Millisecond)
			b.broker.Confirm(1)
		}
		time.Sleep(10 * time.Millisecond)
		if n := b.broker.Held(); n != 0 {
			t.Errorf("%d messages were sent though the one before them was refused", n)
		}
		b.broker.Release()
		time.Sleep(time.Minute)
		if got := fmt.Sprint(b.delivered()["k"]); got != "[2 3 4 5 1 6 7 8 9 10]" {
			t.Errorf("delivered %s, want 1 behind those that were in flight", got)
		}
		b.wantEmpty()
		b.stopped(stop)
	})
}
