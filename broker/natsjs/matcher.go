package natsjs

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox"
)

// judgement is whether a queue collects a topic.
type judgement int

const (
	wanted judgement = iota
	unwanted
	unknown
)

// matcher decides about messages whose subject the consumer's filters match but
// whose topic the queue may not collect.
type matcher struct {
	exact    bool // the consumer's filters leave nothing to decide
	patterns []string
	asOf     time.Time
}

// newMatcher returns what a consumer's configuration, as it was at a time, says.
func (s source) newMatcher(config *jetstream.ConsumerConfig, asOf time.Time) *matcher {
	f := &matcher{patterns: s.collected(config), asOf: asOf}
	_, f.exact = filtersOf(s.prefix, f.patterns)
	return f
}

// judge says whether the queue collects topic. A message is thrown away only by
// what the queue collects after it arrived: another member may have added topics
// since we looked.
func (f *matcher) judge(topic string, arrived time.Time) judgement {
	if f.exact {
		return wanted
	}
	for _, pattern := range f.patterns {
		if outbox.MatchTopic(pattern, topic) {
			return wanted
		}
	}
	if f.asOf.After(arrived) {
		return unwanted
	}
	return unknown
}
