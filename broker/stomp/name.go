package stomp

import (
	"fmt"
	"strings"
)

const (
	deadLetterPrefix = "DLQ."
	retryPrefix      = "RETRY."
	orderPrefix      = "ORDER."
	boundPrefix      = "BOUND."
	queuePrefix      = "queue."
)

// queueName returns the name at the broker of a subscription's queue: its own, but
// one that could be that of the retries or dead letters of another queue has
// "queue." before it. With DOP names are as they are.
func (c *SubscriberConfig) queueName(name string) string {
	base := name
	for strings.HasPrefix(base, queuePrefix) {
		base = strings.TrimPrefix(base, queuePrefix)
	}
	if !c.DOP && isDerived(base) {
		return queuePrefix + name
	}
	return name
}

func isDerived(name string) bool {
	for _, prefix := range [...]string{deadLetterPrefix, retryPrefix, orderPrefix, boundPrefix} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// deadLetterQueue returns the name of the queue of the dead letters of queue.
func deadLetterQueue(queue string) string { return deadLetterPrefix + queue }

// belongs reports whether a queue is queue, or its retries or dead letters.
func belongs(name, queue string) bool {
	if name == queue || name == deadLetterQueue(queue) {
		return true
	}
	for _, t := range tiers {
		if name == t.queue(queue) {
			return true
		}
	}
	return false
}

// queueFault tells why a queue of that name cannot be subscribed to, or nil.
func queueFault(name string) error {
	if strings.Contains(name, "%2F") {
		return fmt.Errorf("stomp: subscription: Queue %q has %%2F, which RabbitMQ takes for a slash: leave that out", name)
	}
	return nil
}
