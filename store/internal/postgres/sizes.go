package postgres

import (
	"sync/atomic"

	"github.com/outbox-go/outbox/store"
)

// sizes remembers what the last page was like, for the next one.
type sizes struct {
	rows  atomic.Int64
	bytes atomic.Int64 // of a row; 0 until there was one
}

func (s *sizes) note(rows, bytes int) {
	s.rows.Store(int64(rows))
	if rows > 0 {
		s.bytes.Store(int64(bytes / rows))
	}
}

// bound lowers the limit of rows to what MaxBytes has room for: the server sends all
// that it is asked for, what is beyond in vain.
func (s *sizes) bound(r *store.ReadRequest) {
	if each := s.bytes.Load(); each > 0 && r.MaxBytes > 0 {
		r.Limit = int(min(int64(r.Limit), int64(r.MaxBytes)/each+1))
	}
}

// room returns a slice for about as many rows as came last.
func (s *sizes) room(r store.ReadRequest) []store.Row {
	if n := min(int(s.rows.Load()), r.Limit); n > 0 {
		return make([]store.Row, 0, n+1)
	}
	return nil
}
