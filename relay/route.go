package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// Route says which messages take the route of a name. All the conditions that are
// given must hold; a Route without any takes all messages. Several may match a
// message, which then takes each of them, and several may have one name, of which it
// takes one copy.
type Route struct {
	// Name is what the relays of the route are bound to: see [outbox.ValidateRoute]
	// and the stores' method Route. Required.
	Name string

	// Topics are patterns, one of which must match the topic; see
	// [outbox.ValidatePattern].
	Topics []string

	// Tenants are those one of which must be the message's.
	Tenants []string

	// Headers are those that the message must have, with these values.
	Headers map[string]string
}

func (r *Route) takes(m *outbox.Message) bool {
	byTopic := func(pattern string) bool { return outbox.MatchTopic(pattern, m.Topic) }
	if len(r.Topics) > 0 && !slices.ContainsFunc(r.Topics, byTopic) {
		return false
	}
	if len(r.Tenants) > 0 && !slices.Contains(r.Tenants, m.Tenant) {
		return false
	}
	for name, value := range r.Headers {
		if have, ok := m.Headers[name]; !ok || have != value {
			return false
		}
	}
	return true
}

// Match returns a function that names the routes which take a message, in their
// order, for [outbox.WithRoutes]: so a message takes its routes when it is emitted.
// What none takes has none. For those that choose later there is [NewRouter]. What is
// wrong with routes is for [ValidateRoutes] to tell.
func Match(routes []Route) func(m *outbox.Message) []string {
	return func(m *outbox.Message) (names []string) {
		for i := range routes {
			if r := &routes[i]; r.takes(m) && !slices.Contains(names, r.Name) {
				names = append(names, r.Name)
			}
		}
		return names
	}
}

// ValidateRoutes reports all that is wrong with routes.
func ValidateRoutes(routes []Route) error {
	if len(routes) == 0 {
		return errors.New("relay: routes are empty: give at least one")
	}
	var errs []error
	for i, r := range routes {
		if err := outbox.ValidateRoute(r.Name); err != nil {
			errs = append(errs, fmt.Errorf("relay: route %d: Name %q %w", i, r.Name, err))
		}
		for _, pattern := range r.Topics {
			if err := outbox.ValidatePattern(pattern); err != nil {
				errs = append(errs, fmt.Errorf("relay: route %d: Topics has %q, which %w", i, pattern, err))
			}
		}
	}
	return errors.Join(errs...)
}

// NewRouter returns a relay that publishes nothing, but has each message of s take
// the routes that match it, each route with a copy. s is the store of the route that
// all messages take at first; the relays of the others are to be bound to them. What
// no route takes becomes a dead letter for [store.Unrouted], by its topic's policy.
// Config.Transform has a say in which routes those are; what goes there is the stored
// message. Faults of the routes are reported by Run.
func NewRouter(s Store, routes []Route, config *Config) *Relay {
	r := New(s, &router{store: s, match: Match(routes)}, config)
	r.fault = errors.Join(r.fault, ValidateRoutes(routes))
	return r
}

// routerBatch is how many messages a router dispatches at once.
const routerBatch = 500

// router is the publisher of a relay that dispatches. It gathers what is to be
// dispatched until there is no more at the moment.
type router struct {
	store Store
	match func(*outbox.Message) []string

	mu         sync.Mutex
	dispatches []store.Dispatch
	waiting    []func(error) // for the answers to them
	forget     func() bool   // keeps the end of the relay from dispatching them
}

func (r *router) Publish(ctx context.Context, m *outbox.Message, done func(error)) {
	names := r.match(m)
	switch {
	case len(names) == 0:
		done(&reasonError{store.Unrouted, "no route takes it"})
		return
	case slices.Contains(names, m.Route):
		done(&reasonError{store.Unrouted, "route " + m.Route + " leads to itself"})
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.dispatches) == 0 {
		// Nobody flushes after the end.
		r.forget = context.AfterFunc(ctx, func() { _ = r.Flush() })
	}
	r.dispatches = append(r.dispatches, store.Dispatch{Ref: store.Ref{Position: m.Position, ID: m.ID}, Routes: names})
	r.waiting = append(r.waiting, done)
	if len(r.dispatches) == routerBatch {
		r.dispatch()
	}
}

// Flush dispatches what was gathered. How that went is the answer to each message.
func (r *router) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.dispatches) > 0 {
		r.dispatch()
	}
	return nil
}

// Close dispatches what was gathered.
func (r *router) Close() error { return r.Flush() }

// dispatch gives all the same answer: they are dispatched in one transaction.
func (r *router) dispatch() {
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	err := r.store.Dispatch(ctx, r.dispatches)
	if err != nil {
		err = outbox.Unavailable(fmt.Errorf("dispatch to routes: %w", err))
	}
	r.forget()
	waiting := r.waiting
	r.dispatches, r.waiting = nil, nil
	for _, done := range waiting {
		done(err)
	}
}

// reasonError is a publisher's error that names the reason for which the message is
// to become a dead letter. It is an [outbox.ErrInvalid].
type reasonError struct {
	reason store.Reason
	text   string
}

func (e *reasonError) Error() string { return e.text }

func (e *reasonError) Unwrap() error { return outbox.ErrInvalid }

// deathReason returns the reason for which a message with this error becomes a dead
// letter at once, empty if it may be tried again.
func deathReason(err error) store.Reason {
	var named *reasonError
	switch {
	case errors.As(err, &named):
		return named.reason
	case errors.Is(err, outbox.ErrInvalid):
		return store.Invalid
	}
	return ""
}
