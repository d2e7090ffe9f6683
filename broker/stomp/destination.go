package stomp

import (
	"fmt"
	"net/url"
	"slices"
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

// destinationForms says what a message can be sent to. RabbitMQ has more, for queues
// that live as long as a connection.
const destinationForms = "/topic/KEY, /exchange/NAME/KEY, /exchange/NAME, /queue/NAME or /amq/queue/NAME"

// isDestination reports whether s is one of these. A slash in a segment is %2F.
func isDestination(s string) bool {
	for _, form := range [...]struct {
		prefix      string
		least, most int // segments behind the prefix
	}{{"/topic/", 1, 1}, {"/exchange/", 1, 2}, {"/queue/", 1, 1}, {"/amq/queue/", 1, 1}} {
		rest, ok := strings.CutPrefix(s, form.prefix)
		segments := strings.Split(rest, "/")
		if ok && len(segments) >= form.least && len(segments) <= form.most {
			return !slices.Contains(segments, "") && !hasControl(s)
		}
	}
	return false
}

// isBindable reports whether a queue can be bound by s for each topic.
func isBindable(s string) bool {
	exchange, ok := strings.CutSuffix(s, "/"+topicMark)
	return ok && isDestination(s) && !strings.Contains(exchange, topicMark) &&
		(exchange == "/topic" || strings.HasPrefix(exchange, "/exchange/"))
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

// named returns how RabbitMQ's errors name what all destinations do, an exchange or a
// queue, or "".
func (t *template) named() string {
	if exchange := t.exchange(); exchange != "" {
		return fmt.Sprintf("exchange '%s'", exchange)
	}
	if t.fixed {
		return fmt.Sprintf("queue '%s'", QueueName(t.before))
	}
	return ""
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
