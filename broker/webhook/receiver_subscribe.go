package webhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/outbox-go/outbox"
)

var errClosed = errors.New("webhook: the receiver is closed")

// subscription is one run of Subscribe.
type subscription struct {
	outbox.Subscription
	slots    chan struct{}         // one token for each message that is not settled
	waiting  atomic.Int64          // requests that wait for a slot
	mayWait  int64                 // so many of them
	incoming chan *outbox.Received // not buffered: what is sent has been taken
	stopped  chan struct{}         // closed when nothing is taken any more
}

// Subscribe implements [outbox.Subscriber]. It returns an error if s is faulty or
// asks for what needs a queue, while another Subscribe runs, and when the receiver
// is closed.
func (r *Receiver) Subscribe(ctx context.Context, s outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
	errs := []error{s.Validate()}
	if s.InOrder {
		errs = append(errs, errors.New("webhook: subscription: InOrder needs a queue, which HTTP has not: the sender keeps the order"))
	}
	if s.DeadLetters {
		errs = append(errs, errors.New("webhook: subscription: DeadLetters needs a queue, which HTTP has not: the sender keeps them"))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	run := &subscription{
		Subscription: s,
		slots:        make(chan struct{}, s.Prefetch),
		mayWait:      int64(cmp.Or(r.config.MaxWaiting, max(100, s.Prefetch))),
		incoming:     make(chan *outbox.Received),
		stopped:      make(chan struct{}),
	}
	if err := r.begin(run); err != nil {
		return err
	}
	ready()
	r.takeUntil(ctx, run, receive)
	r.end(run)
	return r.drain(run)
}

func (r *Receiver) begin(run *subscription) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.isClosed():
		return errClosed
	case r.current != nil:
		return fmt.Errorf("webhook: subscribe to %q: the subscription to %q runs: make a receiver of its own for each", run.Queue, r.current.Queue)
	}
	r.current = run
	return nil
}

// takeUntil calls receive until ctx ends or the receiver is closed.
func (r *Receiver) takeUntil(ctx context.Context, run *subscription, receive func(*outbox.Received)) {
	for ctx.Err() == nil && !r.isClosed() {
		select {
		case m := <-run.incoming:
			receive(m)
		case <-ctx.Done():
		case <-r.closed:
		}
	}
}

// end lets no request in any more, and those go that wait.
func (r *Receiver) end(run *subscription) {
	r.mu.Lock()
	r.current = nil
	r.mu.Unlock()
	close(run.stopped)
}

// drain waits until all is settled: until all slots can be had.
func (r *Receiver) drain(run *subscription) error {
	for range cap(run.slots) {
		select {
		case run.slots <- struct{}{}:
		case <-r.closed:
			return errClosed
		}
	}
	if r.isClosed() {
		return errClosed
	}
	return nil
}

func (r *Receiver) isClosed() bool {
	select {
	case <-r.closed:
		return true
	default:
		return false
	}
}

func (r *Receiver) running() *subscription {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

// wants reports whether a pattern of the subscription matches.
func (s *subscription) wants(topic string) bool {
	return slices.ContainsFunc(s.Topics, func(pattern string) bool { return outbox.MatchTopic(pattern, topic) })
}

// pass hands m to the worker, with a slot that its settlement gives back. It reports
// false if ctx ended before, if the subscription did, or if too many wait.
func (s *subscription) pass(ctx context.Context, m *outbox.Received) bool {
	if !s.acquire(ctx) {
		return false
	}
	select {
	case s.incoming <- m:
		return true
	case <-ctx.Done():
	case <-s.stopped:
	}
	s.release()
	return false
}

func (s *subscription) acquire(ctx context.Context) bool {
	select {
	case s.slots <- struct{}{}:
		return true
	default:
	}
	if waiting := s.waiting.Add(1); waiting > s.mayWait {
		s.waiting.Add(-1)
		return false
	}
	defer s.waiting.Add(-1)
	select {
	case s.slots <- struct{}{}:
		return true
	case <-ctx.Done():
	case <-s.stopped:
	}
	return false
}

func (s *subscription) release() { <-s.slots }
