// Package work is the work that every system is measured with: a backlog that is
// drained, and emitters at a steady rate. Messages, judge and consumer are those of
// the measurements of outbox itself.
package work

import (
	"errors"
	"fmt"
	"time"

	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/internal/measure"
)

// Prefetch is the consumer's.
const Prefetch = 2000

// Settings say what work is done, and where.
type Settings struct {
	DatabaseURL string `json:"-"`
	BrokerURL   string `json:"-"`

	// Name is that of the schema, the exchange and the queue of the run.
	Name string `json:"-"`

	Messages  int                `json:"messages"` // with steady: Rate * Duration
	Keys      int                `json:"keys"`     // 0 for messages without keys
	Payload   int                `json:"payload_bytes"`
	QueueType rabbitmq.QueueType `json:"queue_type"`

	// Topics is over how many topics Watermill's messages are spread by their keys, each
	// with a forwarder of its own.
	Topics int `json:"topics"`

	// Window is how many messages a relay that has a window leaves unanswered.
	Window int `json:"window"`

	Rate     float64       `json:"rate,omitempty"` // of all emitters together, a second
	Duration time.Duration `json:"duration_ns,omitempty"`
	WarmUp   time.Duration `json:"warm_up_ns,omitempty"` // the part of Duration whose latencies do not count
	Emitters int           `json:"emitters,omitempty"`

	// Hold is how long the share HoldShare of the transactions waits before its commit.
	Hold      time.Duration `json:"hold_ns,omitempty"`
	HoldShare float64       `json:"hold_share,omitempty"`

	// HoldSnapshot has another session hold a snapshot from before the first message
	// to the end.
	HoldSnapshot bool `json:"hold_snapshot"`

	// Process has the relay run in a process of its own.
	Process bool `json:"relay_process"`

	Raw        bool `json:"raw,omitempty"`        // of the bare loop to JetStream
	Properties bool `json:"properties,omitempty"` // of the bare loop to RabbitMQ: what a relay sends beside the payload

	Timeout time.Duration `json:"-"` // how long the run may take from the relay's start
}

// Load returns what the messages are like.
func (s *Settings) Load() measure.Load {
	return measure.Load{Messages: s.Messages, Keys: s.Keys, Payload: s.Payload}
}

// Validate completes the settings and names all their faults.
func (s *Settings) Validate(steady bool) error {
	var errs []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	fault(s.BrokerURL == "", "--broker-url is missing, give it or set PEER_BROKER_URL")
	fault(s.Keys < 0, "--keys is %d, want 0 for none or more", s.Keys)
	fault(s.Payload < measure.MinPayload, "--payload is %d, want %d bytes or more", s.Payload, measure.MinPayload)
	fault(s.QueueType != rabbitmq.Quorum && s.QueueType != rabbitmq.Classic, "--queue-type is %q, want quorum or classic", s.QueueType)
	fault(s.Topics < 1, "--topics is %d, want 1 or more", s.Topics)
	fault(s.Window < 1, "--window is %d, want 1 or more", s.Window)
	if steady {
		fault(!(s.Rate > 0), "--rate is %v, want more than 0", s.Rate)
		fault(s.Duration <= 0, "--duration is %v, want more than 0", s.Duration)
		fault(s.WarmUp < 0, "--warm-up is %v, want 0 or more", s.WarmUp)
		fault(s.Emitters < 1, "--emitters is %d, want 1 or more", s.Emitters)
		fault(s.Hold < 0, "--hold is %v, want 0 or more", s.Hold)
		fault(s.HoldShare < 0 || s.HoldShare > 1, "--hold-share is %v, want 0 to 1", s.HoldShare)
		s.Messages = int(s.Rate * (s.WarmUp + s.Duration).Seconds())
	}
	number := "--messages"
	if steady {
		number = "--rate times --duration"
	}
	fault(s.Messages < 1, "%s is %d, want 1 or more", number, s.Messages)
	return errors.Join(errs...)
}
