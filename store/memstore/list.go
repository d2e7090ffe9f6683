package memstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/outbox-go/outbox/store"
)

// List returns messages of one state, by place.
func (s *Store) List(ctx context.Context, q store.Query) ([]store.Stored, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	f := &filter{query: &q, ids: setOf(q.IDs), now: time.Now()}
	switch q.State {
	case store.Pending:
		return f.pending(s.pending), nil
	case store.Scheduled:
		return f.shelved(&s.scheduled), nil
	case store.Dead:
		return f.shelved(&s.dead), nil
	case store.Sent:
		return f.shelved(&s.sent), nil
	}
	return nil, fmt.Errorf("memstore: list messages: State %q is none: use pending, scheduled, dead or sent", q.State)
}

// filter chooses the messages that a query asks for.
type filter struct {
	query *store.Query
	ids   map[string]struct{}
	now   time.Time
}

func (f *filter) pending(all map[int64]*row) []store.Stored {
	var rows []*row
	for position, r := range all {
		if position > f.query.After && f.wants(r) && (!f.query.Waiting || r.retryIn(f.now) > 0) && f.query.Reason == "" {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b *row) int { return cmp.Compare(a.position, b.position) })
	rows = rows[:min(len(rows), f.query.Limit)]
	list := make([]store.Stored, len(rows))
	for i, r := range rows {
		list[i] = store.Stored{Row: r.out(f.now), State: store.Pending, Place: r.position}
		f.trim(&list[i])
	}
	return list
}

func (f *filter) shelved(shelf *shelf) []store.Stored {
	var list []store.Stored
	for m := range shelf.behind(f.query.After) {
		if len(list) >= f.query.Limit {
			break
		}
		if !f.wants(m.row) || f.query.Reason != "" && m.reason != f.query.Reason {
			continue
		}
		list = append(list, store.Stored{
			Row:   store.Row{Message: m.row.message, Shard: m.row.shard},
			State: f.query.State, Place: m.place, Reason: m.reason, Parked: m.parked,
		})
		last := &list[len(list)-1]
		if !m.at.IsZero() {
			last.At = m.at.UTC()
		}
		f.trim(last)
	}
	return list
}

func (f *filter) wants(r *row) bool {
	q := f.query
	if _, named := f.ids[r.message.ID]; !named && f.ids != nil {
		return false
	}
	return (q.Tenant == nil || r.message.Tenant == *q.Tenant) &&
		(q.Key == nil || r.message.Key == *q.Key) &&
		(q.Route == nil || r.message.Route == *q.Route)
}

func (f *filter) trim(m *store.Stored) {
	if f.query.NoPayload {
		m.Payload = nil
	}
}
