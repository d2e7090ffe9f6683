package webhook

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
)

var errGone = errors.New("webhook: the sender does not wait for the answer any more, and may send the event again")

// call is the events of one request on their way through the worker.
type call struct {
	sub  *subscription
	done chan struct{} // closed when all is settled
	lost chan struct{} // closed when the answer was given before

	mu   sync.Mutex
	open int  // not settled
	over bool // nobody waits for the answer
	answer
}

// answer is what the settlements of a request amount to.
type answer struct {
	verdict verdict
	delay   time.Duration // with retried and overdue
}

// verdict is what has become of events, the better before the worse: of several the
// worst is the answer.
type verdict int

const (
	handled     verdict = iota
	refused             // by the worker, for good
	retried             // an attempt has failed
	overdue             // an attempt has taken too long
	unavailable         // there was no attempt, or it was cut off
)

func (a *answer) add(v verdict, delay time.Duration) {
	a.verdict = max(a.verdict, v)
	a.delay = max(a.delay, delay)
}

// handle passes messages to the worker and waits until all are settled, ctx ends, or
// closed is.
func (s *subscription) handle(ctx context.Context, msgs []outbox.Message, closed <-chan struct{}) answer {
	c := &call{sub: s, lost: make(chan struct{}), done: make(chan struct{}), open: len(msgs)}
	if len(msgs) == 0 {
		return c.answer
	}
	for i := range msgs {
		if !s.pass(ctx, c.received(&msgs[i])) {
			return c.giveUp(ctx, len(msgs)-i)
		}
	}
	select {
	case <-c.done:
	case <-ctx.Done():
	case <-closed:
	}
	return c.giveUp(ctx, 0)
}

// giveUp returns the answer. What is not settled by now is lost. An event that the
// worker has had until the end of ctx is to blame for that; kept are those that it
// never had.
func (c *call) giveUp(ctx context.Context, kept int) answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.open == 0 {
		return c.answer
	}
	close(c.lost)
	if c.open > kept && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		c.add(overdue, unavailableDelay)
	} else {
		c.add(unavailable, 0)
	}
	return c.answer
}

func (c *call) received(m *outbox.Message) *outbox.Received {
	settled := false
	return &outbox.Received{
		Message: *m, ReceivedAt: time.Now(), Lost: c.lost,
		Settle: func(s outbox.Settlement) error { return c.settle(m.ID, &settled, s) },
	}
}

// settle settles the message of the id; c.mu guards settled.
func (c *call) settle(id string, settled *bool, s outbox.Settlement) error {
	if err := s.Validate(&c.sub.Subscription); err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case *settled:
		return fmt.Errorf("webhook: message %s was settled before", id)
	case c.over && (s.Outcome == outbox.Retry || s.Outcome == outbox.DeadLetter):
		return errGone // the caller settles it in another way
	}
	*settled = true
	c.sub.release()
	if c.over {
		if s.Outcome == outbox.Ack {
			return errGone
		}
		return nil // given back it is
	}
	switch s.Outcome {
	case outbox.Ack:
	case outbox.DeadLetter:
		c.add(refused, 0)
	case outbox.Retry:
		c.add(retried, s.Delay)
	case outbox.Requeue:
		c.add(unavailable, 0)
	}
	if c.open--; c.open == 0 {
		close(c.done)
	}
	return nil
}
