// Package stomp publishes to and consumes from RabbitMQ by STOMP 1.2
// (https://stomp.github.io/stomp-specification-1.2.html and
// https://www.rabbitmq.com/docs/stomp), for networks where nothing else is spoken and
// for queues that are shared with django-outbox-pattern. Where AMQP can be had, package
// rabbitmq is faster and promises more.
//
//	pub, err := stomp.NewPublisher("stomp://guest:guest@localhost/", nil)
//	sub, err := stomp.NewSubscriber("stomps://user:secret@one.example,two.example:61614/vhost", &stomp.SubscriberConfig{
//		Destination: "/exchange/orders/{topic}",
//	})
//
// The URL names one host or several, which are tried in turn; the ports default to
// 61613 and, with TLS, to 61614, the virtual host to "/". Reserved characters in the
// user's name, the password and the virtual host are percent-encoded. Without a user
// none is sent, for a broker that knows its clients by their certificates. No password
// appears in an error or a log.
//
// # Destinations
//
// Messages go to /topic/{topic}, which is RabbitMQ's exchange amq.topic with the topic
// as routing key, or to what Destination says: /exchange/NAME/{topic} for another
// exchange, which must be there, /queue/NAME for one queue, which is declared without
// arguments, or /amq/queue/NAME for one that is there, as each that a Subscriber declares. Topic patterns are AMQP's own. The header
// stomp-destination of a message has it go elsewhere. A message that no queue is bound
// for is confirmed and dropped; an alternate exchange, which a policy can give to the
// exchange, keeps it.
//
// # Queues
//
// A subscription to the queue billing declares before its first message:
//
//	billing             bound by each of the Topics; its dead letters go to DLQ.billing
//	DLQ.billing         the dead letters of billing
//	RETRY.10s.billing   what waits for at most 10 s for its next attempt
//	RETRY.10m.billing   the same for at most 10 min
//	RETRY.24h.billing   what waits longer
//
// All are durable, and quorum queues unless told otherwise. A queue whose name could be
// that of another one's retries or dead letters, such as DLQ.billing, has "queue."
// before it at the broker. [QueueName] returns the queue for a destination where none is
// named.
//
// A user needs the rights to configure, write and read all of these and those that begin
// with stomp-subscription-, which look whether the exchange can be bound to, and to read
// the exchange. Do not leave out the right to write: RabbitMQ's plugin deletes a queue,
// with all that it has, that may be declared and not bound.
//
// Bindings are made by subscribing, since STOMP knows no other way: each time that
// Subscribe connects, a connection of a moment's length subscribes to the queue by each
// of its topics. What that is handed, one message for each and one more, goes back, and
// comes as redelivered and perhaps behind others. In order the connection that receives
// does it itself, so that nothing goes back.
//
// InOrder has a second queue, ORDER.billing, that is exclusive: RabbitMQ's STOMP knows
// neither exclusive consumers nor x-single-active-consumer. The member that has it
// receives; the others ask for it, at first about once a second and then at least every
// five seconds, each of which the broker logs as an error. They are ready when the first has bound the queue by the same topics, which
// BOUND.HASH.billing tells; a member with other topics is ready when it is its turn.
//
// # Retries and dead letters
//
// [outbox.Retry] sends a copy of the message to a queue where it waits, with a receipt,
// and acknowledges the original. A crash in between leaves both: a message may come
// twice, and is not lost. [outbox.DeadLetter] does the same by DLQ.billing. The copies
// have a connection of their own, opened for the first of them: the broker reads
// nothing more from one that sends while it is short of memory or disk, not even
// acknowledgements.
//
// The broker does not send on by itself what has waited. Each member of the queue keeps
// up to 500 messages of each of its waiting queues and copies them to billing when they
// are due, by the clock of whichever member has them. So nothing is sent on while no
// member runs, and where clocks differ a message comes earlier or later by as much. To
// let a queue expire them would need no member; but RabbitMQ waits for the other queue
// to confirm only with arguments that STOMP cannot give, and one that is killed while
// it moves a message would lose it. When more than 500 wait in one of these queues for
// each member, those behind them come late: each member looks at about 50 a second.
//
// Dead letters are read by a subscription with DeadLetters, be they ours, rejected by
// another client, or expired; STOMP tells of the last two no more than the reason of the
// first time. RetryDelays change nothing. To give up all retries of a kind, purge their queue; do not delete a queue
// that members use, since RabbitMQ confirms what is sent to one that is not there.
//
// # Messages
//
// What a message becomes on the wire: ID is amqp-message-id, the AMQP property
// message-id, Type is type, ContentType content-type, the header correlation-id the
// property; where they exceed 255 bytes, ID and Type are headers by the names that the
// root package gives. So are Topic, Key, Tenant, Version and CreatedAt, and the history
// of failures. Users' headers to which STOMP or RabbitMQ give a meaning (destination,
// receipt, expiration, x-message-ttl and their kin) travel with "outbox-header-" before
// their names. Position, Attempts and LastError do not travel. Package rabbitmq reads
// all of this as its own, and this one reads what that publishes; but of AMQP headers
// RabbitMQ shows texts and integers only.
//
// # django-outbox-pattern
//
// With DOP a publisher adds the headers dop-msg-id, dop-msg-destination, dop-msg-type,
// dop-msg-sent-time and dop-correlation-id, in the formats of django-outbox-pattern
// 3.0.6 (https://pypi.org/project/django-outbox-pattern/), and a subscriber declares its
// queue and DLQ.<queue> with the very same arguments: both are classic queues unless the
// virtual host says otherwise, and QueueHeaders must have what the setting
// DEFAULT_STOMP_QUEUE_HEADERS has besides. Consumers of both kinds may then share them.
// Received messages are always understood: the id is that of cap-msg-id or dop-msg-id,
// and of another broker's message-id if there is no other; RabbitMQ's own names the
// delivery and is none.
//
// # Differences from AMQP
//
//   - An unroutable message is confirmed, not refused.
//   - A queue that refuses a message (overflow reject-publish) makes RabbitMQ's plugin
//     end the connection without a word. A message that meets with that three times,
//     the last time alone, is answered with ErrRefused.
//   - A message that is given back goes to the end of a quorum queue, unless a policy
//     sets a delivery-limit, and to its old place in a classic one. In order it keeps
//     its place in both.
//   - There is no way to stop a subscription and still acknowledge: what arrives while
//     Subscribe waits for its handlers goes back to the queue when it returns.
//   - Acknowledgements are sent singly, if in one write, and the broker parses text: a
//     publisher and a subscriber reach about a third to a half of AMQP's rate.
package stomp
