// Package stomp publishes to and consumes from brokers that speak STOMP 1.2
// (https://stomp.github.io/stomp-specification-1.2.html).
package stomp

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"time"

	"github.com/outbox-go/outbox"
)

// DefaultDestination is the template of destinations unless a configuration says
// otherwise.
const DefaultDestination = "/topic/{topic}"

// HeaderDestination is the header of a message that is to go to a destination of
// its own, in the place of the configured one.
const HeaderDestination = "stomp-destination"

// Connection says how to reach the broker. The zero value is usable.
type Connection struct {
	TLS              *tls.Config
	SendHeartbeat    time.Duration
	ReceiveHeartbeat time.Duration
	DialTimeout      time.Duration
	ReconnectMin     time.Duration
	ReconnectMax     time.Duration
	Logger           *slog.Logger
}

// PublisherConfig is the optional part of [NewPublisher].
type PublisherConfig struct {
	Connection     Connection
	Destination    string // template with {topic}
	DOP            bool   // send the headers of django-outbox-pattern, too
	ReceiptTimeout time.Duration
}

// QueueType is the type of the queues that a subscriber declares at RabbitMQ.
type QueueType string

// The types of queues.
const (
	Quorum  QueueType = "quorum"
	Classic QueueType = "classic"
)

// SubscriberConfig is the optional part of [NewSubscriber].
type SubscriberConfig struct {
	Connection     Connection
	Destination    string // template with {topic}, for patterns
	QueueType      QueueType
	QueueHeaders   map[string]string // further headers of SUBSCRIBE
	DOP            bool              // queues as django-outbox-pattern declares them
	Exclusive      bool              // one consumer at a time
	ReceiptTimeout time.Duration
}

// QueueName returns the name of the queue that a destination stands for: its last
// segment.
func QueueName(destination string) string { return destination }

// Publisher is an [outbox.Publisher].
type Publisher struct{}

// NewPublisher returns a publisher to the brokers at url, which is
// stomp://user:password@host:61613,other:61613/vhost, or stomps:// with TLS.
func NewPublisher(url string, config *PublisherConfig) (*Publisher, error) {
	return nil, errors.ErrUnsupported
}

// Publish implements [outbox.Publisher].
func (p *Publisher) Publish(ctx context.Context, m *outbox.Message, done func(error)) {}

// Close implements [outbox.Publisher].
func (p *Publisher) Close() error { return nil }

// Subscriber is an [outbox.Subscriber].
type Subscriber struct{}

// NewSubscriber returns a subscriber to the brokers at url; see [NewPublisher].
func NewSubscriber(url string, config *SubscriberConfig) (*Subscriber, error) {
	return nil, errors.ErrUnsupported
}

// Subscribe implements [outbox.Subscriber].
func (s *Subscriber) Subscribe(ctx context.Context, sub outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
	return nil
}

// Close implements [outbox.Subscriber].
func (s *Subscriber) Close() error { return nil }
