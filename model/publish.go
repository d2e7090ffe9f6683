package model

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/outbox-go/outbox"
)

// Op is what became of a row, or several such: Created|Deleted.
type Op uint8

// The operations. Saved is both that write a row.
const (
	Created Op = 1 << iota
	Updated
	Deleted
	Saved = Created | Updated

	allOps = Saved | Deleted
)

func (o Op) String() string {
	var names []string
	for i, name := range [...]string{"created", "updated", "deleted"} {
		if o&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if o&^allOps != 0 || o == 0 {
		names = append(names, fmt.Sprintf("Op(%d)", uint8(o&^allOps)))
	}
	return strings.Join(names, "|")
}

// NoKey as [Config.Key] gives messages no key, and so no order.
const NoKey = "-"

// Config says how a type is published. Only Destination is required.
type Config struct {
	// Destination is a topic such as "user.saved", or a STOMP destination:
	// "/topic/user.saved" is the same topic. Of any other, such as "/queue/users" or
	// "/exchange/crm/users", the last segment is the topic, and the whole is sent
	// along in the header "stomp-destination", by which package broker/stomp
	// publishes.
	Destination string

	// Fields are the JSON names of the fields to send. The id is always sent, and
	// the order is that of the declaration, not of this list. Defaults to all.
	Fields []string

	// Serializer is the name of an exported method of the type that returns the
	// body, as any value that encoding/json encodes. It takes nothing or a
	// context.Context, and may return an error beside the value. It wins over
	// Fields, and nothing is added to its body.
	Serializer string

	// Version is appended to the destination after a dot, unless it ends with it
	// already, and becomes the message's version.
	Version string

	// On are the operations that are published. Defaults to Saved.
	On Op

	// ID is the JSON or Go name of the field that identifies a row. In the body it is
	// called "id". Defaults to the field with the JSON name "id", else the Go field
	// ID. By Save, a value whose id has its zero value is not published, but an
	// error: it was not read from the database.
	ID string

	// Key is the JSON or Go name of the field by which messages are ordered, as text.
	// Defaults to the id: what happens to one row arrives in its order. NoKey means
	// no order.
	Key string
}

// Model is a [Publication] of any type, as the hook of an ORM uses it.
type Model interface {
	// GoType is the published type, a struct.
	GoType() reflect.Type

	// On is the union of the operations that its configurations publish.
	On() Op

	// Events returns the events of values, which point to the published type and are
	// rows as the database has them: an id may be zero. Of each value there is one by
	// each configuration for op. Where op is several operations, one that the
	// configuration names is enough.
	Events(ctx context.Context, op Op, values ...any) ([]outbox.Event, error)
}

// Publication publishes values of T. It is safe for concurrent use; make it with
// [Publish].
type Publication[T any] struct {
	plans []*plan
	on    Op
}

// Publish returns how T, a struct, is published: once by each configuration. It
// reports all that is wrong with all of them: unknown fields, methods that are not
// there or cannot be serializers, destinations that are invalid or that two
// configurations have for the same operation.
func Publish[T any](configs ...Config) (*Publication[T], error) {
	t := reflect.TypeFor[T]()
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("model: %s is not a struct: publish the struct type itself", t)
	}
	if len(configs) == 0 {
		return nil, fmt.Errorf("model: %s has no configuration: name a destination at least", t)
	}
	p := &Publication[T]{}
	var errs []error
	fields := fieldsOf(t)
	for i, c := range configs {
		made, faults := newPlan(t, fields, c)
		for _, other := range p.plans {
			if len(faults) == 0 && other.address() == made.address() && other.on&made.on != 0 {
				faults = append(faults, fmt.Errorf("Destination %q has another configuration for %v: merge them, or let On differ", c.Destination, other.on&made.on))
			}
		}
		for _, fault := range faults {
			errs = append(errs, fmt.Errorf("model: %s: config %d: %w", t, i, fault))
		}
		if len(faults) == 0 {
			p.plans = append(p.plans, made)
			p.on |= made.on
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return p, nil
}

// Must returns p, and panics if err is not nil: for package variables.
func Must[T any](p *Publication[T], err error) *Publication[T] {
	if err != nil {
		panic(err)
	}
	return p
}

// GoType implements [Model].
func (p *Publication[T]) GoType() reflect.Type { return reflect.TypeFor[T]() }

// On implements [Model].
func (p *Publication[T]) On() Op { return p.on }

// Events implements [Model].
func (p *Publication[T]) Events(ctx context.Context, op Op, values ...any) ([]outbox.Event, error) {
	pointers := make([]*T, len(values))
	for i, value := range values {
		v, ok := value.(*T)
		if !ok {
			return nil, fmt.Errorf("model: value %d is a %T: pass a *%s", i, value, p.GoType())
		}
		pointers[i] = v
	}
	return p.events(ctx, op, pointers, (*plan).event)
}

// events returns what event makes of each value by each plan for op.
func (p *Publication[T]) events(ctx context.Context, op Op, values []*T, event func(*plan, context.Context, reflect.Value) (outbox.Event, error)) ([]outbox.Event, error) {
	if p.on&op == 0 {
		return nil, nil
	}
	events := make([]outbox.Event, 0, len(values)*len(p.plans))
	for i, v := range values {
		if v == nil {
			return nil, fmt.Errorf("model: value %d is a *%s that is nil", i, p.GoType())
		}
		for _, plan := range p.plans {
			if plan.on&op == 0 {
				continue
			}
			e, err := event(plan, ctx, reflect.ValueOf(v))
			if err != nil {
				return nil, fmt.Errorf("model: %s for %s: %w", p.GoType(), plan.topic, err)
			}
			events = append(events, e)
		}
	}
	return events, nil
}

// newPlan returns how t is published by c, or all that is wrong with c.
func newPlan(t reflect.Type, fields *fieldSet, c Config) (*plan, []error) {
	p := &plan{typeName: t.Name(), version: c.Version, on: c.On}
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if p.on == 0 {
		p.on = Saved
	}
	if p.on&^allOps != 0 {
		note(fmt.Errorf("On is %v: it may be Created, Updated and Deleted, joined by |", c.On))
	}
	note(p.setDestination(c.Destination))
	if c.Serializer != "" {
		var err error
		p.serializer, err = serializerOf(t, c.Serializer)
		note(err)
	}
	id, err := fields.id(c.ID)
	needsID := c.Serializer == "" || c.Key == "" || c.ID != ""
	if needsID {
		note(err)
	}
	switch c.Key {
	case NoKey:
	case "":
		p.key = id
	default:
		p.key, err = fields.named("Key", c.Key)
		note(err)
	}
	if c.Serializer == "" || p.key == id {
		p.id = id
	}
	selected, faults := fields.selected(c.Fields)
	errs = append(errs, faults...)
	if c.Serializer == "" {
		note(fields.encodable(t))
		note(p.setFields(id, selected))
	}
	return p, errs
}

// setFields makes the body of the id and the selected fields.
func (p *plan) setFields(id *field, selected []*field) error {
	if id == nil {
		return nil // reported already
	}
	p.fields = append(p.fields, id.as("id"))
	for _, f := range selected {
		if slices.Equal(f.index, id.index) {
			continue
		}
		if f.name == "id" {
			return fmt.Errorf("ID %q is not the field with the JSON name \"id\", which would stand in the body twice: leave that out by Fields, or write a serializer", id.name)
		}
		p.fields = append(p.fields, f)
	}
	return nil
}
