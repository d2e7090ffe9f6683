package outboxtest

import (
	"context"
	"fmt"
	"time"

	"github.com/outbox-go/outbox/worker"
)

// handled names a message in an inbox.
type handled struct{ consumer, id string }

// Once makes the recorder a [worker.Inbox], for handlers of worker.HandleTx: the
// store's, which must be one, or without a store one that remembers in memory,
// runs one transaction at a time and does not bear that fn calls it.
func (r *Recorder[Tx]) Once(ctx context.Context, consumer, id string, fn func(ctx context.Context, tx Tx) error) (first bool, err error) {
	err = r.follow(func(begun func(Tx)) error {
		first, err = r.once(ctx, consumer, id, func(ctx context.Context, tx Tx) error {
			begun(tx)
			return fn(ctx, tx)
		})
		return err
	})
	return first, err
}

// once is Once without the records.
func (r *Recorder[Tx]) once(ctx context.Context, consumer, id string, fn func(ctx context.Context, tx Tx) error) (bool, error) {
	if r.store != nil {
		in, ok := r.store.(worker.Inbox[Tx])
		if !ok {
			return false, fmt.Errorf("outboxtest: the recorder's store, a %T, is not a worker.Inbox", r.store)
		}
		return in.Once(ctx, consumer, id, fn)
	}
	r.inbox.Lock()
	defer r.inbox.Unlock()
	key := handled{consumer, id}
	if r.handled[key] {
		return false, nil
	}
	if err := r.inTx(ctx, func(tx Tx) error { return fn(ctx, tx) }); err != nil {
		return false, err
	}
	if r.handled == nil {
		r.handled = make(map[handled]bool)
	}
	r.handled[key] = true
	return true, nil
}

// Transient asks the store; without one, no error passes.
func (r *Recorder[Tx]) Transient(err error) bool {
	in, ok := r.store.(worker.Inbox[Tx])
	return ok && in.Transient(err)
}

// PurgeInbox asks the store; without one, nothing is deleted.
func (r *Recorder[Tx]) PurgeInbox(ctx context.Context, age time.Duration, limit int) (int, error) {
	if in, ok := r.store.(worker.Inbox[Tx]); ok {
		return in.PurgeInbox(ctx, age, limit)
	}
	return 0, nil
}
