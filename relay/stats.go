package relay

import "sync/atomic"

// Stats are a relay's own figures since it was made.
type Stats struct {
	Confirmed int64 // messages that the broker confirmed
	Failed    int64 // answers that were not a confirm, unavailable ones included
	Settled   int64 // messages deleted from the store
	Shards    int   // owned now
	Relays    int   // alive now, this one included; like Shards zero when Run has returned
}

type stats struct {
	confirmed, failed, settledN atomic.Int64
	shards, relays              atomic.Int64
}

func (s *stats) answered(err error) {
	if err == nil {
		s.confirmed.Add(1)
	} else {
		s.failed.Add(1)
	}
}

func (s *stats) settled(n int) { s.settledN.Add(int64(n)) }

func (s *stats) leased(shards, relays int) {
	s.shards.Store(int64(shards))
	s.relays.Store(int64(relays))
}

// Stats returns the relay's figures. It may be called at any time.
func (r *Relay) Stats() Stats {
	return Stats{
		Confirmed: r.stats.confirmed.Load(),
		Failed:    r.stats.failed.Load(),
		Settled:   r.stats.settledN.Load(),
		Shards:    int(r.stats.shards.Load()),
		Relays:    int(r.stats.relays.Load()),
	}
}
