package rabbitmq

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
)

// rung is a delay that has a queue of its own, where messages wait for it: a queue
// whose messages had different delays would hold short ones behind long ones, since
// it expires them at its head alone.
type rung time.Duration

// commonRungs are declared when the first message needs them, for delays that are
// not in RetryDelays. Each is so much greater than the one before that few steps
// make up any delay.
var commonRungs = [...]rung{
	rung(100 * time.Millisecond), rung(time.Second), rung(10 * time.Second),
	rung(time.Minute), rung(10 * time.Minute), rung(time.Hour),
}

// minSlack is the least by which a message may be late for the sake of fewer
// steps: about what a step itself takes on a busy machine.
const minSlack = 20 * time.Millisecond

// rungOf returns the rung for d, in whole milliseconds, not less than d.
func rungOf(d time.Duration) rung {
	return rung((d + time.Millisecond - 1).Truncate(time.Millisecond))
}

// retryRungs returns the rungs for delays, each once, in their order.
func retryRungs(delays []time.Duration) []rung {
	rungs := make([]rung, len(delays))
	for i, d := range delays {
		rungs[i] = rungOf(d)
	}
	slices.Sort(rungs)
	return slices.Compact(rungs)
}

func (r rung) milliseconds() int64 { return time.Duration(r).Milliseconds() }

// String returns the duration without units that are zero: 1m, not 1m0s.
func (r rung) String() string {
	text := time.Duration(r).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	return strings.Replace(text, "h0m", "h", 1)
}

// ladder are the rungs that a message can be sent to, in their order.
type ladder []rung

// newLadder returns the rungs of s, with the common ones if they can be declared.
func newLadder(s *outbox.Subscription, topology Topology) ladder {
	own := retryRungs(s.RetryDelays)
	if topology == CheckOnly {
		return own
	}
	least := rung(time.Second)
	if len(own) > 0 {
		least = min(least, own[0])
	}
	all := slices.Clone(own)
	for _, r := range commonRungs {
		if r >= least {
			all = append(all, r)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// pick returns the rung for a message that is to come in d: the rung of d, else
// the greatest after which it does not come late by more than half of the smallest.
// One that comes too early is sent on.
func (l ladder) pick(d time.Duration) (rung, error) {
	if len(l) == 0 {
		return 0, fmt.Errorf("rabbitmq: there is no queue to delay messages in: the subscription has no RetryDelays, and Topology is CheckOnly")
	}
	if _, ok := slices.BinarySearch(l, rungOf(d)); ok {
		return rungOf(d), nil
	}
	slack := max(time.Duration(l[0])/2, minSlack)
	picked := l[0]
	for _, r := range l {
		if time.Duration(r) <= d+slack {
			picked = r
		}
	}
	return picked, nil
}

// headerRetryAt is when a message is to come that must go through several delay
// queues: RFC 3339, by the clock of the worker that asked for it.
const headerRetryAt = outbox.HeaderPrefix + "retry-at"

// untilRetry returns how much longer a message with that header has to wait; not
// more than any delay can be, whatever the clocks say.
func untilRetry(header any, now time.Time) time.Duration {
	text, _ := header.(string)
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return 0
	}
	return min(at.Sub(now), outbox.MaxRetryDelay)
}
