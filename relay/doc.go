// Package relay drains an outbox: it brings committed messages from a [Store] to
// an [outbox.Publisher] and removes each one once the broker has confirmed it.
//
// A [Relay] owns some of the store's shards by lease and shares them out with the
// other relays. Five loops work on one queue in memory: the reader keeps it ahead
// of the broker, the publisher keeps a window of unconfirmed messages full, the
// settler deletes what was confirmed, the recorder writes down what was refused and
// what is a dead letter, and the lease loop renews, takes over and gives back. Two
// more make scheduled messages pending when they are due and purge the history.
//
//	reader -> queue -> publisher -> broker
//	                       |
//	         settler <- answers -> recorder
//
// Delivery is at least once: a message that the broker has and whose confirm or
// deletion was cut off is sent again, by this relay or another.
package relay
