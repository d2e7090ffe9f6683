package memstore

import (
	"container/heap"
	"context"
	"time"

	"github.com/outbox-go/outbox/store"
)

// schedule keeps committed messages until they are due.
func (d *data) schedule(messages []*stored) {
	for _, m := range messages {
		d.scheduled.insert(m)
		heap.Push(&d.due, m)
	}
}

// Promote makes up to limit scheduled messages pending that are due, in the order
// in which they are due.
func (s *Store) Promote(ctx context.Context, limit int) (store.Promotion, error) {
	if err := ctx.Err(); err != nil {
		return store.Promotion{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var rows []*row
	for m := s.due.first(); m != nil && len(rows) < limit && !m.row.message.DeliverAt.After(now); m = s.due.first() {
		heap.Pop(&s.due)
		s.scheduled.remove(m)
		s.position(m.row)
		rows = append(rows, m.row)
	}
	s.commit(rows)
	p := store.Promotion{Moved: len(rows), Next: store.Never}
	if m := s.due.first(); m != nil {
		p.Next = m.row.message.DeliverAt.Sub(now)
	}
	return p, nil
}

// Dispatch replaces pending messages by a copy for each of their routes.
func (s *Store) Dispatch(ctx context.Context, dispatches []store.Dispatch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows []*row
	for i := range dispatches {
		r := s.find(dispatches[i].Ref)
		if r == nil {
			continue
		}
		was := s.remove(r)
		for _, route := range dispatches[i].Routes {
			c := &row{message: was.message}
			c.message.Route = route
			c.message.Attempts, c.message.LastError = 0, ""
			s.position(c)
			rows = append(rows, c)
		}
	}
	s.commit(rows)
	if len(rows) > 0 {
		s.Wake()
	}
	return nil
}
