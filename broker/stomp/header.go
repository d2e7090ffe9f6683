package stomp

import (
	"strings"

	"github.com/outbox-go/outbox"
)

// Headers of STOMP 1.2, and those that RabbitMQ adds to it: see
// https://www.rabbitmq.com/docs/stomp.
const (
	headerAck          = "ack"
	headerContentType  = "content-type"
	headerDestination  = "destination"
	headerID           = "id"
	headerMessageID    = "message-id"
	headerReceipt      = "receipt"
	headerReceiptID    = "receipt-id"
	headerRedelivered  = "redelivered"
	headerSubscription = "subscription"
	headerTransaction  = "transaction"

	headerAMQPMessageID = "amqp-message-id" // the AMQP property message-id
	headerAutoDelete    = "auto-delete"
	headerDurable       = "durable"
	headerExclusive     = "exclusive"
	headerPersistent    = "persistent"
	headerPrefetch      = "prefetch-count"
	headerQueueName     = "x-queue-name"
	headerRequeue       = "requeue"
	headerTimestamp     = "timestamp"
	headerType          = "type"
	headerExpiration    = "expiration"
	headerUserID        = "user-id"

	headerQueueType          = "x-queue-type"
	headerDeadLetterExchange = "x-dead-letter-exchange"
	headerDeadLetterKey      = "x-dead-letter-routing-key"
	headerDeliveryCount      = "x-delivery-count"
	headerFirstDeath         = "x-first-death-"
)

// headerEscape is put before the names of headers that STOMP or RabbitMQ give a
// meaning to, and is taken off on receipt.
const headerEscape = outbox.HeaderPrefix + "header-"

// special reports whether a broker acts on, or writes, the header of that name in a
// SEND or MESSAGE frame. RabbitMQ takes a part of them for properties of AMQP, whose
// values have types, and a part for arguments of a queue. It also drops messages by
// what it finds in x-death, and closes the channel for a CC that is a text.
func special(name string) bool {
	switch name {
	case headerAck, "content-encoding", "content-length", headerContentType, headerDestination, headerID, headerMessageID,
		headerReceipt, headerReceiptID, headerRedelivered, headerSubscription, headerTransaction,
		headerAMQPMessageID, "app-id", headerAutoDelete, headerDurable, headerExclusive, headerExpiration, headerPersistent,
		headerPrefetch, "priority", "reply-to", "selector", headerTimestamp, headerType, headerUserID,
		"CC", "BCC":
		return true
	}
	return strings.HasPrefix(name, "x-") && queueHeader(name)
}

// queueHeader reports whether a header that begins with "x-" is RabbitMQ's.
func queueHeader(name string) bool {
	switch name {
	case "x-death", headerDeliveryCount, "x-expires", "x-message-ttl", "x-overflow", "x-single-active-consumer", "x-delivery-limit":
		return true
	}
	for _, prefix := range [...]string{headerFirstDeath, "x-last-death-", "x-dead-letter-", "x-max-", "x-queue-", "x-stream-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// transport reports whether the header of that name in a MESSAGE frame tells of this
// delivery, or how the sender declared a queue, and nothing of the message.
func transport(name string) bool {
	switch name {
	case headerAck, "content-length", headerDestination, headerMessageID, headerReceipt, headerRedelivered, headerSubscription,
		headerTransaction, headerAutoDelete, headerDurable, headerExclusive, headerPersistent, headerPrefetch, headerDeliveryCount:
		return true
	}
	return strings.HasPrefix(name, "x-") && queueHeader(name) && !strings.HasPrefix(name, headerFirstDeath)
}
