package worker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/outbox-go/outbox"
)

// Retry returns an error by which a handler asks for another attempt even where
// retries are off, with the delays and within the attempts of [Retries]. It
// wraps err, which may be nil.
func Retry(err error) error { return &retryError{err: err} }

// RetryAfter is [Retry] with a delay of its own, at least 0 and at most 24 h, in
// the place of the configured one.
func RetryAfter(delay time.Duration, err error) error {
	delay = min(max(delay, 0), maxDelay)
	return &retryError{err: err, delay: delay, ownDelay: true}
}

// Abort returns an error by which a handler refuses any further attempt: the
// message goes to the dead letters or, with Config.DropAborted, nowhere. It wraps
// err, which may be nil. Abort wins over a Retry that is wrapped by the same error
// or joined with it.
func Abort(err error) error { return &abortError{err} }

type retryError struct {
	err      error
	delay    time.Duration
	ownDelay bool
}

func (e *retryError) Error() string { return textOr(e.err, "the handler asked for a retry") }
func (e *retryError) Unwrap() error { return e.err }

type abortError struct{ err error }

func (e *abortError) Error() string { return textOr(e.err, "the handler aborted") }
func (e *abortError) Unwrap() error { return e.err }

func textOr(err error, text string) string {
	if err == nil {
		return text
	}
	return err.Error()
}

// ErrUndeliverable is wrapped by the errors of messages that no handler can take,
// as middleware and logs see them: no pattern matches, the payload cannot be
// decoded or is invalid, or HandleTx finds no id. They are not retried.
var ErrUndeliverable = errors.New("message undeliverable")

func undeliverable(err error) error { return fmt.Errorf("%w: %w", ErrUndeliverable, err) }

// Retries says how often a message that could not be handled is tried again, and
// when. The zero value is the default.
type Retries struct {
	// Delays are the pauses before the second attempt, the third and so on; if
	// there are fewer than attempts, the last one repeats. Zero is at once; at
	// most 24 h. Defaults to 1 s, 10 s, 1 min and 5 min. See also [Exponential].
	Delays []time.Duration

	// MaxAttempts bounds the attempts, the first one included, also those that a
	// handler asks for. Defaults to the number of delays and one; at most 1000.
	MaxAttempts int

	// Jitter lengthens each delay by a random part of up to this fraction of it,
	// so that what failed together does not come again together. Defaults to 0;
	// at most 1.
	Jitter float64

	// Off sends a message to the dead letters after its first failure, unless
	// the handler asks for a [Retry].
	Off bool
}

const (
	maxDelay    = outbox.MaxRetryDelay
	maxAttempts = 1000
)

// Exponential returns n delays, of which the first is first, each of the others
// twice the one before it, and none greater than most.
func Exponential(first, most time.Duration, n int) []time.Duration {
	delays := make([]time.Duration, max(n, 0))
	for i := range delays {
		delays[i] = min(first, most)
		if first < most/2 {
			first *= 2
		} else {
			first = most
		}
	}
	return delays
}

// faults tells what is wrong with r, of which where names the place.
func (r *Retries) faults(where string) []error {
	var faults []error
	for i, d := range r.Delays {
		if d < 0 || d > maxDelay {
			faults = append(faults, fmt.Errorf("worker: %s.Delays[%d] is %s: use 0 to %s", where, i, d, maxDelay))
		}
	}
	if r.MaxAttempts < 0 || r.MaxAttempts > maxAttempts {
		faults = append(faults, fmt.Errorf("worker: %s.MaxAttempts is %d: use 1 to %d, or 0 for the default", where, r.MaxAttempts, maxAttempts))
	}
	if !(r.Jitter >= 0 && r.Jitter <= 1) {
		faults = append(faults, fmt.Errorf("worker: %s.Jitter is %v: use 0 to 1", where, r.Jitter))
	}
	return faults
}

// withDefaults returns r with the defaults in the place of zeros.
func (r Retries) withDefaults() Retries {
	if len(r.Delays) == 0 {
		r.Delays = []time.Duration{time.Second, 10 * time.Second, time.Minute, 5 * time.Minute}
	}
	if r.MaxAttempts == 0 {
		r.MaxAttempts = len(r.Delays) + 1
	}
	return r
}

// delay returns the pause after the given number of failed attempts.
func (r *Retries) delay(failed int) time.Duration {
	d := r.Delays[max(1, min(failed, len(r.Delays)))-1]
	return d + time.Duration(rand.Float64()*r.Jitter*float64(d)) //nolint:gosec // spreads load, guards nothing
}

// verdict is what an error says: all that is asked of it, once, since its methods
// are a user's and may panic.
type verdict struct {
	text          string
	abort         bool
	retry         *retryError // nil unless asked for
	undeliverable bool
	panicked      *outbox.PanicError
}

// judge returns what err says. If its methods panic, that is its text.
func judge(err error) (v verdict) {
	defer func() {
		if p := recover(); p != nil {
			v = verdict{text: fmt.Sprintf("an error of type %T, whose methods panic: %v", err, p)}
		}
	}()
	v.text = err.Error()
	var abort *abortError
	v.abort = errors.As(err, &abort)
	errors.As(err, &v.retry)
	errors.As(err, &v.panicked)
	v.undeliverable = errors.Is(err, ErrUndeliverable)
	return v
}

// settlement decides what becomes of a message whose attempt has failed with v, f
// being the failure with this attempt counted.
func (r *Retries) settlement(v verdict, f *outbox.Failure, dropAborted bool) outbox.Settlement {
	dead := outbox.Settlement{Outcome: outbox.DeadLetter, Failure: f}
	switch {
	case v.abort && dropAborted:
		return outbox.Settlement{Outcome: outbox.Ack}
	case v.abort, f.Attempts >= r.MaxAttempts:
		return dead
	case v.retry != nil && v.retry.ownDelay:
		return outbox.Settlement{Outcome: outbox.Retry, Delay: v.retry.delay, Failure: f}
	case v.retry != nil, !r.Off && !v.undeliverable:
		return outbox.Settlement{Outcome: outbox.Retry, Delay: min(r.delay(f.Attempts), maxDelay), Failure: f}
	}
	return dead
}
