package memstore

import "time"

// AgeInbox moves the time of all rows of the inbox into the past.
func (s *Store) AgeInbox(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.inbox.rows {
		s.inbox.rows[i].at = s.inbox.rows[i].at.Add(-by)
	}
}
