package relay

import (
	"math/rand/v2"
	"time"

	"github.com/outbox-go/outbox"
)

// breaker holds publishing back while the broker is unavailable: until all that
// was sent is answered and a time has passed, which grows; then one message probes.
type breaker struct {
	least, most time.Duration

	down    bool
	probing bool // what is sent now decides
	backoff time.Duration
	probeAt time.Time
	since   time.Time // it is down
	reason  error     // of the last failure
	outages int64
}

// availability is a change that a breaker noticed.
type availability uint8

const (
	unchanged availability = iota
	wentAway
	cameBack
)

// limit returns how many messages may be sent of room, and how long until that
// changes by itself.
func (b *breaker) limit(room, inFlight int, now time.Time) (int, time.Duration) {
	switch {
	case !b.down:
		return room, 0
	case inFlight > 0:
		return 0, 0
	case now.Before(b.probeAt):
		return 0, b.probeAt.Sub(now)
	}
	b.probing = true
	return min(room, 1), 0
}

// worked notes that the broker answered.
func (b *breaker) worked() availability {
	if !b.down || !b.probing {
		return unchanged
	}
	b.down, b.probing = false, false
	return cameBack
}

// failed notes that the broker did not answer.
func (b *breaker) failed(err error, now time.Time) availability {
	b.reason = err
	switch {
	case !b.down:
		b.down, b.backoff, b.since = true, b.least, now
		b.outages++
		b.wait(err, now)
		return wentAway
	case b.probing:
		b.backoff = min(2*b.backoff, b.most)
		b.wait(err, now)
	}
	return unchanged
}

func (b *breaker) wait(err error, now time.Time) {
	b.probing = false
	b.probeAt = now.Add(max(min(rand.N(2*b.backoff), b.most), asked(err)))
}

// maxAsked bounds the time that a broker may ask for.
const maxAsked = time.Hour

// asked returns how long the broker asked to be left alone, by err.
func asked(err error) time.Duration { return min(outbox.DelayOf(err), maxAsked) }
