package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
)

// decoderOf returns the function that turns a message's payload into a T and
// validates it.
func decoderOf[T any](codecs *outbox.Codecs) func(m *outbox.Received, into *T) error {
	decode := func(m *outbox.Received, into *T) error { return decodeByCodec(codecs, m, into) }
	if t := reflect.TypeFor[T](); t.Kind() == reflect.Slice && t.Elem() == reflect.TypeFor[byte]() {
		decode = func(m *outbox.Received, into *T) error {
			setBytes(into, m.Payload)
			return nil
		}
	}
	validate := validatorOf[T]()
	if validate == nil {
		return decode
	}
	return func(m *outbox.Received, into *T) error {
		if err := decode(m, into); err != nil {
			return err
		}
		if err := validate(into); err != nil {
			return fmt.Errorf("validate %s: %w", reflect.TypeFor[T](), err)
		}
		return nil
	}
}

// setBytes assigns data to into, a pointer to a type whose underlying type is
// []byte.
func setBytes(into any, data []byte) {
	switch into := into.(type) {
	case *[]byte:
		*into = data
	case *json.RawMessage:
		*into = data
	default:
		reflect.ValueOf(into).Elem().SetBytes(data)
	}
}

func decodeByCodec[T any](codecs *outbox.Codecs, m *outbox.Received, into *T) error {
	contentType := m.ContentType
	if contentType == "" {
		contentType = outbox.ContentTypeJSON
	}
	codec, ok := codecs.For(contentType)
	if !ok {
		return fmt.Errorf("no codec for content type %q: add one to Config.Codecs", contentType)
	}
	if err := codec.Decode(m.Payload, into); err != nil {
		return fmt.Errorf("decode %s as %s: %w", contentType, reflect.TypeFor[T](), withoutValue(err))
	}
	return nil
}

// withoutValue returns err without the value of the payload that the errors of
// encoding/json and time quote: errors are logged, payloads are not.
func withoutValue(err error) error {
	var misfit *json.UnmarshalTypeError
	if errors.As(err, &misfit) {
		kind, _, _ := strings.Cut(misfit.Value, " ")
		return fmt.Errorf("JSON %s at byte %d does not fit Go type %s (field %q)", kind, misfit.Offset, misfit.Type, misfit.Field)
	}
	var noTime *time.ParseError
	if errors.As(err, &noTime) {
		return fmt.Errorf("a time is not of the form %q", noTime.Layout)
	}
	return err
}

type validator interface{ Validate() error }

var errNull = errors.New("the payload is null")

// validatorOf returns what calls T's or *T's method Validate, nil if there is
// none.
func validatorOf[T any]() func(*T) error {
	want := reflect.TypeFor[validator]()
	t := reflect.TypeFor[T]()
	switch {
	case reflect.PointerTo(t).Implements(want): // also when T itself has it
		return func(v *T) error { return any(v).(validator).Validate() }
	case t.Implements(want): // T is a pointer or an interface
		return func(v *T) error {
			if reflect.ValueOf(v).Elem().IsNil() {
				return errNull
			}
			return any(*v).(validator).Validate()
		}
	}
	return nil
}
