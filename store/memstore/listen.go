package memstore

import (
	"context"
	"slices"
	"sync"
)

// listeners are the channels of those who listen. Each holds one wake-up, so
// that many become one.
type listeners struct {
	mu       sync.Mutex
	channels []chan struct{}
}

// Wake tells the listeners that messages were committed.
func (s *Store) Wake() { s.listeners.wake() }

func (l *listeners) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.channels {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Listen calls wake after each commit of messages, several commits in one where
// they come fast, until ctx ends.
func (s *Store) Listen(ctx context.Context, wake func()) error {
	c := make(chan struct{}, 1)
	s.listeners.mu.Lock()
	s.listeners.channels = append(s.listeners.channels, c)
	s.listeners.mu.Unlock()
	defer func() {
		s.listeners.mu.Lock()
		defer s.listeners.mu.Unlock()
		s.listeners.channels = slices.DeleteFunc(s.listeners.channels, func(other chan struct{}) bool { return other == c })
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c:
			wake()
		}
	}
}
