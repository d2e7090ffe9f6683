package outbox

import "context"

// Publisher brings messages to a broker.
type Publisher interface {
	// Publish starts to send m and returns without waiting for the broker's
	// answer. done is called exactly once, from any goroutine, before Publish
	// returns or later: with nil when the broker has confirmed that the message
	// is safe with it, else with an error that is [ErrUnavailable],
	// [ErrRefused] or [ErrInvalid]. done does not block, and m must not be
	// changed, nor used after done was called.
	//
	// Messages leave in the order of the calls. The caller limits how many are
	// unanswered, calls Publish from one goroutine at a time, and does the
	// retrying: a publisher reconnects, but does not send a message again by
	// itself. ctx bounds the call alone, not the answer; a publisher answers
	// every message within a time of its own, with ErrUnavailable at the latest.
	Publish(ctx context.Context, m *Message, done func(error))

	// Close gives up what is unanswered, with ErrUnavailable, and releases the
	// connection.
	Close() error
}

// Flusher is a [Publisher] that may hold messages back to send several at once.
// Flush is called, by the goroutine that publishes, when there is no further
// message to send at the moment.
type Flusher interface {
	Flush() error
}

// PublishFunc is a [Publisher] by a function that sends a message and waits for
// the answer. A panic counts as an error; an error that is not classified counts
// as [ErrRefused].
type PublishFunc func(ctx context.Context, m *Message) error

// Publish calls f and passes its error to done.
func (f PublishFunc) Publish(ctx context.Context, m *Message, done func(error)) {
	done(f.call(ctx, m))
}

// Close does nothing.
func (f PublishFunc) Close() error { return nil }

func (f PublishFunc) call(ctx context.Context, m *Message) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = Refused(&PanicError{Value: r})
		}
	}()
	return f(ctx, m)
}
