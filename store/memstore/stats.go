package memstore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// Stats counts.
func (s *Store) Stats(ctx context.Context) (store.Stats, error) {
	if err := ctx.Err(); err != nil {
		return store.Stats{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	now := time.Now()
	stats := store.Stats{
		Pending:   int64(len(s.pending)),
		Scheduled: int64(s.scheduled.len()),
		Dead:      int64(s.dead.len()),
		Kept:      int64(s.sent.len()),
		Pauses:    s.allPauses(),
	}
	s.countPending(&stats, now)
	for m := range s.dead.behind(0) {
		stats.OldestDead = max(stats.OldestDead, now.Sub(m.at))
	}
	for route, l := range s.lanes {
		stats.ParkedKeys += int64(len(l.parked))
		for _, m := range l.relays {
			if m.expires.After(now) {
				stats.Relays = append(stats.Relays, s.info(route, m, now))
			}
		}
	}
	slices.SortFunc(stats.Relays, func(a, b store.RelayInfo) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return stats, nil
}

func (d *data) countPending(stats *store.Stats, now time.Time) {
	routes := map[string]*store.RouteStats{}
	for _, r := range d.pending {
		route := routes[r.message.Route]
		if route == nil {
			route = &store.RouteStats{Route: r.message.Route}
			routes[route.Route] = route
		}
		age := now.Sub(born(&r.message))
		route.Pending++
		route.Oldest = max(route.Oldest, age)
		stats.Oldest = max(stats.Oldest, age)
		switch {
		case r.blocked:
			stats.Blocked++
		case r.retryIn(now) > 0:
			stats.Waiting++
		}
	}
	for _, route := range routes {
		stats.Routes = append(stats.Routes, *route)
	}
	slices.SortFunc(stats.Routes, func(a, b store.RouteStats) int { return cmp.Compare(a.Route, b.Route) })
}

// born is when a message was created, or was to be sent if it was scheduled.
func born(m *outbox.Message) time.Time {
	if m.DeliverAt.After(m.CreatedAt) {
		return m.DeliverAt
	}
	return m.CreatedAt
}

func (d *data) info(route string, m *member, now time.Time) store.RelayInfo {
	return store.RelayInfo{
		ID: m.owner, Name: m.name, Route: route, Rate: m.rate, Since: m.since.UTC(), Left: m.expires.Sub(now),
		Shards: d.lane(route).owned(m.owner, d.shards, nil).Len(),
	}
}
