package outbox

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"sync"
)

// Spread returns a publisher that shares messages out among publishers, of which
// there is at least one and each has a connection of its own: those of one tenant
// and key always go to the same one, and so in their order, those without a key to
// any, but to the same one again. It pays where one connection is the limit, not the
// broker.
//
// How many messages are unanswered is limited by the caller, for all together. While
// a connection is down its messages are answered with [ErrUnavailable]: nothing of a
// key moves to another connection, where it could overtake what is still on its way.
// The other connections still take messages, but a relay mostly stands until all are
// back, since it takes one such answer to mean that the broker is away, and tries
// again with what was answered so. Close closes all.
func Spread(publishers ...Publisher) Publisher {
	if len(publishers) == 1 {
		return publishers[0]
	}
	return &spread{publishers: publishers, seed: maphash.MakeSeed()}
}

type spread struct {
	publishers []Publisher
	seed       maphash.Seed
}

func (s *spread) Publish(ctx context.Context, m *Message, done func(error)) {
	s.publishers[s.pick(m)].Publish(ctx, m, done)
}

func (s *spread) pick(m *Message) int {
	// By its id, since whoever refused it may have to be asked again.
	by := cmp.Or(m.Key, m.ID)
	hash := maphash.String(s.seed, by)
	if m.Tenant != "" {
		hash = hash*31 + maphash.String(s.seed, m.Tenant)
	}
	return int(hash % uint64(len(s.publishers))) //nolint:gosec // less than the length
}

// Flush implements [Flusher].
func (s *spread) Flush() error {
	var errs []error
	for _, p := range s.publishers {
		if f, ok := p.(Flusher); ok {
			errs = append(errs, f.Flush())
		}
	}
	return errors.Join(errs...)
}

// Close closes all at once: each may wait for its broker.
func (s *spread) Close() error {
	errs := make([]error, len(s.publishers))
	var closing sync.WaitGroup
	for i, p := range s.publishers {
		closing.Go(func() { errs[i] = p.Close() })
	}
	closing.Wait()
	return errors.Join(errs...)
}
