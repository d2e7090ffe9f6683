package scratch

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

// RetryDelay is the only delay of retries that a run's workers may have: each is a
// queue on RabbitMQ, and all that the drivers make for retries and dead letters, under
// names of theirs, is to be removed.
const RetryDelay = time.Second

// Broker returns c with an exchange or a stream of its own, on the broker that c.URL
// names, or without URL on a JetStream server that runs in this process, with its
// files in s.Dir. The only queue, which workers make as they start, is s.Name.
func (s *Scratch) Broker(c config.Broker) (config.Broker, error) {
	c.Exchange, c.Stream, c.SubjectPrefix = s.Name, s.Name, s.Name+"."
	url := c.URL
	switch wire.BrokerKind(url) {
	case wire.RabbitMQ:
		s.onRemove(func(context.Context) error { return removeFromRabbitMQ(url, s.Name) })
		return c, nil
	case wire.JetStream:
		s.onRemove(func(ctx context.Context) error { return removeStream(ctx, url, s.Name) })
		return c, nil
	}
	server, err := startJetStream(s.Dir)
	if err != nil {
		return config.Broker{}, fmt.Errorf("start a JetStream server: %w", err)
	}
	s.onRemove(func(context.Context) error {
		server.Shutdown()
		server.WaitForShutdown()
		return nil
	})
	c.URL = server.ClientURL()
	return c, nil
}

// startJetStream starts a server in this process, on a free port of the loopback
// interface.
func startJetStream(dir string) (*server.Server, error) {
	s, err := server.NewServer(&server.Options{
		ServerName: "outbox", Host: "127.0.0.1", Port: server.RANDOM_PORT,
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
	for _, queue := range []string{name, name + ".dlq", name + ".retry." + RetryDelay.String()} {
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
