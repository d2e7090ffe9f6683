package relay

import (
	"time"

	"github.com/outbox-go/outbox"
)

// Rate is how many messages of the topics that match Pattern, an
// [outbox.ValidatePattern], are sent a second: together, not each.
type Rate struct {
	Pattern   string
	PerSecond float64 // 0.001 to 1,000,000
}

const (
	minRate = 0.001
	maxRate = 1_000_000

	// maxBurst is the time of which what was not sent may be sent later, at once.
	maxBurst = 100 * time.Millisecond
)

// rule keeps to a rate by a bucket of tokens, one for each message.
type rule struct {
	*Rate
	most    float64 // tokens that the bucket holds
	tokens  float64
	at      time.Time // of tokens
	waiting lanes     // items for which there was none
}

func newRule(r *Rate) *rule {
	most := max(1, r.PerSecond*maxBurst.Seconds())
	return &rule{Rate: r, most: most, tokens: most}
}

// ruleFor returns the first rule for a topic, nil if there is none.
func (q *queue) ruleFor(topic string) *rule {
	for _, r := range q.rules {
		if outbox.MatchTopic(r.Pattern, topic) {
			return r
		}
	}
	return nil
}

// allows tells whether there is a token.
func (r *rule) allows(now time.Time) bool {
	if !r.at.IsZero() {
		r.tokens = min(r.most, r.tokens+now.Sub(r.at).Seconds()*r.PerSecond)
	}
	r.at = now
	return r.tokens >= 1
}

// spend takes a token, if there is one.
func (r *rule) spend(now time.Time) bool {
	if !r.allows(now) {
		return false
	}
	r.tokens--
	return true
}

// next returns how long until there is a token.
func (r *rule) next(now time.Time) time.Duration {
	if r.allows(now) {
		return time.Nanosecond
	}
	return time.Duration((1-r.tokens)/r.PerSecond*float64(time.Second)) + time.Microsecond
}

// hold lets an item wait for its rule, out of the others' way.
func (q *queue) hold(it *item) {
	it.queued, it.held = true, true
	it.rule.waiting.pushBack(it)
	q.wakeForRoom()
}

// forgetHeld gives up half of what waits for a rate, the last ones first.
func (q *queue) forgetHeld(over func() bool, may func(*item) bool) {
	for _, r := range q.rules {
		if r.waiting.len() == 0 || !over() {
			continue
		}
		keep := r.waiting.len() / 2
		// By then those that are kept are sent.
		due := time.Now().Add(time.Duration(min(float64(keep)/r.PerSecond, maxReread.Seconds()) * float64(time.Second)))
		n := 0
		r.waiting.filter(func(it *item) bool {
			n++
			return n <= keep || !may(it) || !q.forgetItem(it, due)
		})
	}
}
