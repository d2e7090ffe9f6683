package stomp

import (
	"net/url"
	"strings"
)

const (
	topicMark = "{topic}"
	// queueDestination is the template of a queue that is bound to nothing.
	queueDestination = "/queue/{queue}"
)

// QueueName returns the name of the queue that is meant where only a destination is
// given: its last segment, as django-outbox-pattern has it. That of
// /exchange/orders/order.placed is order.placed.
func QueueName(destination string) string {
	return unescapeSegment(lastSegment(destination))
}

// lastSegment returns what is behind the last slash.
func lastSegment(destination string) string {
	return destination[strings.LastIndexByte(destination, '/')+1:]
}

// escapeSegment makes s one segment of a destination. Of percent-encoding RabbitMQ
// knows only that of the slash there.
func escapeSegment(s string) string { return strings.ReplaceAll(s, "/", "%2F") }

// unescapeSegment undoes the percent-encoding of a destination that was received.
func unescapeSegment(s string) string {
	if plain, err := url.PathUnescape(s); err == nil {
		return plain
	}
	return s
}

// template is a destination in which topics are put.
type template struct {
	before, after string
	fixed         bool // there is no place for one
}

func newTemplate(destination string) template {
	before, after, ok := strings.Cut(destination, topicMark)
	return template{before: before, after: after, fixed: !ok}
}

func (t *template) destination(topic string) string {
	if t.fixed {
		return t.before
	}
	return t.before + escapeSegment(topic) + t.after
}

// exchange returns the name of the exchange that all destinations name, or "".
func (t *template) exchange() string {
	if strings.HasPrefix(t.before, "/topic/") {
		return "amq.topic"
	}
	rest, ok := strings.CutPrefix(t.before, "/exchange/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return unescapeSegment(name)
}

// queuePath returns the destination by which the queue of that name is declared and
// sent to.
func queuePath(name string) string { return "/queue/" + escapeSegment(name) }

// plainQueuePath is the same for a queue that is there: nothing is declared.
func plainQueuePath(name string) string { return "/amq/queue/" + escapeSegment(name) }
