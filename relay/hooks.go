package relay

import (
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// Hook is told what happens in a relay, for metrics and traces. A hook implements
// any of the interfaces whose names end in Hook; others are ignored. The methods
// are called from the relay's loops and from the publisher's goroutines, several
// at a time, and must not block.
type Hook any

// PublishHook is told when a message is about to be sent.
type PublishHook interface {
	Publishing(m *outbox.Message)
}

// AnswerHook is told the broker's answer to a message, nil for a confirm, and the
// time since it was sent.
type AnswerHook interface {
	Answered(m *outbox.Message, took time.Duration, err error)
}

// ReadHook is told of each read of the store.
type ReadHook interface {
	Read(rows int, took time.Duration, err error)
}

// SettleHook is told of each batch of confirmed messages that was deleted.
type SettleHook interface {
	Settled(messages int, took time.Duration, err error)
}

// LeaseHook is told, after each renewal, how many shards the relay owns and how
// many relays are alive.
type LeaseHook interface {
	Leased(shards, relays int)
}

// AvailabilityHook is told when the broker went away, with the reason, and when it
// came back, with nil.
type AvailabilityHook interface {
	Availability(err error)
}

// DeadHook is told of each message that became a dead letter, once that is stored,
// with what the broker said or else what was amiss.
type DeadHook interface {
	Died(m *outbox.Message, reason store.Reason, err string)
}

// hooks are the configured ones by what they implement, so that an event nobody
// listens for costs nothing.
type hooks struct {
	publish []PublishHook
	answer  []AnswerHook
	read    []ReadHook
	settle  []SettleHook
	lease   []LeaseHook
	avail   []AvailabilityHook
	dead    []DeadHook
}

func sortHooks(all []Hook) hooks {
	var h hooks
	for _, hook := range all {
		h.publish = appendIf(h.publish, hook)
		h.answer = appendIf(h.answer, hook)
		h.read = appendIf(h.read, hook)
		h.settle = appendIf(h.settle, hook)
		h.lease = appendIf(h.lease, hook)
		h.avail = appendIf(h.avail, hook)
		h.dead = appendIf(h.dead, hook)
	}
	return h
}

func appendIf[T any](list []T, hook Hook) []T {
	if h, ok := hook.(T); ok {
		return append(list, h)
	}
	return list
}
