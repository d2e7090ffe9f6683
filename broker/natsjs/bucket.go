package natsjs

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox"
)

// ensureBucket makes or checks the key-value bucket that keeps the failures of
// messages that are retried: the server can deliver a message later, but not with
// something added. It returns the greatest sequence for which the queue has an
// entry.
func (b *Broker) ensureBucket(ctx context.Context, c *conn, main jetstream.StreamConfig, queue string) (uint64, error) {
	stream, err := b.makeStream(ctx, c, b.bucketConfig(main), `create it, as the key-value bucket "`+b.bucket()+`",`)
	if err != nil {
		return 0, err
	}
	have := stream.CachedInfo().Config
	if err := checkStream(have, b.bucketConfig(main).Subjects[0], "delete it: it is no bucket"); err != nil {
		return 0, err
	}
	prefix := b.keySubject(queue)
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return 0, b.apiError("look up the entries in stream "+have.Name, err)
	}
	last := uint64(0)
	for subject := range info.State.Subjects {
		if n, err := strconv.ParseUint(strings.TrimPrefix(subject, prefix), 10, 64); err == nil {
			last = max(last, n)
		}
	}
	return last, nil
}

// bucketConfig is what the client and the nats tool make for a bucket with a
// history of one and the main stream's age: an entry is made after its message
// and so outlives it.
func (b *Broker) bucketConfig(main jetstream.StreamConfig) jetstream.StreamConfig {
	window := 2 * time.Minute
	if main.MaxAge > 0 {
		window = min(window, main.MaxAge)
	}
	return jetstream.StreamConfig{
		Name:              b.bucketStream(),
		Description:       "failures of retried messages of a transactional outbox",
		Subjects:          []string{"$KV." + b.bucket() + ".>"},
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardNew,
		Storage:           jetstream.FileStorage,
		MaxAge:            main.MaxAge,
		MaxBytes:          -1,
		MaxMsgs:           -1,
		MaxMsgSize:        -1,
		MaxConsumers:      -1,
		MaxMsgsPerSubject: 1,
		Replicas:          main.Replicas,
		Duplicates:        window,
		AllowRollup:       true,
		DenyDelete:        true,
		AllowDirect:       true,
	}
}

// entry is what the bucket keeps of a message that is to be retried.
type entry struct {
	Failure map[string]string `json:"failure"` // as headers

	// Of which message, by which consumer: when a stream or a consumer is made
	// anew it counts from one again, and old entries must not be taken for
	// those of other messages.
	Stored   time.Time `json:"message_stored"`
	Consumer time.Time `json:"consumer_created"`

	Due        time.Time     `json:"due"`
	Delay      time.Duration `json:"delay"`
	Deliveries int           `json:"deliveries"` // how many there had been

	revision uint64 // of the entry in the bucket, once it was read
}

// maxEarly is how often a message is sent back that comes before its time. It is
// of use once or twice; clocks that disagree must not keep a message away.
const maxEarly = 3

// early returns by how much a delivery comes before the delay of its retry is
// over, zero if it does not. It may, with a server that was restarted, since that
// keeps time in whole seconds, and forgets the last tenth of a second if it was
// killed; and when the consumer's AckWait, from which the server counts delays,
// was made shorter meanwhile.
func (d *delivery) early() time.Duration {
	if d.entry == nil || d.times > d.entry.Deliveries+maxEarly {
		return 0
	}
	return max(0, min(time.Until(d.entry.Due), d.entry.Delay))
}

func (c *consumption) keyOf(p position) string {
	return c.broker.keySubject(c.sub.Queue) + strconv.FormatUint(p.sequence, 10)
}

// entryFor returns the message for the bucket that keeps f.
func (c *consumption) entryFor(l *link, d *delivery, delay time.Duration, f *outbox.Failure) *nats.Msg {
	body, err := json.Marshal(entry{
		Failure: f.Headers(), Stored: d.stored, Consumer: l.created, Due: time.Now().Add(delay).UTC(), Delay: delay, Deliveries: d.times,
	})
	if err != nil {
		panic(err) // strings, times and numbers can always be encoded
	}
	return &nats.Msg{
		Subject: c.keyOf(d.position), Data: body,
		Header: nats.Header{headerExpectedStream: {c.broker.bucketStream()}},
	}
}

// readEntry returns the entry in the body of an answer of the server's, nil if
// there is none for this message.
func readEntry(body []byte, p position, consumer time.Time) (*entry, error) {
	var answer struct {
		Error *struct {
			ErrorCode   int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
		Message *struct {
			Sequence uint64 `json:"seq"`
			Data     []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("natsjs: the answer is not JetStream's: %w", err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == codeNoMessage:
		return nil, nil
	case answer.Error != nil && answer.Error.ErrorCode == codeNoStream:
		return nil, errNoBucket
	case answer.Error != nil:
		return nil, fmt.Errorf("natsjs: %s (code %d)", answer.Error.Description, answer.Error.ErrorCode)
	case answer.Message == nil:
		return nil, fmt.Errorf("natsjs: the answer is not JetStream's: it has no message")
	}
	e := &entry{revision: answer.Message.Sequence}
	if json.Unmarshal(answer.Message.Data, e) != nil || !e.Stored.Equal(p.stored) || !e.Consumer.Equal(consumer) {
		return nil, nil // deleted by hand, or of another message
	}
	return e, nil
}
