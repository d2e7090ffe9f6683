package wire

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/nats-io/nats.go"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/natsjs"
	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/broker/stdout"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
)

// OpenPublisher returns a publisher, with a connection of its own, to the broker
// that c names, which [CheckBroker] has found to be right. It connects in the
// background, again and again. What goes to standard output goes to output.
func OpenPublisher(c config.Broker, output io.Writer, logger *slog.Logger) (outbox.Publisher, error) {
	secure, err := brokerTLS(c.TLS)
	if err != nil {
		return nil, err
	}
	switch BrokerKind(c.URL) {
	case RabbitMQ:
		return rabbitmq.NewPublisher(c.URL, &rabbitmq.PublisherConfig{
			Connection: rabbitmq.Connection{TLS: secure, Logger: logger}, Exchange: c.Exchange, Topology: rabbitTopology(c), Unroutable: rabbitUnroutable(c),
		})
	case JetStream:
		b, err := natsjs.New(c.URL, jetStreamConfig(c, secure))
		if err != nil {
			return nil, err
		}
		return b.Publisher(), nil
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
			Connection: rabbitmq.Connection{TLS: secure, Logger: logger}, Exchange: c.Exchange, Topology: rabbitTopology(c),
		})
	case JetStream:
		b, err := natsjs.New(c.URL, jetStreamConfig(c, secure))
		if err != nil {
			return nil, err
		}
		return b.Subscriber(), nil
	}
	return nil, fmt.Errorf("nothing can be received from broker.url %q: use amqp://, amqps:// or nats://", config.Redact(c.URL))
}

func rabbitTopology(c config.Broker) rabbitmq.Topology {
	if c.CheckOnly {
		return rabbitmq.CheckOnly
	}
	return rabbitmq.Declare
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
	return &natsjs.Config{Stream: c.Stream, SubjectPrefix: c.SubjectPrefix, Topology: topology, Options: options}
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
		fault("exchange", rabbitFault("amqp://localhost/", c.Exchange))
	case JetStream:
		const some = "nats://localhost:4222"
		_, err := natsjs.New(c.URL, nil)
		fault("url", err)
		_, err = natsjs.New(some, &natsjs.Config{Stream: c.Stream})
		fault("stream", err)
		_, err = natsjs.New(some, &natsjs.Config{SubjectPrefix: c.SubjectPrefix})
		fault("subject_prefix", err)
	case Stdout:
		if c.URL != "stdout:" {
			fault("url", errors.New("has something after the colon: write stdout: alone"))
		}
	default:
		fault("url", errors.New(unknownScheme(c.URL, "amqp://, amqps://, nats:// or stdout:")))
	}
}
