// Package membroker is a broker in memory, for tests and examples. It routes by
// topic to durable queues as a real broker does, keeps their retries and dead
// letters, and can be told to fail in the ways of one. Nothing is written
// anywhere: what it holds ends with the process.
//
// It starts no goroutine, blocks on channels alone and has no timer but the one of
// each message that waits to be retried, so it works inside a bubble of
// testing/synctest.
package membroker

import (
	"maps"
	"slices"
	"sync"

	"github.com/outbox-go/outbox"
)

// Broker is a broker in memory. It is safe for concurrent use; make it with
// [New].
type Broker struct {
	// publishing serialises what enters, so that a message that was held back is
	// not overtaken. It is taken before mu.
	publishing sync.Mutex
	held       []held

	mu           sync.Mutex
	queues       map[string]*queue
	consumers    map[*consumer]struct{}
	down         bool
	holding      bool
	refuse       func(*outbox.Message) error
	refuseSettle func(*outbox.Message, outbox.Settlement) error
}

// New returns a broker without queues. A queue comes to be by the first
// Subscribe that names it, or by [Broker.Declare]; a message that no queue
// collects is confirmed and dropped.
func New() *Broker {
	return &Broker{queues: map[string]*queue{}, consumers: map[*consumer]struct{}{}}
}

// Publisher opens a publisher. There may be several.
func (b *Broker) Publisher() *Publisher { return &Publisher{broker: b} }

// Subscriber opens a subscriber. There may be several.
func (b *Broker) Subscriber() *Subscriber {
	return &Subscriber{broker: b, closed: make(chan struct{})}
}

// Declare makes sure that a queue exists and collects the topics that match one
// of patterns, besides those that it collects already.
func (b *Broker) Declare(name string, patterns ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.declare(name, patterns)
}

// declare is Declare with mu held.
func (b *Broker) declare(name string, patterns []string) *queue {
	q := b.queues[name]
	if q == nil {
		q = newQueue()
		q.dead = newQueue()
		b.queues[name] = q
	}
	for _, pattern := range patterns {
		if !slices.Contains(q.patterns, pattern) {
			q.patterns = append(q.patterns, pattern)
		}
	}
	return q
}

// Messages returns copies of the messages that are ready in a queue, in the order
// in which they would be delivered. What a subscriber has received and not settled
// is not among them, and neither is what waits to be retried: see
// [Broker.Waiting].
func (b *Broker) Messages(name string) []outbox.Message {
	return b.list(name, (*queue).deliverable)
}

// Waiting returns copies of the messages that wait to be retried in a queue, the
// next one first. Neither [Broker.SetDown] nor [Broker.Cut] loses them, and their
// time passes while the broker is down.
func (b *Broker) Waiting(name string) []outbox.Message {
	return b.list(name, func(q *queue) []*item { return q.later })
}

// DeadLetter is a message of a queue that was settled with [outbox.DeadLetter].
type DeadLetter struct {
	Message outbox.Message
	Failure outbox.Failure
}

// DeadLetters returns copies of the dead letters of a queue, in the order in which
// they would be delivered. What a subscriber has received and not settled is not
// among them.
func (b *Broker) DeadLetters(name string) []DeadLetter {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queues[name]
	if q == nil {
		return nil
	}
	var letters []DeadLetter
	for _, it := range q.dead.deliverable() {
		letters = append(letters, DeadLetter{*clone(&it.message.Message), *it.message.failure})
	}
	return letters
}

func (b *Broker) list(name string, items func(*queue) []*item) []outbox.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.queues[name]
	if q == nil {
		return nil
	}
	var msgs []outbox.Message
	for _, it := range items(q) {
		msgs = append(msgs, *clone(&it.message.Message))
	}
	return msgs
}

// route puts m into the queues that collect its topic.
func (b *Broker) route(m *outbox.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var stored *message
	for _, q := range b.queues {
		if !q.collects(m.Topic) {
			continue
		}
		if stored == nil {
			stored = &message{Message: *clone(m)}
		}
		q.push(&item{message: stored})
	}
}

// clone copies what a broker carries of m.
func clone(m *outbox.Message) *outbox.Message {
	c := *m
	c.Headers = maps.Clone(m.Headers)
	c.Payload = slices.Clone(m.Payload)
	c.CreatedAt = m.CreatedAt.Round(0).UTC()
	c.Position, c.Attempts, c.LastError = 0, 0, ""
	return &c
}
