package stomp

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

// copyOf returns a SEND frame with all that the sender of f gave it but two: an
// expiration, which would end it while it waits, and a user's name, which the broker
// takes from that user alone. It has no destination yet.
func copyOf(f *stomp.Frame, queue string) *stomp.Frame {
	c := &stomp.Frame{Command: stomp.Send, Body: f.Body, Headers: make([]stomp.Header, 0, len(f.Headers)+8)}
	death, _ := f.Get(headerFirstDeath + "queue")
	for _, h := range f.Headers {
		own := strings.HasPrefix(h.Name, headerFirstDeath) && belongs(death, queue)
		if !own && !transport(h.Name) && h.Name != headerRetryAt && h.Name != headerExpiration && h.Name != headerUserID {
			c.Headers = append(c.Headers, h)
		}
	}
	c.Add(headerPersistent, "true")
	return c
}

// failedCopy returns a copy of f that carries its topic and failure.
func failedCopy(f *stomp.Frame, queue, topic string, failure *outbox.Failure) *stomp.Frame {
	c := copyOf(f, queue)
	c.Headers = slices.DeleteFunc(c.Headers, func(h stomp.Header) bool { return h.Name == outbox.HeaderTopic || failureHeaders[h.Name] != "" })
	for name, value := range failure.Headers() {
		c.Add(name, value)
	}
	c.Add(outbox.HeaderTopic, topic)
	return c
}

// failureHeaders has each header that a failure can have.
var failureHeaders = (&outbox.Failure{
	Attempts: 1, Reason: "x", Handler: "x", Queue: "x", FirstAt: time.Unix(1, 0), LastAt: time.Unix(1, 0),
}).Headers()

// addressRetry has f go where it waits until it is due, in wait, or to the queue at
// once.
func (c *SubscriberConfig) addressRetry(f *stomp.Frame, queue string, due time.Time, wait time.Duration) {
	if wait <= 0 {
		f.Add(headerDestination, plainQueuePath(queue))
		return
	}
	f.Add(headerDestination, queuePath(tierFor(wait).queue(queue)))
	f.Add(headerRetryAt, due.UTC().Format(time.RFC3339Nano))
	f.Headers = append(f.Headers, c.queueHeaders(queue)...)
}

// addressDeadLetter has f go to the dead letters.
func (c *SubscriberConfig) addressDeadLetter(f *stomp.Frame, queue string) {
	f.Add(headerDestination, queuePath(deadLetterQueue(queue)))
	f.Headers = append(f.Headers, c.deadLetterHeaders(queue)...)
}

// brokerFailure returns the failure of a dead letter of queue. If the broker itself,
// or another client by a NACK, has made it one, that is noted: known is what the
// message had before, if anything. Copies of ours have no such headers.
//
// STOMP shows of each message's deaths the first alone: after a retry by another
// client it does not tell the reason of the last.
func brokerFailure(f *stomp.Frame, queue string, known *outbox.Failure, now time.Time) *outbox.Failure {
	dead, _ := f.Get(headerFirstDeath + "queue")
	if known != nil && !belongs(dead, queue) {
		return known
	}
	failure := outbox.Failure{FirstAt: now.UTC()}
	if known != nil {
		failure = *known
	}
	reason, _ := f.Get(headerFirstDeath + "reason")
	if !belongs(dead, queue) {
		reason = ""
	}
	failure.Reason = "dead-lettered by the broker: " + deathReason(reason)
	failure.Queue = queue
	failure.LastAt = cmp.Or(failure.LastAt, failure.FirstAt)
	return &failure
}

// deathReason explains the broker's word for why a message was dead-lettered.
func deathReason(word string) string {
	text := map[string]string{
		"rejected":       "a client rejected it without requeueing it",
		"expired":        "it was too long in the queue",
		"maxlen":         "the queue was full",
		"delivery_limit": "it came back more often than the queue's delivery limit allows",
	}[word]
	switch {
	case word == "":
		return "it does not say why"
	case text == "":
		return word
	}
	return fmt.Sprintf("%s (%s)", word, text)
}
