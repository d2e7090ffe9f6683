package outbox

import (
	"context"
	"time"
)

// Subscription says what a subscriber consumes.
type Subscription struct {
	// Queue is the durable name that the members of a group share: each message
	// goes to one of them. Required.
	Queue string

	// Topics are the patterns ('*' one word, '#' any number) of the topics
	// that the queue collects. At least one.
	Topics []string

	// Prefetch is the greatest number of messages received and not yet settled.
	// Required, at least 1.
	Prefetch int
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
	Close() error
}

// Received is a message as a broker delivered it. Message.ID is whatever the
// sender set: not necessarily a UUID, and empty if there is none.
type Received struct {
	Message

	// Redelivered tells that the broker has delivered the message before.
	Redelivered bool

	// ReceivedAt is the local time of the delivery.
	ReceivedAt time.Time

	// Settle tells the broker what became of the message. It is called once, from
	// any goroutine. Its error means that the broker may deliver the message
	// again.
	Settle func(Settlement) error
}

// Settlement is what becomes of a received message.
type Settlement int

const (
	// Ack removes the message from the queue: it was handled.
	Ack Settlement = iota
	// Requeue gives the message back, to be delivered again.
	Requeue
)
