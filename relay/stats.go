package relay

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// Stats are a relay's own figures: counts since it was made, and how things stand.
type Stats struct {
	Confirmed   int64 // messages that the broker confirmed
	Failed      int64 // answers that were not a confirm
	Refused     int64 // of these: answers of the broker, and messages that could not be sent
	Unavailable int64 // of these: the broker was away
	Settled     int64 // messages deleted from the store
	Dead        int64 // messages that became dead letters
	Expired     int64 // of these: for their time had passed

	Shards int // owned now
	Relays int // alive now, this one included; like all below zero when Run has returned

	InFlight     int       // sent and not answered
	Window       int       // how many may be
	Waiting      int       // in memory, and waiting for another attempt, a rate or the end of a pause
	BrokerDown   bool      // the relay probes whether the broker is back
	Outages      int64     // times that the broker went away, since Run was called
	LastProgress time.Time // something was confirmed, deleted or recorded, or there was nothing to do until then
}

type stats struct {
	confirmed, refused, unavailable, settledN, dead, expired atomic.Int64

	shards, relays atomic.Int64
}

func (s *stats) answered(err error) {
	switch {
	case err == nil:
		s.confirmed.Add(1)
	case errors.Is(err, outbox.ErrUnavailable):
		s.unavailable.Add(1)
	default:
		s.refused.Add(1)
	}
}

func (s *stats) settled(n int) { s.settledN.Add(int64(n)) }

func (s *stats) died(reason store.Reason) {
	s.dead.Add(1)
	if reason == store.Expired {
		s.expired.Add(1)
	}
}

func (s *stats) leased(shards, relays int) {
	s.shards.Store(int64(shards))
	s.relays.Store(int64(relays))
}

// Stats returns the relay's figures. It may be called at any time.
func (r *Relay) Stats() Stats {
	stats := Stats{
		Confirmed:   r.stats.confirmed.Load(),
		Refused:     r.stats.refused.Load(),
		Unavailable: r.stats.unavailable.Load(),
		Settled:     r.stats.settledN.Load(),
		Dead:        r.stats.dead.Load(),
		Expired:     r.stats.expired.Load(),
		Shards:      int(r.stats.shards.Load()),
		Relays:      int(r.stats.relays.Load()),
	}
	stats.Failed = stats.Refused + stats.Unavailable
	if q := r.current.Load(); q != nil {
		q.fill(&stats)
	}
	return stats
}

func (q *queue) fill(s *Stats) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s.InFlight, s.Window, s.Waiting = q.inFlight, q.config.Window, len(q.timers)
	for _, r := range q.rules {
		s.Waiting += r.waiting.len()
	}
	s.BrokerDown, s.Outages, s.LastProgress = q.breaker.down, q.breaker.outages, q.progress
}
