package admin

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// Filter chooses messages: those that meet all its conditions.
type Filter struct {
	// All is needed to change all messages, with no condition beside it: nobody
	// redrives all by accident, nor by an empty Tenant, Key or Route alone. Lists do
	// not need it.
	All bool

	IDs    []string     // only with one of these ids
	Topic  string       // only of topics that match this pattern; empty for any
	Tenant *string      // only of this tenant, empty for none
	Key    *string      // only of this key, empty for none
	Route  *string      // only of this route, empty for the way of all
	Reason store.Reason // only dead letters for this reason

	// Before and After limit the time at which a message became a dead letter, or
	// was sent; of other messages, at which it was emitted. Zero for no limit.
	Before, After time.Time

	// Waiting limits pending messages to those that were refused and wait, or are
	// blocked.
	Waiting bool

	// NoPayload leaves payloads out.
	NoPayload bool
}

// ErrNoCondition is returned for a filter that would change all messages without
// saying so.
var ErrNoCondition = errors.New("admin: the filter has no condition but empty names: set one, or All to mean all messages")

// conditions returns the names of those that are set.
func (f *Filter) conditions() []string {
	var names []string
	for _, c := range [...]struct {
		name string
		set  bool
	}{
		{"IDs", len(f.IDs) > 0}, {"Topic", f.Topic != ""}, {"Tenant", f.Tenant != nil}, {"Key", f.Key != nil}, {"Route", f.Route != nil},
		{"Reason", f.Reason != ""}, {"Before", !f.Before.IsZero()}, {"After", !f.After.IsZero()},
	} {
		if c.set {
			names = append(names, c.name)
		}
	}
	return names
}

// explicit reports a filter that does not say whether it means all.
func (f *Filter) explicit() error {
	names := f.conditions()
	switch {
	case f.All && len(names) > 0:
		return fmt.Errorf("admin: All is set beside %v: leave out one of them", names)
	case !f.All && len(names) == f.empty():
		return ErrNoCondition
	}
	return nil
}

// empty returns how many conditions are of the empty name, which most messages have.
func (f *Filter) empty() (n int) {
	for _, name := range [...]*string{f.Tenant, f.Key, f.Route} {
		if name != nil && *name == "" {
			n++
		}
	}
	return n
}

// reasons that a dead letter can have.
var reasons = []store.Reason{store.Exhausted, store.Invalid, store.Expired, store.Parked, store.Unrouted}

// Validate reports all that is wrong with the filter.
func (f *Filter) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf("admin: "+format, args...)) }
	for _, id := range f.IDs {
		if _, err := parseID(id); err != nil {
			fault("%w", err)
		}
	}
	if f.Topic != "" {
		if err := outbox.ValidatePattern(f.Topic); err != nil {
			fault("topic %q %w", f.Topic, err)
		}
	}
	if f.Route != nil && *f.Route != "" {
		if err := outbox.ValidateRoute(*f.Route); err != nil {
			fault("route %q %w", *f.Route, err)
		}
	}
	if f.Reason != "" && !slices.Contains(reasons, f.Reason) {
		fault("reason %q is unknown: use one of %v", f.Reason, reasons)
	}
	if !f.Before.IsZero() && !f.After.IsZero() && !f.After.Before(f.Before) {
		fault("After %s is not before Before %s: nothing is between them", f.After.Format(time.RFC3339), f.Before.Format(time.RFC3339))
	}
	return errors.Join(errs...)
}

func parseID(id string) (string, error) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return "", fmt.Errorf("id %q is not a UUID", id)
	}
	return parsed.String(), nil
}

// queries returns what to ask the store, which knows neither patterns nor times.
func (f *Filter) queries(state store.State) ([]store.Query, error) {
	err := f.Validate()
	if f.Reason != "" && state != store.Dead {
		err = errors.Join(err, fmt.Errorf("admin: reason %q is given for %s messages: dead ones alone have one", f.Reason, state))
	}
	if err != nil {
		return nil, err
	}
	q := store.Query{
		State: state, Limit: chunk, Tenant: f.Tenant, Key: f.Key, Route: f.Route, Reason: f.Reason,
		Waiting: f.Waiting && state == store.Pending, NoPayload: f.NoPayload,
	}
	if len(f.IDs) == 0 {
		return []store.Query{q}, nil
	}
	var ids []string
	for _, id := range f.IDs {
		id, _ = parseID(id)
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	var queries []store.Query
	for part := range slices.Chunk(ids, chunk) {
		q.IDs = part
		queries = append(queries, q)
	}
	return queries, nil
}

// matches looks at what the store was not asked for.
func (f *Filter) matches(row *store.Stored) bool {
	at := row.At
	if row.State == store.Pending || row.State == store.Scheduled {
		at = row.CreatedAt
	}
	return (f.Topic == "" || outbox.MatchTopic(f.Topic, row.Topic)) &&
		(f.Before.IsZero() || at.Before(f.Before)) && (f.After.IsZero() || at.After(f.After))
}
