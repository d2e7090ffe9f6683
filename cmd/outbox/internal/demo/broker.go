package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

// retryDelay is the only one: each is a queue on RabbitMQ, and all that the drivers
// make for retries and dead letters, under names of theirs, is to be removed.
const retryDelay = time.Second

// openBroker returns the configuration for the broker that o names, or for a
// JetStream server that it starts with its files in dir, and what removes all that
// the demo leaves there.
func openBroker(o *Options, name, dir string) (config.Broker, func(context.Context) error, error) {
	switch wire.BrokerKind(o.BrokerURL) {
	case wire.RabbitMQ:
		return brokerConfig(o.BrokerURL, name), func(context.Context) error { return removeFromRabbitMQ(o.BrokerURL, name) }, nil
	case wire.JetStream:
		return brokerConfig(o.BrokerURL, name), func(ctx context.Context) error { return removeStream(ctx, o.BrokerURL, name) }, nil
	}
	s, err := startJetStream(dir)
	if err != nil {
		return config.Broker{}, nil, fmt.Errorf("start a JetStream server: %w", err)
	}
	stop := func(context.Context) error {
		s.Shutdown()
		s.WaitForShutdown()
		return nil
	}
	return brokerConfig(s.ClientURL(), name), stop, nil
}

// startJetStream starts a server in this process, on a free port of the loopback
// interface.
func startJetStream(dir string) (*server.Server, error) {
	s, err := server.NewServer(&server.Options{
		ServerName: "outbox-demo", Host: "127.0.0.1", Port: server.RANDOM_PORT,
		JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return nil, err
	}
	s.Start()
	const patience = 30 * time.Second
	if !s.ReadyForConnections(patience) {
		s.Shutdown()
		return nil, fmt.Errorf("not ready after %v", patience)
	}
	return s, nil
}

func removeFromRabbitMQ(url, name string) (err error) {
	defer func() { err = remains("exchange and queue", name, url, err) }()
	conn, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	for _, queue := range []string{name, name + ".dlq", name + ".retry." + retryDelay.String()} {
		if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
			return err
		}
	}
	return errors.Join(ch.ExchangeDelete(name, false, false), ch.ExchangeDelete(name+".dlx", false, false))
}

func removeStream(ctx context.Context, url, name string) (err error) {
	defer func() { err = remains("stream", name, url, err) }()
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	for _, stream := range []string{name, name + "-dead", "KV_" + name + "-retries"} {
		if err := js.DeleteStream(ctx, stream); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
	}
	return nil
}

func remains(what, name, url string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("remove %s %s, which may remain: %s", what, name, config.Scrub(err.Error(), url))
}
