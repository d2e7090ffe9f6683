package natsjs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox"
)

// Names in a consumer's metadata.
const (
	metaTopics = "outbox-topics" // JSON: the patterns that the queue collects
	metaQueue  = "outbox-queue"  // the queue's name, which the consumer's name encodes
)

// pinGroup is the priority group of a consumer that keeps to one member.
const pinGroup = "members"

// ensureConsumer makes or checks the durable consumer of a subscription, so that
// it collects patterns among others.
func (b *Broker) ensureConsumer(ctx context.Context, c *conn, src source, sub outbox.Subscription) (*jetstream.ConsumerInfo, error) {
	patterns := sub.Topics
	if src.dead {
		patterns = []string{"#"}
	}
	for {
		have, err := c.js.Consumer(ctx, src.stream, src.consumer)
		switch {
		case err == nil:
			info := have.CachedInfo()
			if err := checkConsumer(&info.Config, src, sub.InOrder); err != nil {
				return nil, err
			}
			known := src.collected(&info.Config)
			all := union(known, patterns)
			if len(all) == len(known) {
				return info, nil
			}
			if b.config.Topology == CheckOnly {
				return nil, missingTopics(src, all[len(known):])
			}
			// Look again afterwards: another member may have added its own at
			// the same moment, over ours.
			changed := b.consumerConfig(info.Config, src, sub, all)
			if _, err := c.js.UpdateConsumer(ctx, src.stream, changed); err != nil {
				return nil, b.apiError("add topics to consumer "+src.consumer, err)
			}
		case !errors.Is(err, jetstream.ErrConsumerNotFound):
			return nil, b.apiError("look up consumer "+src.consumer, err)
		case b.config.Topology == CheckOnly:
			return nil, &topologyError{
				what: fmt.Sprintf("consumer %q of stream %q, for queue %q, does not exist", src.consumer, src.stream, sub.Queue),
				hint: "create it as a durable pull consumer with explicit acknowledgement, or let Config.Topology be Declare",
			}
		default:
			fresh := b.consumerConfig(jetstream.ConsumerConfig{}, src, sub, patterns)
			_, err := c.js.CreateConsumer(ctx, src.stream, fresh)
			if err != nil && !errors.Is(err, jetstream.ErrConsumerExists) {
				return nil, b.apiError("create consumer "+src.consumer, err)
			}
		}
	}
}

// checkConsumer refuses a consumer that cannot be what a queue is.
func checkConsumer(have *jetstream.ConsumerConfig, src source, inOrder bool) error {
	fault := func(reason, hint string) error {
		return &topologyError{what: fmt.Sprintf("consumer %q of stream %q %s", src.consumer, src.stream, reason), hint: hint}
	}
	switch {
	case have.AckPolicy != jetstream.AckExplicitPolicy || have.DeliverSubject != "":
		return fault("is not a pull consumer with explicit acknowledgement", "delete it, or use a queue of another name")
	case have.MaxDeliver > 0:
		return fault(fmt.Sprintf("gives a message up after %d deliveries", have.MaxDeliver), "set its max_deliver to -1")
	case len(have.BackOff) > 0:
		return fault("has a backoff of its own", "take it away: the delay of a retry would not be kept")
	case inOrder && have.MaxAckPending != 1:
		return fault(fmt.Sprintf("does not keep order: its max_ack_pending is %d", have.MaxAckPending),
			"stop all members and set it to 1, or let none of them ask for InOrder")
	case !inOrder && have.MaxAckPending == 1:
		return fault("keeps order: its max_ack_pending is 1", "stop all members and set it to -1, or let all of them ask for InOrder")
	case src.dead && !src.collectsOnlyOwn(have):
		return fault("collects more than the dead letters of its queue", fmt.Sprintf("set its filter subject to %q", src.prefix+">"))
	}
	return nil
}

func (s source) collectsOnlyOwn(c *jetstream.ConsumerConfig) bool {
	subjects := filterSubjects(c)
	return len(subjects) > 0 && !slices.ContainsFunc(subjects, func(subject string) bool { return !covers(s.prefix+">", subject) })
}

func missingTopics(src source, missing []string) error {
	return &topologyError{
		what: fmt.Sprintf("consumer %q of stream %q does not collect %q", src.consumer, src.stream, missing),
		hint: "add them to its filter subjects, or let Config.Topology be Declare",
	}
}

// consumerConfig returns base with what a queue needs. MaxAckPending counts all
// members together: it is off, since each member limits what it asks for, or 1,
// which is what keeps order: nothing follows a message that is not acknowledged,
// wherever that is. Such a consumer also stays with one member for as long as
// that asks for more; servers before 2.11 do not know of this, and deal the
// messages out in turn.
func (b *Broker) consumerConfig(base jetstream.ConsumerConfig, src source, sub outbox.Subscription, patterns []string) jetstream.ConsumerConfig {
	c := base
	if c.Durable == "" {
		c.Durable = src.consumer
		c.Description = "queue of a transactional outbox"
		c.DeliverPolicy = jetstream.DeliverAllPolicy
		c.AckPolicy = jetstream.AckExplicitPolicy
		c.MaxDeliver = -1
		c.MaxAckPending = -1
		if sub.InOrder {
			c.MaxAckPending = 1
			c.PriorityPolicy, c.PriorityGroups = jetstream.PriorityPolicyPinned, []string{pinGroup}
		}
	}
	c.AckWait = b.config.AckWait
	if c.PriorityPolicy == jetstream.PriorityPolicyPinned {
		c.PinnedTTL = min(c.AckWait, 2*pullExpires)
	}
	c.FilterSubject = ""
	c.FilterSubjects, _ = filtersOf(src.prefix, patterns)
	encoded, err := json.Marshal(patterns)
	if err != nil {
		panic(err) // strings can always be encoded
	}
	c.Metadata = map[string]string{metaTopics: string(encoded), metaQueue: sub.Queue}
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
func (s source) collected(c *jetstream.ConsumerConfig) []string {
	var patterns []string
	if json.Unmarshal([]byte(c.Metadata[metaTopics]), &patterns) == nil && len(patterns) > 0 {
		return patterns
	}
	subjects := filterSubjects(c)
	if len(subjects) == 0 {
		return []string{"#"}
	}
	for _, subject := range subjects {
		if covers(subject, s.prefix+">") {
			return []string{"#"}
		}
		topic, ok := strings.CutPrefix(subject, s.prefix)
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

func filterSubjects(c *jetstream.ConsumerConfig) []string {
	if c.FilterSubject != "" {
		return []string{c.FilterSubject}
	}
	return c.FilterSubjects
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
