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

// decoderOf returns the function that turns a delivery into one with the decoded
// and validated payload.
func decoderOf[T any](codecs *outbox.Codecs, strict bool) func(raw *Delivery[[]byte]) (*Delivery[T], error) {
	into := payloadDecoder[T](codecs, strict)
	validate := validatorOf[T]()
	return func(raw *Delivery[[]byte]) (*Delivery[T], error) {
		if same, ok := any(raw).(*Delivery[T]); ok {
			return same, nil
		}
		d := &Delivery[T]{Metadata: raw.Metadata}
		if err := into(raw, &d.Payload); err != nil {
			return nil, err
		}
		if validate == nil {
			return d, nil
		}
		if err := validate(&d.Payload); err != nil {
			return nil, fmt.Errorf("validate %s: %w", reflect.TypeFor[T](), err)
		}
		return d, nil
	}
}

func payloadDecoder[T any](codecs *outbox.Codecs, strict bool) func(raw *Delivery[[]byte], into *T) error {
	if t := reflect.TypeFor[T](); t.Kind() == reflect.Slice && t.Elem() == reflect.TypeFor[byte]() {
		return func(raw *Delivery[[]byte], into *T) error {
			setBytes(into, raw.Payload)
			return nil
		}
	}
	return func(raw *Delivery[[]byte], into *T) error {
		contentType := raw.ContentType
		if contentType == "" {
			contentType = outbox.ContentTypeJSON
		}
		codec, ok := codecs.For(contentType)
		if !ok {
			return fmt.Errorf("no codec for content type %q: add one to Config.Codecs", contentType)
		}
		decode := codec.Decode
		if s, ok := codec.(outbox.StrictCodec); ok && strict {
			decode = s.DecodeStrict
		}
		if err := decode(raw.Payload, into); err != nil {
			return fmt.Errorf("decode %s as %s: %w", contentType, reflect.TypeFor[T](), withoutValue(err))
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
