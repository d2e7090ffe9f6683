package stomp

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

// DefaultDestination is the template of destinations unless a configuration says
// otherwise. At RabbitMQ it is the exchange amq.topic.
const DefaultDestination = "/topic/{topic}"

// HeaderDestination is the header of a message that is to go to a destination of
// its own, in the place of the configured one. It is not sent.
const HeaderDestination = "stomp-destination"

// maxShortString is the limit of AMQP's short strings, which RabbitMQ keeps names,
// routing keys and most properties in.
const maxShortString = 255

// Connection says how to reach the broker. The zero value is usable.
type Connection struct {
	// TLS is used for a URL with the scheme stomps. Defaults to the system's
	// certificates; with certificates of its own it is mutual TLS.
	TLS *tls.Config

	// SendHeartbeat is how often the broker hears of us at least, and
	// ReceiveHeartbeat how often we of the broker: after twice as long without a
	// sign of life the connection counts as lost. Both default to 10 s; 1 s to 10 min.
	// The broker may ask for longer intervals.
	SendHeartbeat    time.Duration
	ReceiveHeartbeat time.Duration

	// DialTimeout bounds connecting to one host, TLS and the STOMP handshake
	// together. Defaults to 10 s.
	DialTimeout time.Duration

	// ReconnectMin and ReconnectMax bound the back-off between attempts to connect
	// to any of the hosts: the n-th wait is drawn evenly from zero to ReconnectMin
	// doubled n times, at most ReconnectMax. Default to 100 ms and 30 s.
	ReconnectMin time.Duration
	ReconnectMax time.Duration

	// Logger gets connections made and lost. Defaults to none.
	Logger *slog.Logger
}

// PublisherConfig is the optional part of [NewPublisher].
type PublisherConfig struct {
	Connection Connection

	// Destination is where messages go: a template in which {topic} stands for the
	// topic of the message, such as /exchange/orders/{topic} or /queue/{topic}.
	// Defaults to [DefaultDestination]. The header [HeaderDestination] of a message
	// wins.
	Destination string

	// DOP adds the headers of django-outbox-pattern to each message.
	DOP bool

	// ReceiptTimeout is how long the broker may leave a message without a receipt
	// before the connection counts as broken. Defaults to 30 s.
	ReceiptTimeout time.Duration
}

// QueueType is the type of the queues that a subscriber declares.
type QueueType string

const (
	// Quorum queues are replicated and survive the loss of a node
	// (https://www.rabbitmq.com/docs/quorum-queues).
	Quorum QueueType = "quorum"
	// Classic queues live on one node.
	Classic QueueType = "classic"
)

// SubscriberConfig is the optional part of [NewSubscriber].
type SubscriberConfig struct {
	Connection Connection

	// Destination is what queues are bound to: a template in which {topic} stands
	// for a topic pattern. Defaults to [DefaultDestination]; /exchange/NAME/{topic}
	// is another topic exchange, which must be there. With /queue/{queue} the queue is
	// bound to nothing and has what is sent to it by its name, whatever the Topics.
	Destination string

	// QueueType is the type of the queue, and of those of its retries and dead
	// letters. Defaults to [Quorum]; to [Classic] with Exclusive, and to what the
	// virtual host has as default, classic unless configured, with DOP.
	QueueType QueueType

	// QueueHeaders are further headers of the SUBSCRIBE frame that declares the
	// queue, such as x-max-length. They must be those that the queue was first
	// declared with. Only with DOP do the dead letters get them, too.
	QueueHeaders map[string]string

	// DOP declares the queue and that of its dead letters as django-outbox-pattern
	// does, so that its consumers and ours can share them.
	DOP bool

	// Exclusive declares the queue for one connection alone, with which it ends, and
	// all that it has. It goes with one topic and [Classic]. Others that subscribe to
	// the queue meanwhile wait until it is free.
	Exclusive bool

	// ReceiptTimeout is how long the broker may take to answer: to declare queues,
	// and to take a message that is retried or dead-lettered. Defaults to 30 s.
	ReceiptTimeout time.Duration
}

func (c *PublisherConfig) withDefaults() PublisherConfig {
	var d PublisherConfig
	if c != nil {
		d = *c
	}
	d.Connection = d.Connection.withDefaults()
	d.Destination = cmp.Or(d.Destination, DefaultDestination)
	d.ReceiptTimeout = cmp.Or(d.ReceiptTimeout, 30*time.Second)
	return d
}

func (c *PublisherConfig) validate() []error {
	errs := append(c.Connection.validate(), receiptTimeoutFault(c.ReceiptTimeout)...)
	if !isDestination(c.Destination) || strings.Count(c.Destination, topicMark) > 1 {
		errs = append(errs, fmt.Errorf("Destination is %q, want %s, with %s once at most", c.Destination, destinationForms, topicMark))
	}
	return errs
}

func (c *SubscriberConfig) withDefaults() SubscriberConfig {
	var d SubscriberConfig
	if c != nil {
		d = *c
	}
	d.Connection = d.Connection.withDefaults()
	d.Destination = cmp.Or(d.Destination, DefaultDestination)
	switch {
	case d.QueueType != "" || d.DOP:
	case d.Exclusive:
		d.QueueType = Classic
	default:
		d.QueueType = Quorum
	}
	d.ReceiptTimeout = cmp.Or(d.ReceiptTimeout, 30*time.Second)
	d.QueueHeaders = maps.Clone(d.QueueHeaders)
	return d
}

func (c *SubscriberConfig) validate() []error {
	errs := append(c.Connection.validate(), receiptTimeoutFault(c.ReceiptTimeout)...)
	if c.Destination != queueDestination && !isBindable(c.Destination) {
		errs = append(errs, fmt.Errorf("Destination is %q, want %q, /exchange/NAME/%s or %q", c.Destination, DefaultDestination, topicMark, queueDestination))
	}
	if c.QueueType != Quorum && c.QueueType != Classic && (c.QueueType != "" || !c.DOP) {
		errs = append(errs, fmt.Errorf("QueueType is %q, want %q or %q", c.QueueType, Quorum, Classic))
	}
	if c.Exclusive && c.QueueType == Quorum {
		errs = append(errs, errors.New("Exclusive does not go with QueueType quorum: use classic"))
	}
	for _, name := range slices.Sorted(maps.Keys(c.QueueHeaders)) {
		if reason := queueHeaderFault(name, c.QueueHeaders[name]); reason != "" {
			errs = append(errs, fmt.Errorf("QueueHeaders has %q: %s", name, reason))
		}
	}
	return errs
}

// queueHeaderFault tells why a user may not give that header of SUBSCRIBE, or "".
func queueHeaderFault(name, value string) string {
	switch name {
	case "":
		return "a header needs a name"
	case headerQueueType:
		return "set QueueType instead"
	case headerExclusive:
		return "set Exclusive instead"
	case headerDestination, headerID, headerAck, headerReceipt, headerPrefetch, headerQueueName, headerDurable, headerAutoDelete,
		headerTransaction, headerDeadLetterExchange, headerDeadLetterKey:
		return "the driver sets it"
	}
	if hasControl(name) || hasControl(value) {
		return "control characters are not allowed"
	}
	return ""
}

func receiptTimeoutFault(d time.Duration) []error {
	if d < time.Millisecond {
		return []error{fmt.Errorf("ReceiptTimeout is %v, want 1ms or more", d)}
	}
	return nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func (c Connection) withDefaults() Connection {
	c.SendHeartbeat = cmp.Or(c.SendHeartbeat, 10*time.Second)
	c.ReceiveHeartbeat = cmp.Or(c.ReceiveHeartbeat, 10*time.Second)
	c.DialTimeout = cmp.Or(c.DialTimeout, 10*time.Second)
	c.ReconnectMin = cmp.Or(c.ReconnectMin, 100*time.Millisecond)
	c.ReconnectMax = cmp.Or(c.ReconnectMax, max(30*time.Second, c.ReconnectMin))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c *Connection) validate() []error {
	var errs []error
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"SendHeartbeat", c.SendHeartbeat}, {"ReceiveHeartbeat", c.ReceiveHeartbeat}} {
		if f.value < time.Second || f.value > 10*time.Minute {
			errs = append(errs, fmt.Errorf("Connection.%s is %v, want 1s to 10m", f.name, f.value))
		}
	}
	if c.DialTimeout < time.Millisecond {
		errs = append(errs, fmt.Errorf("Connection.DialTimeout is %v, want 1ms or more", c.DialTimeout))
	}
	if c.ReconnectMin < time.Millisecond || c.ReconnectMax < c.ReconnectMin {
		errs = append(errs, fmt.Errorf("Connection.ReconnectMin is %v and ReconnectMax %v, want at least 1ms and no more than the other",
			c.ReconnectMin, c.ReconnectMax))
	}
	return errs
}
