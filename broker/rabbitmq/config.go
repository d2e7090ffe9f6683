package rabbitmq

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// DefaultExchange is the name of the exchange unless a configuration says
// otherwise.
const DefaultExchange = "outbox"

// maxShortString is the limit of AMQP's short strings: names, routing keys and
// most properties.
const maxShortString = 255

// Connection says how to reach the broker. The zero value is usable.
type Connection struct {
	// Name is what operators see, in the management console and the broker's log,
	// as the connection's name. Defaults to "outbox-publisher" or, with the
	// queue's name, "outbox-subscriber QUEUE".
	Name string

	// TLS is used for a URL with the scheme amqps. Defaults to what the URL's
	// parameters say, else to the system's certificates. Without a ServerName the
	// broker's certificate must be for the host that is connected to, each of several
	// for itself. With Certificates the client shows one, if the broker asks for it.
	TLS *tls.Config

	// Heartbeat is the interval by which a dead peer is detected: the connection
	// counts as lost after one and a half of it without a sign of life. Defaults
	// to 10 s; 1 s to 10 min. The URL's parameter heartbeat wins, and the broker's
	// own interval, 60 s unless configured, if it is shorter.
	Heartbeat time.Duration

	// DialTimeout bounds connecting, TLS and the AMQP handshake together, with each
	// of several hosts. Defaults to 10 s. The URL's parameter connection_timeout wins.
	DialTimeout time.Duration

	// ReconnectMin and ReconnectMax bound the back-off between attempts to
	// connect: the n-th wait is drawn evenly from zero to ReconnectMin doubled n
	// times, at most ReconnectMax. Default to 100 ms and 30 s.
	ReconnectMin time.Duration
	ReconnectMax time.Duration

	// Logger gets connections made and lost. Defaults to none.
	Logger *slog.Logger
}

// Topology says who declares exchanges, queues and bindings.
type Topology int

const (
	// Declare creates what is missing.
	Declare Topology = iota
	// CheckOnly creates nothing, for a user without the right to configure: the
	// exchanges and queues must be there, and are named by an error if they are
	// not. Bindings and properties cannot be checked by AMQP.
	CheckOnly
)

// Unroutable says what becomes of a message that no queue is bound for.
type Unroutable int

const (
	// Refuse publishes as mandatory and answers an unroutable message with
	// outbox.ErrRefused.
	Refuse Unroutable = iota
	// Accept lets the broker drop an unroutable message, and confirm it.
	Accept
)

// PublisherConfig is the optional part of [NewPublisher].
type PublisherConfig struct {
	Connection Connection

	// Exchange is the topic exchange to publish to; at most 255 bytes. Defaults
	// to [DefaultExchange].
	Exchange string

	// Topology says whether the exchange is declared, durable. Defaults to
	// [Declare].
	Topology Topology

	// Unroutable says what becomes of a message that no queue is bound for.
	// Defaults to [Refuse].
	Unroutable Unroutable

	// ConfirmTimeout is how long the broker may leave a message unconfirmed before
	// the connection counts as broken; also how long Publish waits at most while
	// the broker blocks publishers. Defaults to 30 s.
	ConfirmTimeout time.Duration
}

// QueueType is the type of the queues that a subscriber declares.
type QueueType string

const (
	// Quorum queues are replicated and survive the loss of a node
	// (https://www.rabbitmq.com/docs/quorum-queues).
	Quorum QueueType = amqp.QueueTypeQuorum
	// Classic queues live on one node.
	Classic QueueType = amqp.QueueTypeClassic
)

// SubscriberConfig is the optional part of [NewSubscriber].
type SubscriberConfig struct {
	Connection Connection

	// Exchange is the topic exchange that queues are bound to; at most 251 bytes.
	// Defaults to [DefaultExchange].
	Exchange string

	// Topology says whether exchanges, queues and bindings are declared. Defaults to
	// [Declare].
	Topology Topology

	// QueueType is the type of the queue, and of those of its retries and dead
	// letters. Defaults to [Quorum]. With [Classic] the broker may lose a message
	// that waits for a retry, if it is killed when the time has come: it does not
	// wait for the queue to confirm it.
	QueueType QueueType

	// QueueArguments are further arguments of the queue's declaration, such as
	// x-max-length, and win over the driver's own but for InOrder. They must be
	// those that the queue was first declared with. Queues of retries and dead
	// letters do not get them.
	QueueArguments map[string]any

	// ConfirmTimeout is how long the broker may take to confirm a message that is
	// retried or dead-lettered. Defaults to 30 s.
	ConfirmTimeout time.Duration
}

func (c *PublisherConfig) withDefaults() PublisherConfig {
	var d PublisherConfig
	if c != nil {
		d = *c
	}
	d.Connection = d.Connection.withDefaults("outbox-publisher")
	d.Exchange = cmp.Or(d.Exchange, DefaultExchange)
	d.ConfirmTimeout = cmp.Or(d.ConfirmTimeout, 30*time.Second)
	return d
}

func (c *PublisherConfig) validate() []error {
	errs := append(c.Connection.validate(), validateCommon(c.Exchange, c.Topology)...)
	if c.Unroutable != Refuse && c.Unroutable != Accept {
		errs = append(errs, fmt.Errorf("Unroutable is %d, want Refuse or Accept", c.Unroutable))
	}
	if c.ConfirmTimeout < time.Millisecond {
		errs = append(errs, fmt.Errorf("ConfirmTimeout is %v, want 1ms or more", c.ConfirmTimeout))
	}
	return errs
}

func (c *SubscriberConfig) withDefaults() SubscriberConfig {
	var d SubscriberConfig
	if c != nil {
		d = *c
	}
	d.Connection = d.Connection.withDefaults("")
	d.Exchange = cmp.Or(d.Exchange, DefaultExchange)
	d.QueueType = cmp.Or(d.QueueType, Quorum)
	d.ConfirmTimeout = cmp.Or(d.ConfirmTimeout, 30*time.Second)
	d.QueueArguments = maps.Clone(d.QueueArguments)
	return d
}

func (c *SubscriberConfig) validate() []error {
	errs := append(c.Connection.validate(), validateCommon(c.Exchange, c.Topology)...)
	if c.QueueType != Quorum && c.QueueType != Classic {
		errs = append(errs, fmt.Errorf("QueueType is %q, want %q or %q", c.QueueType, Quorum, Classic))
	}
	if n := len(c.deadLetterExchange()); n > maxShortString {
		errs = append(errs, fmt.Errorf("Exchange has %d bytes: with that of the dead letters, %q more, at most %d are allowed",
			len(c.Exchange), deadLetterExchangeSuffix, maxShortString-len(deadLetterExchangeSuffix)))
	}
	if c.ConfirmTimeout < time.Millisecond {
		errs = append(errs, fmt.Errorf("ConfirmTimeout is %v, want 1ms or more", c.ConfirmTimeout))
	}
	errs = append(errs, c.argumentFaults()...)
	return errs
}

func validateCommon(exchange string, topology Topology) []error {
	var errs []error
	if len(exchange) > maxShortString {
		errs = append(errs, fmt.Errorf("Exchange has %d bytes, at most %d are allowed", len(exchange), maxShortString))
	}
	if strings.HasPrefix(exchange, "amq.") && topology == Declare && exchange != "amq.topic" {
		errs = append(errs, fmt.Errorf("Exchange %q begins with amq., which is reserved for the broker", exchange))
	}
	if topology != Declare && topology != CheckOnly {
		errs = append(errs, fmt.Errorf("Topology is %d, want Declare or CheckOnly", topology))
	}
	return errs
}

func (c Connection) withDefaults(name string) Connection {
	c.Name = cmp.Or(c.Name, name)
	c.Heartbeat = cmp.Or(c.Heartbeat, 10*time.Second)
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
	if c.Heartbeat < time.Second || c.Heartbeat > 10*time.Minute {
		errs = append(errs, fmt.Errorf("Connection.Heartbeat is %v, want 1s to 10m", c.Heartbeat))
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

// newEndpoint validates rawURL and takes it apart; errs are the faults found
// before, which it reports with its own.
func newEndpoint(rawURL string, c Connection, errs []error) (*endpoint, error) {
	e := &endpoint{config: c}
	var err error
	if e.addresses, err = parseAddresses(rawURL); err != nil {
		errs = append(errs, err)
	} else if e.sasl, err = mechanisms(e.addresses[0].uri); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("rabbitmq: %w", errors.Join(errs...))
	}
	if ms := e.addresses[0].uri.ConnectionTimeout; ms > 0 {
		e.config.DialTimeout = time.Duration(ms) * time.Millisecond
	}
	return e, nil
}
