package rabbitmq

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/outbox-go/outbox"
	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrMissing is wrapped by an error that names what is not there: of Subscribe, with
// [CheckOnly], all exchanges and queues; of a Settle, the queue for a retry or for
// dead letters.
var ErrMissing = errors.New("missing on the broker")

// Arguments of queues that the library has no constants for.
const (
	argDeadLetterExchange = "x-dead-letter-exchange"
	argDeadLetterKey      = "x-dead-letter-routing-key"
	argDeadLetterStrategy = "x-dead-letter-strategy"
	argDeliveryLimit      = "x-delivery-limit"

	strategyAtLeastOnce = "at-least-once"
)

// unlimited is a delivery limit that nothing reaches. A quorum queue that has one
// puts what it is given back to its old place; without, RabbitMQ 3.10 and later put
// it at the end. And it keeps RabbitMQ 4 from its limit of 20, at which a queue
// without dead letters drops a message.
const unlimited = int64(1) << 30

// entity is an exchange or a queue that is to be there.
type entity struct {
	kind     string // "exchange" or "queue"
	name     string
	exchange string // an exchange's type
	args     amqp.Table
	bindings []binding // a queue's
}

type binding struct{ exchange, key string }

func exchangeEntity(name, kind string) *entity {
	return &entity{kind: "exchange", name: name, exchange: kind}
}

// deadLetterExchange returns the name of the exchange of the dead letters. Names
// that begin with "amq." are the broker's own.
func (c *SubscriberConfig) deadLetterExchange() string {
	return strings.TrimPrefix(c.Exchange, "amq.") + deadLetterExchangeSuffix
}

// entities returns all that s needs, each after what it refers to.
func (c *SubscriberConfig) entities(s *outbox.Subscription) []*entity {
	queue := queueName(s.Queue)
	if s.DeadLetters {
		return c.deadLetterEntities(queue)
	}
	list := append([]*entity{exchangeEntity(c.Exchange, amqp.ExchangeTopic)}, c.deadLetterEntities(queue)...)
	for _, r := range retryRungs(s.RetryDelays) {
		list = append(list, c.rungEntity(queue, r))
	}
	return append(list, c.mainEntity(queue, s))
}

// deadLetterEntities returns the exchange of the dead letters and the queue of
// those of queue.
func (c *SubscriberConfig) deadLetterEntities(queue string) []*entity {
	q := &entity{
		kind: "queue", name: deadLetterQueue(queue), args: c.typed(),
		bindings: []binding{{c.deadLetterExchange(), queue}},
	}
	if c.QueueType == Quorum {
		q.args[argDeliveryLimit] = unlimited
	}
	return []*entity{exchangeEntity(c.deadLetterExchange(), amqp.ExchangeDirect), q}
}

// rungEntity returns the queue where messages for queue wait for r.
func (c *SubscriberConfig) rungEntity(queue string, r rung) *entity {
	args := c.deadLettering("", queue)
	args[amqp.QueueMessageTTLArg] = r.milliseconds()
	return &entity{kind: "queue", name: retryQueue(queue, r), args: args}
}

func (c *SubscriberConfig) mainEntity(queue string, s *outbox.Subscription) *entity {
	args := c.deadLettering(c.deadLetterExchange(), queue)
	if c.QueueType == Quorum {
		args[argDeliveryLimit] = unlimited
	}
	if _, own := c.QueueArguments[argDeadLetterExchange]; own {
		delete(args, argDeadLetterKey)
	}
	maps.Copy(args, c.QueueArguments)
	if s.InOrder {
		args[amqp.SingleActiveConsumerArg] = true
	}
	q := &entity{kind: "queue", name: queue, args: args}
	for _, pattern := range s.Topics {
		q.bindings = append(q.bindings, binding{c.Exchange, pattern})
	}
	return q
}

func (c *SubscriberConfig) typed() amqp.Table {
	return amqp.Table{amqp.QueueTypeArg: string(c.QueueType)}
}

// deadLettering returns the arguments of a queue that hands on what expires there
// or is rejected. Without a confirmation of the target, the default, the broker
// may lose it on the way (https://www.rabbitmq.com/docs/quorum-queues#dead-lettering).
func (c *SubscriberConfig) deadLettering(exchange, key string) amqp.Table {
	args := c.typed()
	args[argDeadLetterExchange], args[argDeadLetterKey] = exchange, key
	if c.QueueType == Quorum {
		args[argDeadLetterStrategy] = strategyAtLeastOnce
		args[amqp.QueueOverflowArg] = amqp.QueueOverflowRejectPublish // which at-least-once requires
	}
	return args
}

// ensure declares or checks the entities. When it checks, it names all that are
// missing at once.
func ensure(conn *connection, topology Topology, entities []*entity) error {
	var ch *amqp.Channel
	var missing []error
	for _, e := range entities {
		if ch == nil || ch.IsClosed() { // a failure closes it
			var err error
			if ch, err = conn.Channel(); err != nil {
				return fmt.Errorf("open channel: %w", err)
			}
		}
		err := e.ensure(ch, topology)
		if err != nil && !errors.Is(err, ErrMissing) {
			return err
		}
		if err != nil {
			missing = append(missing, err)
		}
	}
	if ch != nil {
		_ = ch.Close()
	}
	return errors.Join(missing...)
}

func (e *entity) ensure(ch *amqp.Channel, topology Topology) error {
	if topology == CheckOnly {
		return declareError("check", e.kind, e.name, e.check(ch))
	}
	if err := e.declare(ch); err != nil {
		return declareError("declare", e.kind, e.name, err)
	}
	for _, b := range e.bindings {
		if err := ch.QueueBind(e.name, b.key, b.exchange, false, nil); err != nil {
			return declareError("bind", e.kind, e.name, fmt.Errorf("to %q by %q: %w", b.exchange, b.key, err))
		}
	}
	return nil
}

func (e *entity) declare(ch *amqp.Channel) error {
	if e.exchange != "" {
		return ch.ExchangeDeclare(e.name, e.exchange, true, false, false, false, nil)
	}
	_, err := ch.QueueDeclare(e.name, true, false, false, false, e.args)
	return err
}

func (e *entity) check(ch *amqp.Channel) error {
	if e.exchange != "" {
		return ch.ExchangeDeclarePassive(e.name, e.exchange, true, false, false, false, nil)
	}
	_, err := ch.QueueDeclarePassive(e.name, true, false, false, false, nil)
	return err
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

// argumentFaults tells which of the arguments that the user gives for the queue
// would take away what the driver promises.
func (c *SubscriberConfig) argumentFaults() []error {
	var errs []error
	if _, ok := c.QueueArguments[amqp.QueueTypeArg]; ok {
		errs = append(errs, fmt.Errorf("QueueArguments has %s: set QueueType instead", amqp.QueueTypeArg))
	}
	if _, ok := c.QueueArguments[amqp.SingleActiveConsumerArg]; ok {
		errs = append(errs, fmt.Errorf("QueueArguments has %s: set InOrder of the subscription instead", amqp.SingleActiveConsumerArg))
	}
	overflow, strategy := c.QueueArguments[amqp.QueueOverflowArg], c.QueueArguments[argDeadLetterStrategy]
	if c.QueueType == Quorum && overflow != nil && overflow != amqp.QueueOverflowRejectPublish && cmp.Or(strategy, any(strategyAtLeastOnce)) == strategyAtLeastOnce {
		errs = append(errs, fmt.Errorf("QueueArguments has %s %q, with which the broker can lose dead letters: leave it out, or accept that by %s \"at-most-once\"",
			amqp.QueueOverflowArg, overflow, argDeadLetterStrategy))
	}
	if err := amqp.Table(c.QueueArguments).Validate(); err != nil {
		errs = append(errs, fmt.Errorf("QueueArguments: %w", err))
	}
	return errs
}
