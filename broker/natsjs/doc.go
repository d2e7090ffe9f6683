// Package natsjs publishes to and consumes from NATS JetStream.
//
// All messages go into one stream, each under the subject that is the prefix and
// its topic. The id of a message is its Nats-Msg-Id, so that the server drops
// what a relay sends twice within the stream's duplicate window. Type, version,
// key, tenant and creation time travel in the headers that package outbox names,
// the content type in Content-Type.
//
// A queue is a durable pull consumer. A new one begins at the stream's first
// message: what was published before its first subscriber came is not lost, as
// long as the stream still has it. The stream keeps messages by age, whether they
// were consumed or not; see [Config.MaxAge].
//
// # What there is at the server
//
// With the default configuration, and a queue called "billing":
//
//	stream    outbox             outbox.>                       the messages
//	consumer  outbox > billing                                  the queue
//	stream    outbox-dead        outbox-dead.>                  dead letters of all queues
//	consumer  outbox-dead > billing, outbox-dead.billing.>      those of the queue, once somebody asks for them
//	stream    KV_outbox-retries  $KV.outbox-retries.>           the bucket outbox-retries: failures of retried messages
//
// Publishers need the first stream alone. A subscriber makes or checks both
// streams and the bucket, and then the consumer, before it receives the first
// message. With [CheckOnly] its error names all that is missing. The consumers are
// pull consumers with explicit acknowledgement and no greatest number of
// deliveries.
//
// # Retries
//
// A message that is retried stays where it is in the stream, and the server
// delivers it again after the delay, of any length. Its failure, which the stored
// message cannot carry, is put into the bucket before: an entry under the queue's
// name and the message's sequence, JSON, for as long as the stream keeps a
// message, deleted when the message is acknowledged or dead. Only what was
// delivered before is looked up there. Neither Requeue nor a lost connection, nor
// a member that dies, is an attempt, however often the server says that it has
// delivered the message.
//
// The delay outlives the server, also where that is killed: what comes too early
// then, the subscriber sends back. A message that waits grows older, and is gone
// when it is older than [Config.MaxAge]. Without its entry, if somebody purges the
// bucket, a message counts as never tried.
//
// # Dead letters
//
// A dead letter is a copy, with the headers of its failure (outbox-attempts,
// outbox-reason and so on) and its id in outbox-id. Its Nats-Msg-Id tells the
// queue, and the message's sequence and time in the main stream: what dies twice
// within [Config.DuplicateWindow], because a member died in between, is one dead
// letter. The stream has the retention of a work queue and keeps them until they
// are acknowledged by a subscription with DeadLetters, or for
// [Config.DeadLetterMaxAge]. A message that is so great that the failure would
// make it too great for the server dies without reason and handler; one that
// leaves less than some hundred bytes cannot die: to settle it so is an error. One
// that somebody publishes again, to the main stream, is new to all queues.
//
//	nats stream subjects outbox-dead     # how many there are of which queue and topic
//	nats stream view outbox-dead         # look at them; takes none away
//	nats kv ls outbox-retries            # the messages that have failed and are not done with
//
// # Order
//
// A subscription with InOrder has a consumer with max_ack_pending 1: one message of
// the queue at a time, whichever Prefetch the members have, and the next when it is
// acknowledged or dead. Nothing is overtaken: not what was given back, not what a
// member had that is gone, which comes to another one after [Config.AckWait], and
// not what waits for a retry: that holds the queue up for its delay. The consumer
// is also pinned to one member (priority policy pinned_client), while the others
// stand by; servers before 2.11 do not know that, and deal the messages out in
// turn, one at a time all the same. An existing consumer is not changed from one
// kind to the other: members that disagree get an error at the start.
package natsjs
