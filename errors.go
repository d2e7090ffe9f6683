package outbox

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// A publisher tells by these three why a message was not confirmed. Test for
// them with [errors.Is]; an error that is none of them counts as refused.
var (
	// ErrUnavailable: the broker could not be asked, or its answer did not
	// arrive. The message may or may not be there; it is sent again, and the
	// attempt does not count.
	ErrUnavailable = errors.New("broker unavailable")

	// ErrRefused: the broker answered that it does not take the message now.
	// The attempt counts, and is repeated later.
	ErrRefused = errors.New("message refused")

	// ErrInvalid: this message can never be delivered, however often it is
	// tried; it is too large, for example.
	ErrInvalid = errors.New("message undeliverable")
)

// Unavailable marks err as [ErrUnavailable]. It returns nil for nil.
func Unavailable(err error) error { return mark(ErrUnavailable, err) }

// Refused marks err as [ErrRefused]. It returns nil for nil.
func Refused(err error) error { return mark(ErrRefused, err) }

// Invalid marks err as [ErrInvalid]. It returns nil for nil.
func Invalid(err error) error { return mark(ErrInvalid, err) }

func mark(class, err error) error {
	if err == nil || errors.Is(err, class) {
		return err
	}
	return fmt.Errorf("%w: %w", class, err)
}

// RetryAfter adds to the error by which a publisher answers how long the broker
// asked to be left alone: with [ErrUnavailable] all messages wait, with
// [ErrRefused] this one and its key. The relay waits as long as it would by itself
// or, if that is longer, for delay, an hour at most. It returns nil for nil.
func RetryAfter(delay time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &delayedError{err, delay}
}

// DelayOf returns the time that [RetryAfter] added to err, or 0.
func DelayOf(err error) time.Duration {
	var d *delayedError
	if !errors.As(err, &d) {
		return 0
	}
	return d.delay
}

type delayedError struct {
	error
	delay time.Duration
}

func (e *delayedError) Unwrap() error { return e.error }

// ErrNilTx is returned when an event is emitted without a transaction.
var ErrNilTx = errors.New("outbox: tx is nil: pass the transaction that writes the business data")

// FieldError tells what is wrong with one field of one event. Emit and Prepare
// return all of them, joined; find them with [errors.As].
type FieldError struct {
	Event  int    // index of the event in the call, from 0
	Field  string // name of the field of [Event], with the header's name where it is one
	Value  string // the value, shortened; empty for a payload
	Reason string // what is wrong and what would be right
}

func (e *FieldError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "outbox: event %d: %s", e.Event, e.Field)
	if e.Value != "" {
		fmt.Fprintf(&b, " %q", e.Value)
	}
	b.WriteByte(' ')
	b.WriteString(e.Reason)
	return b.String()
}

func fieldError(event int, field, value, reason string) *FieldError {
	const most = 64
	if len(value) > most {
		value = value[:most] + "..."
	}
	return &FieldError{Event: event, Field: field, Value: value, Reason: reason}
}

// PanicError is a panic of a user's function, turned into an error.
type PanicError struct {
	Value any
	Stack []byte // of the goroutine that panicked; may be nil
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }
