package stomp

import (
	"time"

	"github.com/outbox-go/outbox"
)

// tier is a queue where messages wait for their next attempt. A member of the queue
// keeps the first of them until they are due, and sends them on.
//
// A queue that expires its messages into another one would need no member, and be
// more exact. But RabbitMQ does not wait for that other queue to confirm them unless
// it is told so by an argument that STOMP cannot give, and then a broker that is
// killed at the wrong time loses what has waited.
type tier struct {
	name string
	most time.Duration // what is due later waits in the next one
}

var tiers = [...]tier{{"10s", 10 * time.Second}, {"10m", 10 * time.Minute}, {"24h", outbox.MaxRetryDelay}}

// tierFor returns the tier of what has to wait for d.
func tierFor(d time.Duration) tier {
	for _, t := range tiers {
		if d <= t.most {
			return t
		}
	}
	return tiers[len(tiers)-1]
}

// queue returns the name of the tier of queue.
func (t tier) queue(queue string) string { return retryPrefix + t.name + "." + queue }

const (
	// tierPrefetch is how many messages of a tier a member keeps.
	tierPrefetch = 500
	// longHold is how long it keeps them at most: what is not due then goes to the end
	// of its tier, or to the next lower one. RabbitMQ closes the channel of whoever
	// has a message unacknowledged for 30 minutes.
	longHold = 10 * time.Minute
	// shortHold takes its place while a member has all that it may keep, so that what
	// is due sooner comes to the front.
	shortHold = 10 * time.Second
)

// headerRetryAt is when a message that waits is due: RFC 3339, by the clock of the
// worker that asked for it.
const headerRetryAt = outbox.HeaderPrefix + "retry-at"

// dueAt returns when a message with that header is due; not later than any delay can
// be, whatever the clocks say, and now if the header is none.
func dueAt(header string, now time.Time) time.Time {
	at, err := time.Parse(time.RFC3339Nano, header)
	if err != nil {
		return now
	}
	if latest := now.Add(outbox.MaxRetryDelay); at.After(latest) {
		return latest
	}
	return at
}
