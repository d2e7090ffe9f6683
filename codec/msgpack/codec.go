package msgpack

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/outbox-go/outbox"
)

// Content types that MessagePack goes by. Only ContentTypeVendor is registered
// with IANA; ContentType is what most programs send.
const (
	ContentType       = "application/msgpack"
	ContentTypeVendor = "application/vnd.msgpack"
	ContentTypeX      = "application/x-msgpack"
)

// Codec is the codec for [ContentType]. It is safe for concurrent use.
var Codec outbox.StrictCodec = codec{ContentType}

// CodecFor returns the same codec for another content type, without parameters,
// such as [ContentTypeVendor]: add it beside [Codec] where senders differ.
func CodecFor(contentType string) outbox.StrictCodec {
	return codec{strings.ToLower(contentType)}
}

type codec struct{ contentType string }

func (c codec) ContentType() string { return c.contentType }

// Encode returns v as MessagePack.
func (codec) Encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := msgpack.NewEncoder(&buf)
	enc.SetCustomStructTag("json")
	enc.SetSortMapKeys(true)
	enc.UseCompactInts(true)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// Decode reads data, one MessagePack value, into v, a non-nil pointer.
func (codec) Decode(data []byte, v any) error { return decode(data, v, false) }

// DecodeStrict is Decode, but a key that no field of a struct has is an error.
func (codec) DecodeStrict(data []byte, v any) error { return decode(data, v, true) }

func decode(data []byte, v any, strict bool) (err error) {
	if p := reflect.ValueOf(v); p.Kind() != reflect.Pointer || p.IsNil() {
		return fmt.Errorf("msgpack: cannot decode into %T: pass a pointer that is not nil", v)
	}
	bodies, err := check(data)
	if err != nil {
		return err
	}
	if err := overflow(data, reflect.TypeOf(v)); err != nil {
		return err
	}
	r := &reader{data: data, bodies: bodies}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("msgpack: before byte %d: %s", r.pos, panicText(p))
		}
	}()
	dec := msgpack.NewDecoder(r)
	dec.SetCustomStructTag("json")
	dec.DisallowUnknownFields(strict)
	if err := dec.Decode(v); err != nil {
		return explain(err, r)
	}
	if r.pos < len(data) {
		return fmt.Errorf("msgpack: a method of %T has left %d bytes unread", v, len(data)-r.pos)
	}
	return nil
}

// explain says where and why decoding failed, without what the library's errors
// quote of the payload: a code has the value of a small number in it.
func explain(err error, r *reader) error {
	if noTime := (*time.ParseError)(nil); errors.As(err, &noTime) {
		return fmt.Errorf("msgpack: the string before byte %d is not a time of the form %q", r.pos, noTime.Layout)
	}
	text := err.Error()
	switch {
	case strings.HasPrefix(text, "msgpack: unknown field"):
		return fmt.Errorf("msgpack: the map key before byte %d names no field of the struct", r.pos)
	case strings.Contains(text, " code=") || strings.HasPrefix(text, "msgpack: unknown code"):
		_, wanted, _ := strings.Cut(text, " decoding ")
		return fmt.Errorf("msgpack: the value at byte %d is %s: decoding %s", r.pos-1, kind(r.data[r.pos-1]), wanted)
	}
	return fmt.Errorf("msgpack: before byte %d: %w", r.pos, err)
}

// panicText describes a panic of the library, whose values are errors of the
// runtime and of reflect. One of a method of the value's own could quote the
// payload.
func panicText(p any) string {
	switch p := p.(type) {
	case runtime.Error:
		return "the value does not fit: " + p.Error()
	case *reflect.ValueError:
		return "the value does not fit: " + p.Error()
	case string:
		if strings.HasPrefix(p, "reflect") {
			return "the value does not fit: " + p
		}
	}
	return fmt.Sprintf("decoding panicked with a %T", p)
}
