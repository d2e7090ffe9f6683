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
package natsjs
