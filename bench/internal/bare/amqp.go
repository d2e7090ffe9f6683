// Package bare publishes by the brokers' own clients and nothing else, as lean as is
// honest: no outbox, no consumer, every message confirmed. It is what a machine and a
// broker allow.
package bare

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/bench/internal/work"
	"github.com/outbox-go/outbox/internal/measure"
)

// AMQP publishes to the exchange of the run by one channel, and returns how long it
// took until all were confirmed, and how many messages the queue has then. The queue is
// the same as a consumer of outbox declares; nobody consumes it.
func AMQP(ctx context.Context, s *work.Settings) (took time.Duration, arrived int, err error) {
	if err := declare(ctx, s); err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, work.RemoveQueue(s)) }()
	conn, err := amqp.Dial(s.BrokerURL)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // ends the wait for confirms
	ch, err := conn.Channel()
	if err != nil {
		return 0, 0, err
	}
	if err := ch.Confirm(false); err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := publishAll(ctx, ch, s); err != nil {
		return 0, 0, err
	}
	took = time.Since(began)
	q, err := ch.QueueDeclarePassive(s.Name, true, false, false, false, amqp.Table{amqp.QueueTypeArg: string(s.QueueType)})
	return took, q.Messages, err
}

// publishAll has at most a window of messages unconfirmed.
func publishAll(ctx context.Context, ch *amqp.Channel, s *work.Settings) error {
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, s.Window))
	load := s.Load()
	confirmed := func() error {
		switch c, open := <-confirms; {
		case !open:
			return errors.New("the channel was closed")
		case !c.Ack:
			return fmt.Errorf("message %d was refused", c.DeliveryTag)
		}
		return nil
	}
	for n := range load.Messages {
		if n >= s.Window {
			if err := confirmed(); err != nil {
				return err
			}
		}
		if err := ch.PublishWithContext(ctx, s.Name, measure.Topic, false, false, publishing(s, &load, n)); err != nil {
			return err
		}
	}
	for range min(s.Window, load.Messages) {
		if err := confirmed(); err != nil {
			return err
		}
	}
	return nil
}

func publishing(s *work.Settings, load *measure.Load, n int) amqp.Publishing {
	if !s.Properties {
		return amqp.Publishing{DeliveryMode: amqp.Persistent, Body: load.Body(n)}
	}
	m := load.Message(n)
	return amqp.Publishing{
		DeliveryMode: amqp.Persistent, MessageId: m.ID, ContentType: m.ContentType, Timestamp: m.CreatedAt, Body: m.Payload,
		Headers: amqp.Table{outbox.HeaderKey: m.Key, outbox.HeaderCreatedAt: m.CreatedAt.Format(time.RFC3339Nano)},
	}
}

// declare makes exchange, queue and binding.
func declare(ctx context.Context, s *work.Settings) error {
	subscriber, err := work.Subscriber(s)
	if err != nil {
		return err
	}
	declared, cancel := context.WithCancel(ctx)
	defer cancel()
	sub := outbox.Subscription{Queue: s.Name, Topics: []string{"#"}, Prefetch: 1}
	err = subscriber.Subscribe(declared, sub, cancel, func(*outbox.Received) {})
	if declared.Err() != nil && ctx.Err() == nil {
		err = nil
	}
	return errors.Join(err, subscriber.Close())
}
