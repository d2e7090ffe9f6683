package protobuf

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/outbox-go/outbox"
)

// Content types that Protocol Buffers go by. ContentType is registered with
// IANA; older programs send the others.
const (
	ContentType       = "application/protobuf"
	ContentTypeX      = "application/x-protobuf"
	ContentTypeVendor = "application/vnd.google.protobuf"
)

// Codec is the codec for [ContentType]. It is safe for concurrent use.
var Codec outbox.StrictCodec = codec{ContentType}

// CodecFor returns the same codec for another content type, without parameters,
// such as [ContentTypeX]: add it beside [Codec] where senders differ.
func CodecFor(contentType string) outbox.StrictCodec {
	return codec{strings.ToLower(contentType)}
}

type codec struct{ contentType string }

func (c codec) ContentType() string { return c.contentType }

// Encode returns v, a [proto.Message] that is not nil, in the wire format.
// Required fields of proto2 must be set, and strings be valid UTF-8.
func (codec) Encode(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	switch {
	case v == nil:
		return nil, errors.New("protobuf: the payload is nil: pass a message")
	case !ok && reflect.PointerTo(reflect.TypeOf(v)).Implements(messageType):
		return nil, fmt.Errorf("protobuf: %T is not a message but *%T is: pass a pointer", v, v)
	case !ok:
		return nil, fmt.Errorf("protobuf: %T is not a proto.Message: pass a generated message", v)
	case isNil(m):
		return nil, fmt.Errorf("protobuf: the payload is a nil %T: pass a message", v)
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// Decode reads data into v: a message, such as *acmepb.User, or a pointer to
// one, such as **acmepb.User, which is set to a new message. Empty data is the
// message with no field set. After an error a pointer to a message is as it was.
func (codec) Decode(data []byte, v any) error { return decode(data, v, nil) }

// DecodeStrict is Decode, but a field that the message's type, or that of a
// message in it at any depth, does not have is an error. A google.protobuf.Any
// is not looked into, and any number is valid for an enum.
func (codec) DecodeStrict(data []byte, v any) error { return decode(data, v, unknownField) }

func decode(data []byte, v any, check func(protoreflect.Message) error) error {
	m, keep, err := target(v)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(data, m); err != nil {
		return err
	}
	if check != nil {
		if err := check(m.ProtoReflect()); err != nil {
			return err
		}
	}
	keep()
	return nil
}

var messageType = reflect.TypeFor[proto.Message]()

// target returns the message to decode into, and what makes it v's.
func target(v any) (m proto.Message, keep func(), err error) {
	if m, ok := v.(proto.Message); ok && !isNil(m) {
		return m, func() {}, nil
	}
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return nil, nil, fmt.Errorf("protobuf: cannot decode into %T: pass a pointer that is not nil", v)
	}
	t := p.Type().Elem()
	if t.Kind() != reflect.Pointer || !t.Implements(messageType) {
		return nil, nil, fmt.Errorf("protobuf: cannot decode into %s: the type must be that of a generated message or a pointer to it", t)
	}
	made := reflect.New(t.Elem())
	m = made.Interface().(proto.Message)
	if m.ProtoReflect().Descriptor() == nil {
		return nil, nil, fmt.Errorf("protobuf: cannot decode into %s: it does not say which message it is", t)
	}
	return m, func() { p.Elem().Set(made) }, nil
}

func isNil(m proto.Message) bool {
	v := reflect.ValueOf(m)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// unknownField returns an error for the first unknown field of m, or of a
// message in m.
func unknownField(m protoreflect.Message) error {
	if unknown := m.GetUnknown(); len(unknown) > 0 {
		number, _, _ := protowire.ConsumeTag(unknown)
		return fmt.Errorf("protobuf: message %s has no field with the number %d", m.Descriptor().FullName(), number)
	}
	var found error
	m.Range(func(field protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		found = unknownIn(field, v)
		return found == nil
	})
	return found
}

// unknownIn looks for unknown fields in the messages of a field.
func unknownIn(field protoreflect.FieldDescriptor, v protoreflect.Value) (found error) {
	switch {
	case field.IsMap():
		if field.MapValue().Message() != nil {
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				found = unknownField(v.Message())
				return found == nil
			})
		}
	case field.Message() == nil:
	case field.IsList():
		for i := 0; i < v.List().Len() && found == nil; i++ {
			found = unknownField(v.List().Get(i).Message())
		}
	default:
		found = unknownField(v.Message())
	}
	return found
}
