package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"runtime/debug"
	"strings"

	"github.com/outbox-go/outbox"
)

// plan is a configuration that was found to be good.
type plan struct {
	typeName string
	version  string
	topic    string
	headers  map[string]string
	on       Op

	id         *field // nil if neither body nor key need it
	key        *field // nil for none
	fields     []*field
	serializer *serializer // wins over fields
}

// event returns the event of a value, given as a pointer to it. The user's code, in a
// serializer or a marshaler, may panic: that is an error.
func (p *plan) event(ctx context.Context, pointer reflect.Value) (e outbox.Event, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &outbox.PanicError{Value: r, Stack: debug.Stack()}
		}
	}()
	v := pointer.Elem()
	e = outbox.Event{Topic: p.topic, Type: p.typeName, Version: p.version, Headers: maps.Clone(p.headers)}
	if p.key != nil {
		if e.Key, err = p.key.asText(v); err != nil {
			return e, err
		}
	}
	var body []byte
	if p.serializer != nil {
		body, err = p.serializer.body(ctx, pointer)
	} else {
		body, err = p.body(v)
	}
	e.Payload = json.RawMessage(spaced(body))
	return e, err
}

// checkedEvent is event for a value whose id must not be zero, as it is until the
// database's is known.
func (p *plan) checkedEvent(ctx context.Context, pointer reflect.Value) (e outbox.Event, err error) {
	if p.id != nil {
		if id, ok := p.id.value(pointer.Elem()); !ok || id.IsZero() {
			return e, fmt.Errorf("field %s, the id, has its zero value: the value must be as the database has it", p.id.name)
		}
	}
	return p.event(ctx, pointer)
}

func (p *plan) body(v reflect.Value) ([]byte, error) {
	body := []byte{'{'}
	for _, f := range p.fields {
		member, err := f.encode(v)
		if err != nil {
			return nil, err
		}
		if len(member) == 0 {
			continue
		}
		if len(body) > 1 {
			body = append(body, ',')
		}
		body = append(body, member...)
	}
	return append(body, '}'), nil
}

// spaced puts a space after each comma and colon of compact JSON, as Python's
// json.dumps does.
func spaced(compact []byte) []byte {
	out := make([]byte, 0, len(compact)+len(compact)/8)
	quoted, escaped := false, false
	for _, c := range compact {
		out = append(out, c)
		switch {
		case escaped:
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == ':'):
			out = append(out, ' ')
		}
	}
	return out
}

// serializer is a method of the published type that returns the body.
type serializer struct {
	index    int // of the method, of the pointer type
	takesCtx bool
}

var (
	contextType = reflect.TypeFor[context.Context]()
	errorType   = reflect.TypeFor[error]()
	bytesType   = reflect.TypeFor[[]byte]() // which would be base64 in JSON
)

// serializerOf returns the method of *t, which has those of t too.
func serializerOf(t reflect.Type, name string) (*serializer, error) {
	method, ok := reflect.PointerTo(t).MethodByName(name)
	if !ok {
		return nil, fmt.Errorf("Serializer %q is no exported method of %s: %s", name, t, haveSerializers(t))
	}
	if !canSerialize(method.Type) {
		return nil, fmt.Errorf("Serializer %q is a method with the wrong signature: it takes nothing or a context.Context, and returns the body, not as []byte, or the body and an error; %s", name, haveSerializers(t))
	}
	return &serializer{index: method.Index, takesCtx: method.Type.NumIn() == 2}, nil
}

// canSerialize looks at a method's type, whose first parameter is the receiver.
func canSerialize(m reflect.Type) bool {
	if m.IsVariadic() || m.NumIn() > 2 || m.NumIn() == 2 && m.In(1) != contextType {
		return false
	}
	switch m.NumOut() {
	case 1:
		return !m.Out(0).Implements(errorType) && m.Out(0) != bytesType
	case 2:
		return m.Out(1) == errorType && m.Out(0) != bytesType
	}
	return false
}

func haveSerializers(t reflect.Type) string {
	pointer := reflect.PointerTo(t)
	var names []string
	for i := range pointer.NumMethod() {
		if m := pointer.Method(i); canSerialize(m.Type) {
			names = append(names, m.Name)
		}
	}
	if len(names) == 0 {
		return "it has no method that could be one"
	}
	return "have " + strings.Join(names, ", ")
}

func (s *serializer) body(ctx context.Context, pointer reflect.Value) ([]byte, error) {
	var args []reflect.Value
	if s.takesCtx {
		args = append(args, reflect.ValueOf(ctx))
	}
	results := pointer.Method(s.index).Call(args)
	if len(results) == 2 {
		if err, _ := results[1].Interface().(error); err != nil {
			return nil, fmt.Errorf("serializer: %w", err)
		}
	}
	value := results[0].Interface()
	if _, ok := value.([]byte); ok {
		return nil, errors.New("serializer: returns []byte: return a json.RawMessage if it is JSON already")
	}
	data, err := outbox.JSON.Encode(value)
	if err != nil {
		return nil, fmt.Errorf("serializer: %w", err)
	}
	return data, nil
}
