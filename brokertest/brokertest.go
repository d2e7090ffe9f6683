// Package brokertest is the conformance suite for brokers: what every
// [outbox.Publisher] and [outbox.Subscriber] promises, written once. A driver
// runs it whole and declares in which ways its broker differs.
//
//	func TestConformance(t *testing.T) {
//		brokertest.Run(t, func(t *testing.T) brokertest.Broker {
//			b := mybroker.New()
//			return brokertest.Broker{
//				Publisher:  func(t *testing.T) outbox.Publisher { return b.Publisher() },
//				Subscriber: func(t *testing.T) outbox.Subscriber { return b.Subscriber() },
//			}
//		})
//	}
package brokertest

import (
	"testing"
	"time"

	"github.com/outbox-go/outbox"
)

// Broker is one fresh, isolated place at a broker, for one test: what is
// published there is seen by the subscribers of the same Broker alone. Whatever
// it needs is released by t.Cleanup.
type Broker struct {
	// Publisher opens a publisher and Subscriber a subscriber, each with a
	// connection of its own. Several of each may be open at once. The suite
	// closes them. Required.
	Publisher  func(t *testing.T) outbox.Publisher
	Subscriber func(t *testing.T) outbox.Subscriber

	// Features are the declared differences.
	Features Features
}

// Features declares what a broker can do. The zero value claims nothing; what is
// not declared is not tested.
type Features struct {
	// Redelivered: [outbox.Received.Redelivered] is true for a message that was
	// delivered before. It must be false for the first delivery of each message
	// at every broker.
	Redelivered bool

	// Dedup: of two messages with one id, published one soon after the other,
	// both are confirmed and one is delivered.
	Dedup bool

	// Unroutable: a message that no queue collects is answered
	// [outbox.ErrRefused]. At other brokers it is confirmed.
	Unroutable bool

	// MaxPayload is the size in bytes of the greatest payload that the broker
	// takes; one that is twice as large is answered [outbox.ErrInvalid]. Zero
	// means that there is no limit worth a test.
	MaxPayload int

	// AckWait is the time after which the broker delivers a message again of which
	// it hears nothing. The driver must keep it from doing so while a handler works,
	// and the suite looks for twice as long: a driver under test sets it low. Zero
	// means that the broker waits for ever, or for longer than is worth a test.
	AckWait time.Duration

	// Cut breaks every connection that the publishers and subscribers of this
	// Broker have; new ones are possible at once. It needs testing: a driver
	// without it is not tested for what it does when connections break.
	Cut func()

	// Stall keeps all that the publishers send from reaching the broker, with the
	// connections open, until Resume. What was sent meanwhile gets through then,
	// but is lost if Cut comes first. Both or neither.
	Stall, Resume func()
}

// Run runs the whole suite, each test on a Broker of its own made by open, with
// several at a time.
func Run(t *testing.T, open func(t *testing.T) Broker) {
	t.Helper()
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.run != nil {
				c.run(newEnv(t, open(t)))
			} else {
				c.group(t, open)
			}
		})
	}
}

type testCase struct {
	name  string
	run   func(*env)
	group func(t *testing.T, open func(t *testing.T) Broker)
}

func cases() []testCase {
	return []testCase{
		{name: "Fields", run: testFields},
		{name: "PublishOrder", run: testPublishOrder},
		{name: "PublishWithoutQueue", run: testPublishWithoutQueue},
		{name: "Dedup", run: testDedup},
		{name: "Oversized", run: testOversized},
		{name: "CancelledContext", run: testCancelledContext},
		{name: "ClosedPublisher", run: testClosedPublisher},
		{name: "CloseAnswersAll", run: testCloseAnswersAll},

		{name: "Topics", group: testTopics},
		{name: "QueuesGetCopies", run: testQueuesGetCopies},
		{name: "MembersShare", run: testMembersShare},
		{name: "MembersDoNotHoard", run: testMembersDoNotHoard},
		{name: "TopicsAdd", run: testTopicsAdd},
		{name: "QueueNames", run: testQueueNames},
		{name: "InvalidSubscription", run: testInvalidSubscription},
		{name: "DeclaredAtOnce", run: testDeclaredAtOnce},

		{name: "AckRemoves", run: testAckRemoves},
		{name: "RequeueRedelivers", run: testRequeueRedelivers},
		{name: "UnsettledComeBack", run: testUnsettledComeBack},
		{name: "Prefetch", run: testPrefetch},
		{name: "KeptWhileNobodyListens", run: testKeptWhileNobodyListens},
		{name: "EndWaitsForSettled", run: testEndWaitsForSettled},
		{name: "EndGivesBackTheRest", run: testEndGivesBackTheRest},
		{name: "FaultySettlement", run: testFaultySettlement},
		{name: "EndWaitsForMoved", run: testEndWaitsForMoved},
		{name: "SlowHandler", run: testSlowHandler},

		{name: "RetryKeepsAll", run: testRetryKeepsAll},
		{name: "RetryCarriesFailures", run: testRetryCarriesFailures},
		{name: "RetryDelays", run: testRetryDelays},
		{name: "RetryShortPassesLong", run: testRetryShortPassesLong},
		{name: "RetryLetsOthersPass", run: testRetryLetsOthersPass},
		{name: "RetryOneQueueAlone", run: testRetryOneQueueAlone},
		{name: "RetryMany", run: testRetryMany},
		{name: "RetryOutlivesReceiver", run: testRetryOutlivesReceiver},
		{name: "RetryOfLargest", run: testRetryOfLargest},

		{name: "DeadLetterKeepsAll", run: testDeadLetterKeepsAll},
		{name: "DeadLetterCarriesFailures", run: testDeadLetterCarriesFailures},
		{name: "DeadLetterStays", run: testDeadLetterStays},
		{name: "DeadLettersKeptWhileNobodyListens", run: testDeadLettersKeptWhileNobodyListens},
		{name: "DeadLettersApart", run: testDeadLettersApart},
		{name: "DeadLettersShare", run: testDeadLettersShare},
		{name: "DeadLettersBeforeMessages", run: testDeadLettersBeforeMessages},
		{name: "FaultySettlementOfDeadLetters", run: testFaultySettlementOfDeadLetters},

		{name: "InOrder", run: testInOrder},
		{name: "InOrderHandsOver", run: testInOrderHandsOver},
		{name: "InOrderRequeue", run: testInOrderRequeue},
		{name: "InOrderMoves", run: testInOrderMoves},

		{name: "CutWhilePublishing", run: testCutWhilePublishing},
		{name: "CutWhileConsuming", run: testCutWhileConsuming},
		{name: "CutIdle", run: testCutIdle},
		{name: "CutWhileWaiting", run: testCutWhileWaiting},
		{name: "CutWhileRetrying", run: testCutWhileRetrying},
		{name: "CutWhileDying", run: testCutWhileDying},
		{name: "SettleAfterCut", run: testSettleAfterCut},
		{name: "LostIsNotTheNext", run: testLostIsNotTheNext},
		{name: "InOrderCut", run: testInOrderCut},
		{name: "CloseWhileMoving", run: testCloseWhileMoving},
		{name: "StalledRetryThenCut", run: testStalledRetryThenCut},
		{name: "StalledThenCut", run: testStalledThenCut},
		{name: "StalledThenClosed", run: testStalledThenClosed},
		{name: "StalledThenResumed", run: testStalledThenResumed},
	}
}
