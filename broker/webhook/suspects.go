package webhook

import (
	"slices"
	"sync"
)

// maxSuspects bounds the messages that are remembered.
const maxSuspects = 10_000

// suspects are the messages that the server did not answer, or a proxy in its place:
// that may be about the server, or about the message which it hangs or falls over.
// Who fails so again, when another has succeeded in the meantime, is to blame.
type suspects struct {
	mu        sync.Mutex
	successes int            // of other messages and these
	seen      map[string]int // successes, by id, when it last failed so
	order     []string       // the ids of seen, and some that are not in it any more
}

// has reports whether a message is one: it is not put into a batch with others.
func (s *suspects) has(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.seen[id]
	return ok
}

// clear takes note that messages have succeeded.
func (s *suspects) clear(ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.successes++
	for _, id := range ids {
		delete(s.seen, id)
	}
}

// blame takes note that messages were not answered, and reports whether that is one's
// own fault; of several it cannot be told whose.
func (s *suspects) blame(ids ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, again := s.seen[ids[0]]
	for _, id := range ids {
		s.add(id)
	}
	return len(ids) == 1 && again && s.successes > before
}

func (s *suspects) add(id string) {
	if s.seen == nil {
		s.seen = make(map[string]int)
	}
	if _, ok := s.seen[id]; !ok {
		s.order = append(s.order, id)
	}
	s.seen[id] = s.successes
	if len(s.order) > maxSuspects {
		s.forget()
	}
}

// forget drops the older half, and what has succeeded.
func (s *suspects) forget() {
	for _, id := range s.order[:len(s.order)/2] {
		delete(s.seen, id)
	}
	s.order = slices.DeleteFunc(slices.Clone(s.order[len(s.order)/2:]), func(id string) bool {
		_, ok := s.seen[id]
		return !ok
	})
}
