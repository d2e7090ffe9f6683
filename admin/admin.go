// Package admin is how people look at an outbox and mend it: it lists, shows and
// exports messages, redrives and discards dead letters, retries and cancels what
// is pending. It does with many messages, by a [Filter], what [store.Admin] does
// with single ones; each store is one.
//
//	a := admin.New(store)
//	n, err := a.Redrive(ctx, admin.Filter{Topic: "order.#", Reason: store.Exhausted})
package admin

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// chunk is how many messages are read, or written in one transaction.
const chunk = 500

// Admin looks at a store and mends it. It is safe for concurrent use, also while
// relays run; make it with [New].
type Admin struct {
	store store.Admin
}

// New returns an Admin of s.
func New(s store.Admin) *Admin { return &Admin{store: s} }

// List returns the messages in a state that the filter lets through, in the order
// of the state: of pending ones that of sending, of the others that in which they
// came to be in it. An empty filter is of all. It reads 500 at a time while the
// caller goes on; the first error is the last pair.
func (a *Admin) List(ctx context.Context, state store.State, f Filter) iter.Seq2[store.Stored, error] {
	return func(yield func(store.Stored, error) bool) {
		queries, err := f.queries(state)
		if err != nil {
			yield(store.Stored{}, err)
			return
		}
		for _, q := range queries {
			if !a.page(ctx, q, f, yield) {
				return
			}
		}
	}
}

// page hands out what q asks for, page by page, and reports whether to go on.
func (a *Admin) page(ctx context.Context, q store.Query, f Filter, yield func(store.Stored, error) bool) bool {
	for {
		rows, err := a.store.List(ctx, q)
		if err != nil {
			yield(store.Stored{}, fmt.Errorf("admin: list %s messages: %w", q.State, err))
			return false
		}
		for _, row := range rows {
			if f.matches(&row) && !yield(row, nil) {
				return false
			}
		}
		if len(rows) < q.Limit {
			return true
		}
		q.After = rows[len(rows)-1].Place
	}
}

// states in which a message may be, in the order of its life.
var states = []store.State{store.Scheduled, store.Pending, store.Dead, store.Sent}

// Show returns the message of that id from every place where it is: there are
// several if it takes several routes, and none if it is unknown, or was sent and
// is not kept.
func (a *Admin) Show(ctx context.Context, id string) ([]store.Stored, error) {
	var found []store.Stored
	for _, state := range states {
		for row, err := range a.List(ctx, state, Filter{IDs: []string{id}}) {
			if err != nil {
				return nil, err
			}
			found = append(found, row)
		}
	}
	return found, nil
}

// Redrive makes the dead letters that the filter lets through pending again, with
// their ids and their places in the order, and returns how many. With one of a
// parked key go all of that key, in one transaction and whether the filter lets
// them through or not. It concerns those that are dead letters when it begins. An
// empty filter is refused: say All.
//
// It works in chunks of 500; after an error those before it are done, and the
// number says how many at least.
func (a *Admin) Redrive(ctx context.Context, f Filter) (int, error) {
	return a.bury(ctx, f, "redrive", a.store.Redrive)
}

// Discard deletes the dead letters that the filter lets through and returns how
// many. When the last of a parked key goes, the key's later messages are sent
// again. Otherwise it is as [Admin.Redrive].
func (a *Admin) Discard(ctx context.Context, f Filter) (int, error) {
	return a.bury(ctx, f, "discard", a.store.Discard)
}

// bury does something to dead letters. The places are read first: what was
// redriven and dies again at once has a new one, and would never come to an end.
func (a *Admin) bury(ctx context.Context, f Filter, operation string, do func(context.Context, []int64) (int, error)) (int, error) {
	f.NoPayload = true
	return inChunks(ctx, a, store.Dead, f, operation, func(row *store.Stored) int64 { return row.Place }, do)
}

// Retry makes pending messages due that the filter lets through and that wait for
// another attempt, or are blocked, with no attempts counted, and returns how many.
// An empty filter is refused: say All. It works in chunks, as [Admin.Redrive].
func (a *Admin) Retry(ctx context.Context, f Filter) (int, error) {
	f.NoPayload, f.Waiting = true, true
	ref := func(row *store.Stored) store.Ref { return store.Ref{Position: row.Position, ID: row.ID} }
	return inChunks(ctx, a, store.Pending, f, "retry", ref, a.store.Retry)
}

// inChunks reads what the filter lets through and does something to it.
func inChunks[T any](
	ctx context.Context, a *Admin, state store.State, f Filter, operation string,
	name func(*store.Stored) T, do func(context.Context, []T) (int, error),
) (total int, err error) {
	if err := f.explicit(); err != nil {
		return 0, err
	}
	var all []T
	for row, err := range a.List(ctx, state, f) {
		if err != nil {
			return 0, err
		}
		all = append(all, name(&row))
	}
	for len(all) > 0 {
		n, err := do(ctx, all[:min(chunk, len(all))])
		if total += n; err != nil {
			return total, fmt.Errorf("admin: %s: %w", operation, err)
		}
		all = all[min(chunk, len(all)):]
	}
	return total, nil
}

const (
	cancelPause = 100 * time.Millisecond
	letGoTime   = 5 * time.Second
)

// Cancel deletes the message of that id, on all its routes, if it was not sent and
// cannot have been, and says what it came to: [store.Withdrawn] is the one answer
// that means cancelled. While a relay has the message it is asked to give it back,
// which takes some seconds; if ctx ends before, Cancel returns [store.Asked] and
// the reason, and the message stays.
func (a *Admin) Cancel(ctx context.Context, id string) (w store.Withdrawal, err error) {
	id, err = parseID(id)
	if err != nil {
		return "", fmt.Errorf("admin: %w", err)
	}
	who := "cancel-" + uuid.NewString()
	defer func() {
		// The relays need not wait for what nobody wants any more.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), letGoTime)
		defer cancel()
		if goErr := a.store.LetGo(ctx, who); goErr != nil {
			err = errors.Join(err, fmt.Errorf("admin: cancel: let go: %w", goErr))
		}
	}()
	for {
		w, err = a.store.Withdraw(ctx, id, who)
		if err != nil {
			return w, fmt.Errorf("admin: cancel: %w", err)
		}
		if w != store.Asked {
			return w, nil
		}
		select {
		case <-ctx.Done():
			return w, fmt.Errorf("admin: cancel: a relay still has the message: %w", context.Cause(ctx))
		case <-time.After(cancelPause):
		}
	}
}

// Pause holds back the messages that p names until [Admin.Resume], and reports
// whether that was new.
func (a *Admin) Pause(ctx context.Context, p store.Pause) (bool, error) {
	if err := CheckPause(p); err != nil {
		return false, err
	}
	return a.store.Pause(ctx, p)
}

// Resume ends a pause, and reports whether there was one of just these words.
func (a *Admin) Resume(ctx context.Context, p store.Pause) (bool, error) {
	if err := CheckPause(p); err != nil {
		return false, err
	}
	return a.store.Resume(ctx, p)
}

// CheckPause reports what is wrong with a pause.
func CheckPause(p store.Pause) error {
	var errs []error
	if p.Topic != "" {
		if err := outbox.ValidatePattern(p.Topic); err != nil {
			errs = append(errs, fmt.Errorf("admin: topic %q %w", p.Topic, err))
		}
	}
	if p.Tenant != "" && p.Key == "" {
		errs = append(errs, fmt.Errorf("admin: tenant %q is given without a key: name the key", p.Tenant))
	}
	return errors.Join(errs...)
}
