package natsjs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// topologyError is something that is missing or wrong at the server and that
// waiting does not mend.
type topologyError struct {
	what string
	hint string
}

func (e *topologyError) Error() string { return "natsjs: " + e.what + ": " + e.hint }

// Names in a consumer's metadata.
const (
	metaTopics = "outbox-topics" // JSON: the patterns that the queue collects
	metaQueue  = "outbox-queue"  // the queue's name, which the consumer's name encodes
)

// ensureStream makes or checks the stream.
func (b *Broker) ensureStream(ctx context.Context, c *conn) error {
	for {
		stream, err := c.js.Stream(ctx, b.config.Stream)
		if err == nil {
			return b.checkStream(stream.CachedInfo().Config)
		}
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return b.apiError("look up stream "+b.config.Stream, err)
		}
		if b.config.Topology == CheckOnly {
			return &topologyError{
				what: fmt.Sprintf("stream %q does not exist", b.config.Stream),
				hint: fmt.Sprintf("create it with the subject %q, or let Config.Topology be Declare", b.config.SubjectPrefix+">"),
			}
		}
		_, err = c.js.CreateStream(ctx, b.streamConfig())
		if err == nil {
			return nil
		}
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // else somebody was faster: check theirs
			return b.apiError("create stream "+b.config.Stream, err)
		}
	}
}

func (b *Broker) streamConfig() jetstream.StreamConfig {
	maxBytes := b.config.MaxBytes
	if maxBytes == 0 {
		maxBytes = -1
	}
	return jetstream.StreamConfig{
		Name:        b.config.Stream,
		Description: "messages of a transactional outbox",
		Subjects:    []string{b.config.SubjectPrefix + ">"},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		Storage:     jetstream.FileStorage,
		MaxAge:      b.config.MaxAge,
		MaxBytes:    maxBytes,
		MaxMsgs:     -1,
		Replicas:    b.config.Replicas,
		Duplicates:  b.config.DuplicateWindow,
	}
}

func (b *Broker) checkStream(have jetstream.StreamConfig) error {
	want := b.config.SubjectPrefix + ">"
	if !slices.ContainsFunc(have.Subjects, func(subject string) bool { return covers(subject, want) }) {
		return &topologyError{
			what: fmt.Sprintf("stream %q collects %q, not %q", have.Name, have.Subjects, want),
			hint: "add the subject, or change Config.Stream or Config.SubjectPrefix",
		}
	}
	if have.NoAck {
		return &topologyError{
			what: fmt.Sprintf("stream %q does not acknowledge what it stores", have.Name),
			hint: "turn its no_ack off: nothing could be confirmed",
		}
	}
	return nil
}

// ensureConsumer makes or checks the durable consumer of a queue, so that it
// collects patterns among others, and returns its configuration.
func (b *Broker) ensureConsumer(ctx context.Context, c *conn, queue string, patterns []string) (*jetstream.ConsumerConfig, error) {
	name := consumerName(queue)
	for {
		have, err := c.js.Consumer(ctx, b.config.Stream, name)
		switch {
		case err == nil:
			config := &have.CachedInfo().Config
			known := b.collected(config)
			all := union(known, patterns)
			if len(all) == len(known) {
				return config, b.checkConsumer(config)
			}
			if b.config.Topology == CheckOnly {
				return nil, missingTopics(name, b.config.Stream, all[len(known):])
			}
			// Look again afterwards: another member may have added its own at
			// the same moment, over ours.
			changed := b.consumerConfig(*config, queue, all)
			if _, err := c.js.UpdateConsumer(ctx, b.config.Stream, changed); err != nil {
				return nil, b.apiError("add topics to consumer "+name, err)
			}
		case !errors.Is(err, jetstream.ErrConsumerNotFound):
			return nil, b.apiError("look up consumer "+name, err)
		case b.config.Topology == CheckOnly:
			return nil, &topologyError{
				what: fmt.Sprintf("consumer %q of stream %q, for queue %q, does not exist", name, b.config.Stream, queue),
				hint: "create it as a durable pull consumer with explicit acknowledgement, or let Config.Topology be Declare",
			}
		default:
			fresh := b.consumerConfig(jetstream.ConsumerConfig{}, queue, patterns)
			_, err := c.js.CreateConsumer(ctx, b.config.Stream, fresh)
			if err != nil && !errors.Is(err, jetstream.ErrConsumerExists) {
				return nil, b.apiError("create consumer "+name, err)
			}
		}
	}
}

// checkConsumer refuses a consumer that cannot be what a queue is.
func (b *Broker) checkConsumer(have *jetstream.ConsumerConfig) error {
	if have.AckPolicy != jetstream.AckExplicitPolicy || have.DeliverSubject != "" {
		return &topologyError{
			what: fmt.Sprintf("consumer %q of stream %q is not a pull consumer with explicit acknowledgement", have.Durable, b.config.Stream),
			hint: "delete it, or use a queue of another name",
		}
	}
	return nil
}

func missingTopics(name, stream string, missing []string) error {
	return &topologyError{
		what: fmt.Sprintf("consumer %q of stream %q does not collect %q", name, stream, missing),
		hint: "add them to its filter subjects, or let Config.Topology be Declare",
	}
}

// consumerConfig returns base with what a queue needs. MaxAckPending, which would
// count all members together, is off: each member limits what it asks for.
func (b *Broker) consumerConfig(base jetstream.ConsumerConfig, queue string, patterns []string) jetstream.ConsumerConfig {
	c := base
	if c.Durable == "" {
		c.Durable = consumerName(queue)
		c.Description = "queue of a transactional outbox"
		c.DeliverPolicy = jetstream.DeliverAllPolicy
		c.AckPolicy = jetstream.AckExplicitPolicy
		c.MaxDeliver = -1
		c.MaxAckPending = -1
	}
	c.AckWait = b.config.AckWait
	c.FilterSubject = ""
	c.FilterSubjects, _ = filtersOf(b.config.SubjectPrefix, patterns)
	encoded, err := json.Marshal(patterns)
	if err != nil {
		panic(err) // strings can always be encoded
	}
	c.Metadata = map[string]string{metaTopics: string(encoded), metaQueue: queue}
	for key, value := range base.Metadata {
		// The server's own entries begin so and must not be sent back.
		if key != metaTopics && key != metaQueue && !strings.HasPrefix(key, "_nats.") {
			c.Metadata[key] = value
		}
	}
	return c
}

// collected returns the patterns of a consumer: those written down, or, where
// somebody else made it, what its filters mean.
func (b *Broker) collected(c *jetstream.ConsumerConfig) []string {
	var patterns []string
	if json.Unmarshal([]byte(c.Metadata[metaTopics]), &patterns) == nil && len(patterns) > 0 {
		return patterns
	}
	subjects := c.FilterSubjects
	if c.FilterSubject != "" {
		subjects = []string{c.FilterSubject}
	}
	if len(subjects) == 0 {
		return []string{"#"}
	}
	for _, subject := range subjects {
		if covers(subject, b.config.SubjectPrefix+">") {
			return []string{"#"}
		}
		topic, ok := strings.CutPrefix(subject, b.config.SubjectPrefix)
		if !ok {
			continue // of another publisher
		}
		if words, ok := strings.CutSuffix(topic, ">"); ok {
			topic = words + "*.#"
		}
		patterns = append(patterns, topic)
	}
	return patterns
}

// union returns a with those of b that a lacks. A pattern that another covers
// counts as there.
func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, pattern := range b {
		if !slices.Contains(out, pattern) && !slices.Contains(out, "#") {
			out = append(out, pattern)
		}
	}
	return out
}

// apiError wraps what the server answered to a question about the topology.
func (b *Broker) apiError(what string, err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) && api.Code < 500 {
		return &topologyError{what: what, hint: api.Description}
	}
	return unavailable(what, err)
}

// consumerName encodes a queue's name: what a consumer's name may not have
// becomes '=' and two hexadecimal digits for each byte.
func consumerName(queue string) string {
	var b strings.Builder
	for i := 0; i < len(queue); i++ {
		if c := queue[i]; strings.IndexByte(`.*>/\=`, c) >= 0 || c <= ' ' || c >= 0x7f {
			fmt.Fprintf(&b, "=%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
