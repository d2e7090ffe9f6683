package wire

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/natsjs"
	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/broker/stdout"
	"github.com/outbox-go/outbox/broker/stomp"
	"github.com/outbox-go/outbox/broker/webhook"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
)

// OpenPublisher returns a publisher, with connections of its own, to the broker
// that c names, which [CheckBroker] has found to be right. It connects in the
// background, again and again. What goes to standard output goes to output.
func OpenPublisher(c config.Broker, output io.Writer, logger *slog.Logger) (outbox.Publisher, error) {
	switch BrokerKind(c.URL) {
	case RabbitMQ, JetStream, STOMP:
	default:
		return openPublisher(c, output, logger)
	}
	var publishers []outbox.Publisher
	for range max(1, c.Connections) {
		p, err := openPublisher(c, output, logger)
		if err != nil {
			for _, p := range publishers {
				_ = p.Close()
			}
			return nil, err
		}
		publishers = append(publishers, p)
	}
	return outbox.Spread(publishers...), nil
}

func openPublisher(c config.Broker, output io.Writer, logger *slog.Logger) (outbox.Publisher, error) {
	secure, err := brokerTLS(c.TLS)
	if err != nil {
		return nil, err
	}
	switch BrokerKind(c.URL) {
	case RabbitMQ:
		return rabbitmq.NewPublisher(c.URL, &rabbitmq.PublisherConfig{
			Connection: rabbitConnection(c, secure, logger), Exchange: c.Exchange, Topology: rabbitTopology(c), Unroutable: rabbitUnroutable(c),
		})
	case JetStream:
		b, err := natsjs.New(c.URL, jetStreamConfig(c, secure))
		if err != nil {
			return nil, err
		}
		return b.Publisher(), nil
	case STOMP:
		return stomp.NewPublisher(c.URL, stompPublisher(c, secure, logger))
	case HTTP:
		return webhook.NewPublisher(c.URL, webhookConfig(c, secure))
	case Stdout:
		return stdout.New(output), nil
	}
	return nil, fmt.Errorf("no publisher for broker.url %q", config.Redact(c.URL))
}

// OpenSubscriber returns a subscriber to the broker that c names.
func OpenSubscriber(c config.Broker, logger *slog.Logger) (outbox.Subscriber, error) {
	secure, err := brokerTLS(c.TLS)
	if err != nil {
		return nil, err
	}
	switch BrokerKind(c.URL) {
	case RabbitMQ:
		return rabbitmq.NewSubscriber(c.URL, &rabbitmq.SubscriberConfig{
			Connection: rabbitConnection(c, secure, logger), Exchange: c.Exchange, Topology: rabbitTopology(c), QueueType: rabbitmq.QueueType(c.QueueType),
		})
	case JetStream:
		b, err := natsjs.New(c.URL, jetStreamConfig(c, secure))
		if err != nil {
			return nil, err
		}
		return b.Subscriber(), nil
	case STOMP:
		return stomp.NewSubscriber(c.URL, stompSubscriber(c, secure, logger))
	}
	return nil, fmt.Errorf("nothing can be received from broker.url %q: use amqp://, amqps://, nats://, stomp:// or stomps://", config.Redact(c.URL))
}

func rabbitTopology(c config.Broker) rabbitmq.Topology {
	if c.CheckOnly {
		return rabbitmq.CheckOnly
	}
	return rabbitmq.Declare
}

func rabbitConnection(c config.Broker, secure *tls.Config, logger *slog.Logger) rabbitmq.Connection {
	return rabbitmq.Connection{TLS: secure, Heartbeat: c.Heartbeat, ReconnectMax: c.ReconnectMax, ReconnectMin: reconnectMin(c), Logger: logger}
}

// reconnectMin returns a shortest wait that is not longer than the longest, or 0 for
// the driver's default.
func reconnectMin(c config.Broker) time.Duration {
	const byDefault = 100 * time.Millisecond
	if c.ReconnectMax > 0 && c.ReconnectMax < byDefault {
		return c.ReconnectMax
	}
	return 0
}

func stompPublisher(c config.Broker, secure *tls.Config, logger *slog.Logger) *stomp.PublisherConfig {
	return &stomp.PublisherConfig{Connection: stompConnection(c, secure, logger), Destination: c.Destination, DOP: c.DOP}
}

func stompSubscriber(c config.Broker, secure *tls.Config, logger *slog.Logger) *stomp.SubscriberConfig {
	return &stomp.SubscriberConfig{
		Connection: stompConnection(c, secure, logger), Destination: c.Destination, DOP: c.DOP,
		QueueType: stomp.QueueType(c.QueueType), QueueHeaders: c.QueueHeaders, Exclusive: c.Exclusive,
	}
}

func stompConnection(c config.Broker, secure *tls.Config, logger *slog.Logger) stomp.Connection {
	return stomp.Connection{
		TLS: secure, SendHeartbeat: c.Heartbeat, ReceiveHeartbeat: c.Heartbeat,
		ReconnectMax: c.ReconnectMax, ReconnectMin: reconnectMin(c), Logger: logger,
	}
}

func webhookConfig(c config.Broker, secure *tls.Config) *webhook.PublisherConfig {
	return &webhook.PublisherConfig{
		Mode:   map[string]webhook.Mode{"binary": webhook.Binary, "batched": webhook.Batched}[c.Mode],
		Source: c.Source, Headers: c.RequestHeaders, Secrets: c.Secrets, Timeout: c.Timeout, Concurrency: c.Concurrency,
		TLS: secure,
	}
}

func rabbitFault(url, exchange string) error {
	_, err := rabbitmq.NewSubscriber(url, &rabbitmq.SubscriberConfig{Exchange: exchange})
	return err
}

func jetStreamConfig(c config.Broker, secure *tls.Config) *natsjs.Config {
	topology := natsjs.Declare
	if c.CheckOnly {
		topology = natsjs.CheckOnly
	}
	var options []nats.Option
	if secure != nil {
		options = append(options, nats.Secure(secure))
	}
	return &natsjs.Config{
		Stream: c.Stream, SubjectPrefix: c.SubjectPrefix, Topology: topology, ReconnectMaxWait: c.ReconnectMax, Options: options,
	}
}

func rabbitUnroutable(c config.Broker) rabbitmq.Unroutable {
	if c.Accept {
		return rabbitmq.Accept
	}
	return rabbitmq.Refuse
}

// brokerFaults calls fault for each key of a broker with what is wrong with it,
// whose URL is not empty.
func brokerFaults(c config.Broker, fault func(key string, err error)) {
	switch BrokerKind(c.URL) {
	case RabbitMQ:
		fault("url", rabbitFault(c.URL, ""))
		const some = "amqp://localhost/"
		fault("exchange", rabbitFault(some, c.Exchange))
		connection := func(one config.Broker) error {
			_, err := rabbitmq.NewPublisher(some, &rabbitmq.PublisherConfig{Connection: rabbitConnection(one, nil, nil)})
			return err
		}
		fault("heartbeat", connection(config.Broker{Heartbeat: c.Heartbeat}))
		fault("reconnect_max", connection(config.Broker{ReconnectMax: c.ReconnectMax}))
	case JetStream:
		const some = "nats://localhost:4222"
		_, err := natsjs.New(c.URL, nil)
		fault("url", err)
		_, err = natsjs.New(some, &natsjs.Config{Stream: c.Stream})
		fault("stream", err)
		_, err = natsjs.New(some, &natsjs.Config{SubjectPrefix: c.SubjectPrefix})
		fault("subject_prefix", err)
	case STOMP:
		stompFaults(c, fault)
	case HTTP:
		webhookFaults(c, fault)
	case Stdout:
		if c.URL != "stdout:" {
			fault("url", errors.New("has something after the colon: write stdout: alone"))
		}
	default:
		fault("url", errors.New(unknownScheme(c.URL, knownSchemes)))
	}
}

const knownSchemes = "amqp://, amqps://, nats://, stomp://, stomps://, http://, https:// or stdout:"

// stompFaults has the driver say of each key alone what is wrong with it.
func stompFaults(c config.Broker, fault func(key string, err error)) {
	const some = "stomp://localhost"
	publisher := func(url string, one config.Broker) error {
		_, err := stomp.NewPublisher(url, stompPublisher(one, nil, nil))
		return err
	}
	subscriber := func(one config.Broker) error {
		_, err := stomp.NewSubscriber(some, stompSubscriber(one, nil, nil))
		return err
	}
	fault("url", publisher(c.URL, config.Broker{}))
	fault("destination", publisher(some, config.Broker{Destination: c.Destination}))
	fault("heartbeat", publisher(some, config.Broker{Heartbeat: c.Heartbeat}))
	fault("reconnect_max", publisher(some, config.Broker{ReconnectMax: c.ReconnectMax}))
	fault("queue_headers", subscriber(config.Broker{QueueHeaders: c.QueueHeaders}))
	fault("queue_type", subscriber(config.Broker{QueueType: c.QueueType, Exclusive: c.Exclusive, DOP: c.DOP}))
}

// webhookFaults has the driver say of each key alone what is wrong with it.
func webhookFaults(c config.Broker, fault func(key string, err error)) {
	publisher := func(url string, one config.Broker) error {
		p, err := webhook.NewPublisher(url, webhookConfig(one, nil))
		if err == nil {
			err = p.Close()
		}
		return err
	}
	const some = "https://localhost"
	fault("url", publisher(c.URL, config.Broker{}))
	fault("source", publisher(some, config.Broker{Source: c.Source}))
	fault("request_headers", publisher(some, config.Broker{RequestHeaders: c.RequestHeaders}))
	fault("secrets", publisher(some, config.Broker{Secrets: c.Secrets}))
	fault("timeout", publisher(some, config.Broker{Timeout: c.Timeout}))
}
