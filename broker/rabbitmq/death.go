package rabbitmq

import (
	"fmt"
	"time"

	"github.com/outbox-go/outbox"
	amqp "github.com/rabbitmq/amqp091-go"
)

// Headers by which the broker tells how a message was dead-lettered
// (https://www.rabbitmq.com/docs/dlx#effects). The first and the last death have
// three more each: exchange, queue and reason.
const (
	headerDeath = "x-death"
	firstDeath  = "x-first-death-"
	lastDeath   = "x-last-death-"
)

// cleanHeaders removes from headers what the broker has added to them because of
// queue and its kin. Handlers must not see the traces of a retry, and the broker
// must not: it drops a message that it finds to go round in circles by them. What
// tells of the queues of others remains.
func cleanHeaders(headers amqp.Table, queue string) {
	delete(headers, headerDeliveryCount)
	if deaths, ok := headers[headerDeath].([]any); ok {
		var others []any
		for _, d := range deaths {
			if !belongs(deathText(d, "queue"), queue) {
				others = append(others, d)
			}
		}
		if len(others) > 0 {
			headers[headerDeath] = others
		} else {
			delete(headers, headerDeath)
		}
	}
	for _, prefix := range [...]string{firstDeath, lastDeath} {
		if name, ok := headers[prefix+"queue"].(string); ok && belongs(name, queue) {
			for _, suffix := range [...]string{"exchange", "queue", "reason"} {
				delete(headers, prefix+suffix)
			}
		}
	}
}

// restoreTopic gives d the routing key that it was sent with, if it came back to
// queue, or to its dead letters, by a key that is the queue's name.
func restoreTopic(d *amqp.Delivery, queue string) {
	if d.RoutingKey != queue {
		return
	}
	deaths, _ := d.Headers[headerDeath].([]any)
	for _, death := range deaths { // the earliest comes last
		table, _ := death.(amqp.Table)
		keys, _ := table["routing-keys"].([]any)
		if deathText(death, "queue") == queue && len(keys) > 0 {
			d.RoutingKey, _ = keys[0].(string)
		}
	}
}

// brokerFailure returns the failure of a message that the broker itself, or another
// client by a reject, has made a dead letter of queue; nil if it is none. deaths is
// the header x-death; known is the failure that the message had before, if any.
func brokerFailure(deaths any, queue string, known *outbox.Failure) *outbox.Failure {
	list, _ := deaths.([]any)
	for _, d := range list { // the latest comes first
		if deathText(d, "queue") != queue {
			continue
		}
		f := outbox.Failure{Queue: queue}
		if known != nil {
			f = *known
		}
		f.Reason = "dead-lettered by the broker: " + deathReason(deathText(d, "reason"))
		f.Queue = queue
		if at, ok := d.(amqp.Table)["time"].(time.Time); ok {
			f.LastAt = at.UTC()
		}
		if f.FirstAt.IsZero() {
			f.FirstAt = f.LastAt
		}
		return &f
	}
	return nil
}

// deathReason explains the broker's word for why a message was dead-lettered.
func deathReason(word string) string {
	text := map[string]string{
		"rejected":       "a client rejected it without requeueing it",
		"expired":        "it was too long in the queue",
		"maxlen":         "the queue was full",
		"delivery_limit": "it came back more often than the queue's delivery limit allows",
	}[word]
	if text == "" {
		return word
	}
	return fmt.Sprintf("%s (%s)", word, text)
}

func deathText(death any, field string) string {
	table, _ := death.(amqp.Table)
	text, _ := table[field].(string)
	return text
}
