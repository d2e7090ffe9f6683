package natsjs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/outbox-go/outbox"
)

// source is where the messages of a subscription come from.
type source struct {
	stream   string
	consumer string
	prefix   string // before each topic
	dead     bool   // they are dead letters
}

func (b *Broker) source(sub outbox.Subscription) source {
	name := consumerName(sub.Queue)
	if sub.DeadLetters {
		return source{stream: b.deadStream(), consumer: name, prefix: b.deadPrefix(name), dead: true}
	}
	return source{stream: b.config.Stream, consumer: name, prefix: b.config.SubjectPrefix}
}

// topicOf returns the topic of a message.
func (s source) topicOf(msg *nats.Msg) string {
	return strings.TrimPrefix(msg.Subject, s.prefix)
}

// The streams and buckets beside the main stream.
const (
	suffixDead    = "-dead"
	suffixRetries = "-retries"
	// maxStream leaves room for these, and for the KV_ before a bucket's name,
	// in the server's limit of names.
	maxStream = 240
)

func (b *Broker) deadStream() string { return b.config.Stream + suffixDead }
func (b *Broker) bucket() string     { return b.config.Stream + suffixRetries }

// bucketStream is the stream that is the bucket.
func (b *Broker) bucketStream() string { return "KV_" + b.bucket() }

// deadSubjects begins the subjects of all dead letters. It differs from
// SubjectPrefix in the first word, so that it is not among the subjects of the
// main stream even where these are more than SubjectPrefix, as in "orders.>" for
// "orders.eu.".
func (b *Broker) deadSubjects() string {
	first, rest, _ := strings.Cut(b.config.SubjectPrefix, ".")
	return first + suffixDead + "." + rest
}

// deadPrefix begins the subjects of the dead letters of one queue.
func (b *Broker) deadPrefix(consumer string) string {
	return b.deadSubjects() + consumer + "."
}

// keySubject begins the subjects of the entries of one queue in the bucket; the
// sequence of the message in the main stream follows.
func (b *Broker) keySubject(queue string) string {
	return fmt.Sprintf("$KV.%s.%s.", b.bucket(), encodeName(queue, notKeyByte))
}

// maxConsumerName is the server's limit of names.
const maxConsumerName = 255

// consumerName encodes a queue's name: what a consumer's name may not have
// becomes '=' and two hexadecimal digits for each byte. What is too long then is
// cut, and ends with "=-" and a hash.
func consumerName(queue string) string { return encodeName(queue, notConsumerByte) }

func encodeName(name string, taken func(byte) bool) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if c := name[i]; taken(c) {
			fmt.Fprintf(&b, "=%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	if b.Len() <= maxConsumerName {
		return b.String()
	}
	hash := sha256.Sum256([]byte(name))
	end := "=-" + hex.EncodeToString(hash[:16])
	return b.String()[:maxConsumerName-len(end)] + end
}

func notConsumerByte(c byte) bool {
	return strings.IndexByte(`.*>/\=`, c) >= 0 || c <= ' ' || c >= 0x7f
}

// notKeyByte: a key of a bucket may have fewer characters, for clients and tools,
// than the name of a consumer.
func notKeyByte(c byte) bool { return notNameRune(rune(c)) }
