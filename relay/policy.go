package relay

import (
	"fmt"

	"github.com/outbox-go/outbox"
)

// TopicPolicy says what becomes of the messages of topics that match Pattern, an
// [outbox.ValidatePattern], once they are out of attempts or can never be sent.
type TopicPolicy struct {
	Pattern string
	Policy  Policy
}

// Policy is what becomes of a message that is out of attempts or can never be sent,
// and of those behind it.
type Policy uint8

// Policies. Park is Skip for a message without a key.
const (
	Skip  Policy = iota // it becomes a dead letter, and its successors are sent
	Park                // it becomes a dead letter, and its successors join it until all of the key are redriven or discarded
	Block               // it stays, and its successors wait, until somebody retries or withdraws it
)

// String returns the policy's name, in lower case.
func (p Policy) String() string {
	switch p {
	case Skip:
		return "skip"
	case Park:
		return "park"
	case Block:
		return "block"
	}
	return fmt.Sprintf("policy %d", uint8(p))
}

// ParsePolicy returns the policy of a name.
func ParsePolicy(name string) (Policy, error) {
	for _, p := range []Policy{Skip, Park, Block} {
		if p.String() == name {
			return p, nil
		}
	}
	return 0, fmt.Errorf("relay: policy %q is none: use skip, park or block", name)
}

// policyFor returns the policy of the first pattern that matches topic.
func policyFor(policies []TopicPolicy, topic string) Policy {
	for _, p := range policies {
		if outbox.MatchTopic(p.Pattern, topic) {
			return p.Policy
		}
	}
	return Skip
}
