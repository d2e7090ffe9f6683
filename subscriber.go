package outbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// MaxQueue is the greatest length of a queue's name in bytes. It leaves room for
// what brokers append to name the queues of retries and dead letters.
const MaxQueue = 200

// Subscription says what a subscriber consumes.
type Subscription struct {
	// Queue is the durable name that the members of a group share: each message
	// goes to one of them. Required: 1 to 200 bytes of UTF-8, of printable
	// characters other than white space.
	Queue string

	// Topics are the patterns ('*' one word, '#' any number) of the topics
	// that the queue collects. At least one. They are added to those that the
	// queue collects already: a member that starts with fewer, or with others,
	// takes nothing away from the members that run.
	Topics []string

	// Prefetch is the greatest number of messages received and not yet settled.
	// Required, at least 1.
	Prefetch int

	// RetryDelays are the delays that [Retry] will be asked for most, in any
	// order, at most 16, each 1 ms to 24 h. A driver that keeps the messages of
	// each delay in a queue of its own makes these queues before the first
	// message comes. Members of one queue may differ in them.
	RetryDelays []time.Duration

	// InOrder hands out the queue's messages in their order across all members:
	// to one member at a time, the others standing by. What one gave back or
	// left unsettled comes again before what was never delivered. All members
	// of a queue must agree on it.
	InOrder bool

	// DeadLetters asks for the dead letters of Queue in the place of its
	// messages: those settled with [DeadLetter], each with its Failure. Topics
	// and RetryDelays are not needed and change nothing; to settle one with
	// Retry or DeadLetter is an error.
	DeadLetters bool
}

const (
	// MaxRetryDelays is the greatest number of delays in a [Subscription].
	MaxRetryDelays = 16
	// MaxRetryDelay is the greatest delay of a [Retry].
	MaxRetryDelay = 24 * time.Hour

	minRetryDelay = time.Millisecond
)

// Validate reports all that is wrong with s, each fault with the name of its
// field. Every subscriber calls it before it connects.
func (s *Subscription) Validate() error {
	var errs []error
	if reason := queueFault(s.Queue); reason != "" {
		errs = append(errs, fmt.Errorf("outbox: subscription: Queue %q %s", s.Queue, reason))
	}
	if len(s.Topics) == 0 && !s.DeadLetters {
		errs = append(errs, errors.New("outbox: subscription: Topics is empty: name at least one pattern, \"#\" for all"))
	}
	for i, pattern := range s.Topics {
		if err := ValidatePattern(pattern); err != nil {
			errs = append(errs, fmt.Errorf("outbox: subscription: Topics[%d] %q %w", i, pattern, err))
		}
	}
	if s.Prefetch < 1 {
		errs = append(errs, fmt.Errorf("outbox: subscription: Prefetch is %d, at least 1 is required", s.Prefetch))
	}
	if n := len(s.RetryDelays); n > MaxRetryDelays {
		errs = append(errs, fmt.Errorf("outbox: subscription: RetryDelays has %d delays, at most %d are allowed", n, MaxRetryDelays))
	}
	for i, d := range s.RetryDelays {
		if d < minRetryDelay || d > MaxRetryDelay {
			errs = append(errs, fmt.Errorf("outbox: subscription: RetryDelays[%d] is %s: use %s to %s", i, d, minRetryDelay, MaxRetryDelay))
		}
	}
	if s.DeadLetters && s.InOrder {
		errs = append(errs, errors.New("outbox: subscription: InOrder does not go with DeadLetters: dead letters have no order"))
	}
	return errors.Join(errs...)
}

// queueFault tells why name cannot name a queue, or "".
func queueFault(name string) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) > MaxQueue:
		return fmt.Sprintf("has %d bytes, at most %d are allowed", len(name), MaxQueue)
	case !utf8.ValidString(name):
		return "is not valid UTF-8"
	}
	i := strings.IndexFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) })
	if i >= 0 {
		return fmt.Sprintf("has a space or an unprintable character at byte %d", i)
	}
	return ""
}

// Subscriber receives messages from a broker.
type Subscriber interface {
	// Subscribe makes sure that the queue exists and collects its topics, then
	// calls receive for each message, from one goroutine, in the queue's order.
	// It restores lost connections by itself and returns when ctx has ended,
	// with nil, or when the subscription can never work, with an error. ready is
	// called each time the subscription has been established; from the first
	// time on, messages to the topics are collected.
	//
	// When ctx has ended, Subscribe stops to receive at once, but stays until
	// every message it passed to receive has been settled, so that running
	// handlers can still acknowledge; messages that were not passed on go back to
	// the queue.
	Subscribe(ctx context.Context, s Subscription, ready func(), receive func(*Received)) error

	// Close releases the connection: what is unsettled goes back to its queue,
	// and a Subscribe that still runs returns an error.
	Close() error
}

// Received is a message as a broker delivered it. Message.ID is whatever the
// sender set: not necessarily a UUID, and empty if there is none.
type Received struct {
	Message

	// Failure is what has become of the message so far: nil until an attempt
	// was settled with [Retry] or [DeadLetter].
	Failure *Failure

	// Redelivered tells that the broker has delivered the message before.
	Redelivered bool

	// ReceivedAt is the local time of the delivery.
	ReceivedAt time.Time

	// Lost is closed when the broker delivers the message again, because the
	// connection that brought it is lost: it still has to be settled, without
	// effect, and need not be handled. Nil where a driver cannot tell, or settles
	// by its next connection.
	Lost <-chan struct{}

	// Settle tells the broker what is to become of the message. It may be called
	// from any goroutine, and once, but for this: after an error of [Retry] or
	// [DeadLetter] the message is as it was, and the caller must settle it in
	// another way. An error of [Ack] or [Requeue] means that the broker may
	// deliver the message again.
	Settle func(Settlement) error
}

// Settlement is what is to become of a received message.
type Settlement struct {
	Outcome Outcome

	// Delay is, with [Retry], the time after which the message is delivered
	// again: not earlier, and as soon after it as the driver can. Zero means at
	// once. Not negative, at most 24 h.
	Delay time.Duration

	// Failure is required with [Retry] and [DeadLetter], and comes with the next
	// delivery. It must not be changed afterwards.
	Failure *Failure
}

// Validate reports what is wrong with s for a message of sub, for drivers, which
// call it before anything is done.
func (s *Settlement) Validate(sub *Subscription) error {
	moves := s.Outcome == Retry || s.Outcome == DeadLetter
	switch {
	case s.Outcome < Ack || s.Outcome > DeadLetter:
		return fmt.Errorf("outbox: settlement: Outcome is %d: use Ack, Requeue, Retry or DeadLetter", s.Outcome)
	case moves && sub.DeadLetters:
		return errors.New("outbox: settlement: a dead letter can be acknowledged or requeued, nothing else")
	case moves && s.Failure == nil:
		return errors.New("outbox: settlement: Failure is nil: Retry and DeadLetter need one")
	case s.Outcome == Retry && (s.Delay < 0 || s.Delay > MaxRetryDelay):
		return fmt.Errorf("outbox: settlement: Delay is %s: use 0 to %s", s.Delay, MaxRetryDelay)
	}
	return nil
}

// Outcome is the kind of a [Settlement].
type Outcome int

const (
	// Ack removes the message from the queue: it was handled.
	Ack Outcome = iota
	// Requeue gives the message back, to be delivered again, in its old place as
	// far as the broker allows. It is no attempt.
	Requeue
	// Retry lets the message be delivered again after Delay, to the members of
	// this queue alone, with its id, topic and headers as they were. Others go
	// on before it.
	Retry
	// DeadLetter moves the message to the queue's dead letters.
	DeadLetter
)
