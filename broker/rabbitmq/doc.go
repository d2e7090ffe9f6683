// Package rabbitmq publishes to and consumes from RabbitMQ by AMQP 0-9-1.
//
// Messages go to one durable topic exchange, "outbox" unless told otherwise,
// with the topic as routing key, persistent and mandatory. Each subscription has
// a durable queue, a quorum queue by default, bound to the exchange by its topic
// patterns, which are AMQP's own.
//
//	pub, err := rabbitmq.NewPublisher("amqp://guest:guest@localhost/", nil)
//	sub, err := rabbitmq.NewSubscriber("amqps://user:secret@broker.example/vhost", &rabbitmq.SubscriberConfig{
//		Exchange: "orders",
//	})
//
// The URL is that of https://www.rabbitmq.com/docs/uri-spec and
// https://www.rabbitmq.com/docs/uri-query-parameters. Reserved characters in the
// user's name and password are percent-encoded. No password appears in an error
// or a log.
//
// The nodes of a cluster are several hosts, amqp://user:password@a:5672,b:5672/vhost.
// Each attempt to connect begins with the first and takes the one that answers, with
// the vhost, and has or lets declare what is needed; a host that drops packets costs
// it the DialTimeout. A connection stays where it is until it is lost. Brokers that
// are no cluster do not share their queues: what one has got only its own consumers
// will see.
//
// # Queues
//
// A subscription to the queue billing, with the RetryDelays 10s and 1m, declares
// before its first message:
//
//	outbox            topic exchange   what is published
//	outbox.dlx        direct exchange  dead letters, by the name of their queue
//	billing           queue            bound to outbox by each of the Topics
//	billing.dlq       queue            the dead letters of billing
//	billing.retry.10s queue            what waits for 10 s; it expires into billing
//	billing.retry.1m  queue            the same for a minute
//
// All are durable, and the queues quorum queues unless told otherwise. The dead
// letters are read by a subscription with DeadLetters, which declares the exchange
// and the queue for them alone. Two queue arguments deserve a word. With
// x-dead-letter-strategy at-least-once, and x-overflow reject-publish, which that
// requires, a message leaves its queue when the next one has confirmed it; RabbitMQ
// has it from 3.10 on, with the feature flag stream_queue. And x-delivery-limit is
// set so high that nothing reaches it: with it a message that is given back gets
// its old place, and RabbitMQ 4 does not make it a dead letter after 20 times. Who
// wants the broker to do that sets x-delivery-limit in QueueArguments. InOrder is
// x-single-active-consumer.
//
// A queue whose name could be that of another one's retries or dead letters, such
// as billing.dlq, has ".queue" behind it at the broker.
//
// A user needs the rights to read the queue and its dead letters, and to write to
// amq.default and outbox.dlx; to declare, those to configure, read and write all of
// them. With [CheckOnly] nothing is declared, and an operator creates all of these
// with the same arguments.
//
// # Retries and dead letters
//
// [outbox.Retry] publishes a copy of the message to a delay queue, waits for its
// confirm and acknowledges the original. A crash in between leaves both: a message
// may come twice, and is not lost. [outbox.DeadLetter] does the same by outbox.dlx.
// The copies have a connection of their own, opened for the first of them: the
// broker reads nothing more from one that publishes while it is short of memory or
// disk, not even acknowledgements.
//
// A delay that no queue is there for is made up of several: the message goes from
// one into the next, and carries the time when it is due in the header
// outbox-retry-at. Members of the queue send it on without passing it to their
// handlers. It is late by the shortest of the RetryDelays at most, and not by more
// than a second. For such delays queues for 100ms (if there is a shorter one), 1s,
// 10s, 1m, 10m and 1h are declared when they are needed first; with [CheckOnly]
// there are none but those of RetryDelays, it may take more steps and be later, and
// without any of them only a Retry at once works. The due time is read by the clock
// of whichever member gets the message: where clocks differ, such a message comes
// earlier or later by as much.
//
// A delay queue has no limit. One that a policy gives a limit, and that is full,
// refuses the copy: Settle returns an error, the message remains unsettled, and
// whoever requeues it gets it again at once. So do those whose delay queue is
// missing; unless CheckOnly forbids, the next Settle declares it again. Delay queues
// have no consumers: alarms for queues that nobody reads should leave out those by
// the name of *.retry.*, and watch the length of *.dlq. To give up all retries of a
// kind, purge their delay queue; do not delete one that has messages. To handle
// dead letters again, move them back to the queue, by a shovel for example; they
// come with their failures and their first topic. Moved to the exchange they go to
// all queues that collect the topic, and are new to those that have not failed.
//
// What the broker itself makes a dead letter, because a message expires or somebody
// rejects it, comes to the same queue, with the broker's reason in its Failure.
//
// # Messages
//
// What a message becomes on the wire: its topic is the routing key, ID the
// message-id, Type the type (or, beyond 255 bytes, a header), ContentType the
// content-type, CreatedAt the timestamp in seconds and, in full, the header
// [outbox.HeaderCreatedAt]. The header correlation-id is repeated as property.
// Key, Tenant and Version are headers by the names that the root package gives.
// The history of its failures is in headers by the names that the root package gives,
// and its topic, where the routing key no longer tells it, in [outbox.HeaderTopic].
// Headers to which RabbitMQ gives a meaning of its own (CC, BCC, x-delivery-count,
// x-death and its kin) travel with "outbox-header-" before their names. Position,
// Attempts and LastError do not travel.
package rabbitmq
