package relay

import "time"

// sweep begins the shards anew, so that rows are found which did not come in the
// usual way, if nothing is on its way and every stream has come to the end: then it
// costs little and repeats nothing. A shard of which much waits has its turn less
// often.
func (q *queue) sweep() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.quiet() {
		return
	}
	for i := range q.shards {
		s := &q.shards[i]
		rows := s.held + s.cut + s.forgotten.rows
		after := max(q.config.SweepInterval/2, time.Duration(rows)*rereadPerRow)
		if s.owned && s.fate == keep && time.Since(s.begun) >= after {
			q.drop(s, restart)
		}
	}
	q.dropVoid()
}

func (q *queue) quiet() bool {
	for _, st := range q.streams {
		if st.more && (st.key == nil || !st.key.waits(time.Now())) {
			return false
		}
	}
	return q.idle() && q.fresh == 0
}
