package memstore

import (
	"context"
	"time"

	"github.com/outbox-go/outbox/store"
)

// wantedFor is how long a shard is kept for who waits for it, unless asked again.
const wantedFor = 30 * time.Second

// found are the messages of one id, by where they stand.
type found struct {
	scheduled []*stored
	pending   []*row
	dead      bool
	sent      bool
}

// Withdraw takes one step towards deleting the messages of an id.
func (s *Store) Withdraw(ctx context.Context, id, who string) (store.Withdrawal, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.search(id)
	free, doubt := s.askFor(f.pending, who, time.Now())
	switch {
	case f.sent || doubt:
		return store.TooLate, nil
	case f.dead:
		return store.IsDead, nil
	case !free:
		return store.Asked, nil
	case len(f.scheduled)+len(f.pending) == 0:
		return store.Absent, nil
	}
	for _, m := range f.scheduled {
		s.scheduled.remove(m)
	}
	for _, r := range f.pending {
		s.remove(r)
	}
	return store.Withdrawn, nil
}

func (d *data) search(id string) (f found) {
	for m := range d.scheduled.behind(0) {
		if m.row.message.ID == id {
			f.scheduled = append(f.scheduled, m)
		}
	}
	for _, r := range d.pending {
		if r.message.ID == id {
			f.pending = append(f.pending, r)
		}
	}
	for m := range d.dead.behind(0) {
		f.dead = f.dead || m.row.message.ID == id
	}
	for m := range d.sent.behind(0) {
		f.sent = f.sent || m.row.message.ID == id
	}
	return f
}

// askFor asks for the shards of rows in somebody's name, and reports whether nobody
// has any of them, and whether one of the rows may have been sent.
func (d *data) askFor(rows []*row, who string, now time.Time) (free, doubt bool) {
	free = true
	for _, r := range rows {
		l := &d.lane(r.message.Route).leases[r.shard]
		if l.wantedBy == "" || l.wantedBy == who || !l.wanted.After(now) {
			l.wantedBy, l.wanted = who, now.Add(wantedFor)
		}
		if l.tx != nil || l.held(now) {
			free = false
			continue
		}
		l.giveUp(now, d.last)
		doubt = doubt || r.position <= l.doubt
	}
	return free, doubt
}

// LetGo gives up the shards that were asked for in this name.
func (s *Store) LetGo(ctx context.Context, who string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lanes {
		for i := range l.leases {
			if lease := &l.leases[i]; lease.wantedBy == who {
				lease.wantedBy, lease.wanted = "", time.Time{}
			}
		}
	}
	return nil
}
