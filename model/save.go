package model

import (
	"context"
	"fmt"
	"reflect"

	"github.com/outbox-go/outbox"
)

// Change is what became of some values; see [Save].
type Change struct {
	events func(ctx context.Context) ([]outbox.Event, error)
}

// Created says that values are new rows.
func (p *Publication[T]) Created(values ...*T) Change { return p.change(Created, values) }

// Updated says that the rows of values have changed.
func (p *Publication[T]) Updated(values ...*T) Change { return p.change(Updated, values) }

// Saved says that values are rows now, and not whether they were before: an upsert.
// Configurations for either are published.
func (p *Publication[T]) Saved(values ...*T) Change { return p.change(Saved, values) }

// Deleted says that the rows of values are gone.
func (p *Publication[T]) Deleted(values ...*T) Change { return p.change(Deleted, values) }

func (p *Publication[T]) change(op Op, values []*T) Change {
	return Change{func(ctx context.Context) ([]outbox.Event, error) {
		if p == nil {
			return nil, fmt.Errorf("model: the publication of %s is nil: call what model.Publish returns", reflect.TypeFor[T]())
		}
		return p.events(ctx, op, values, (*plan).checkedEvent)
	}}
}

// Events returns the events of the change, of the values as they are now.
func (c Change) Events(ctx context.Context) ([]outbox.Event, error) {
	if c.events == nil {
		return nil, nil
	}
	return c.events(ctx)
}

// Save runs save, which writes in tx, and emits the events of the changes in the same
// transaction, all with one statement. The values are looked at when save has
// returned, so that it can fill them in: an id that the database gave, for example.
// When save fails, its error is returned and nothing is emitted. After any error the
// transaction must be rolled back.
func Save[Tx any](ctx context.Context, ob *outbox.Outbox[Tx], tx Tx, save func() error, changes ...Change) error {
	if err := ob.Emit(ctx, tx); err != nil { // emits nothing, but knows a missing transaction
		return err
	}
	if err := save(); err != nil {
		return err
	}
	var events []outbox.Event
	for _, c := range changes {
		more, err := c.Events(ctx)
		if err != nil {
			return err
		}
		events = append(events, more...)
	}
	return ob.Emit(ctx, tx, events...)
}
