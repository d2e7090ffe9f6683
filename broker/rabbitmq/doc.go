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
// What a message becomes on the wire: its topic is the routing key, ID the
// message-id, Type the type (or, beyond 255 bytes, a header), ContentType the
// content-type, CreatedAt the timestamp in seconds and, in full, the header
// [outbox.HeaderCreatedAt]. The header correlation-id is repeated as property.
// Key, Tenant and Version are headers by the names that the root package gives.
// Headers to which RabbitMQ gives a meaning of its own (CC, BCC, x-delivery-count,
// x-death and its kin) travel with "outbox-header-" before their names. Position,
// Attempts and LastError do not travel.
package rabbitmq
