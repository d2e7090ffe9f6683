package rabbitmq

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/outbox-go/outbox"
	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrMissing is wrapped by an error that names an exchange or a queue that is not
// there and, with [CheckOnly], is not declared either.
var ErrMissing = errors.New("missing on the broker")

// ensureExchange declares or checks the exchange. A failure closes ch.
func ensureExchange(ch *amqp.Channel, name string, topology Topology) error {
	if topology == CheckOnly {
		err := ch.ExchangeDeclarePassive(name, amqp.ExchangeTopic, true, false, false, false, nil)
		return declareError("check", "exchange", name, err)
	}
	err := ch.ExchangeDeclare(name, amqp.ExchangeTopic, true, false, false, false, nil)
	return declareError("declare", "exchange", name, err)
}

// ensureQueue declares or checks exchange, queue and bindings of s.
func (c *SubscriberConfig) ensureQueue(ch *amqp.Channel, s *outbox.Subscription) error {
	if err := ensureExchange(ch, c.Exchange, c.Topology); err != nil {
		return err
	}
	if c.Topology == CheckOnly {
		_, err := ch.QueueDeclarePassive(s.Queue, true, false, false, false, nil)
		return declareError("check", "queue", s.Queue, err)
	}
	args := amqp.Table{amqp.QueueTypeArg: string(c.QueueType)}
	maps.Copy(args, c.QueueArguments)
	if _, err := ch.QueueDeclare(s.Queue, true, false, false, false, args); err != nil {
		return declareError("declare", "queue", s.Queue, err)
	}
	for _, pattern := range s.Topics {
		if err := ch.QueueBind(s.Queue, pattern, c.Exchange, false, nil); err != nil {
			return declareError("bind", "queue", s.Queue, fmt.Errorf("to %q by %q: %w", c.Exchange, pattern, err))
		}
	}
	return nil
}

// declareError adds what was done to what, and what mends it.
func declareError(operation, kind, name string, err error) error {
	var reply *amqp.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &reply):
	case operation == "check" && reply.Code == amqp.NotFound && strings.Contains(reply.Reason, "no "+kind):
		return fmt.Errorf("%s %q is %w: create it, or let it be declared: %w", kind, name, ErrMissing, err)
	case operation == "declare" && reply.Code == amqp.AccessRefused:
		return fmt.Errorf("declare %s %q: grant the right to configure it, or create it and only check for it: %w", kind, name, err)
	case reply.Code == amqp.PreconditionFailed:
		return fmt.Errorf("%s %s %q: it is there with other properties: delete it, or configure those that it has: %w", operation, kind, name, err)
	}
	return fmt.Errorf("%s %s %q: %w", operation, kind, name, err)
}

// unmendable reports whether declaring again cannot help.
func unmendable(err error) bool {
	if errors.Is(err, ErrMissing) {
		return true
	}
	var reply *amqp.Error
	if !errors.As(err, &reply) || !reply.Server {
		return false
	}
	return reply.Code == amqp.PreconditionFailed || reply.Code == amqp.AccessRefused
}
