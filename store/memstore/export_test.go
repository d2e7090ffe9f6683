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

// AgeSent moves the time at which all messages of the history were sent into the
// past.
func (s *Store) AgeSent(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for m := range s.sent.behind(0) {
		m.at = m.at.Add(-by)
	}
}
