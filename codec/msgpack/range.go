package msgpack

import (
	"encoding"
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// overflow returns an error for the first integer in data, which is whole, that
// its place in t cannot hold: the library would cut it to the bits that there are
// and say nothing.
func overflow(data []byte, t reflect.Type) error {
	w := walk{data: data}
	return w.value(t)
}

// walk goes over data and types side by side.
type walk struct {
	data []byte
	pos  int
}

// value walks over one value, which is to go into a t, or anywhere if t is nil.
func (w *walk) value(t reflect.Type) error {
	h, err := w.head()
	if err != nil {
		return err
	}
	p := placeOf(t)
	switch {
	case h.kind == kindInt && p.kind != reflect.Invalid:
		return w.integer(h, p)
	case h.kind == kindArray && (p.kind == reflect.Slice || p.kind == reflect.Array):
		for range h.values {
			if err := w.value(p.typ.Elem()); err != nil {
				return err
			}
		}
		return nil
	case h.kind == kindMap && p.kind == reflect.Map:
		for range h.values / 2 {
			if err := w.value(p.typ.Key()); err != nil {
				return err
			}
			if err := w.value(p.typ.Elem()); err != nil {
				return err
			}
		}
		return nil
	case h.kind == kindMap && p.kind == reflect.Struct:
		return w.fields(h, p)
	}
	return w.skip(h.values)
}

// fields walks over the map h, which is to go into a struct.
func (w *walk) fields(h head, p *place) error {
	for range h.values / 2 {
		key, err := w.head()
		if err != nil {
			return err
		}
		if key.kind != kindString && key.kind != kindBinary {
			if err := w.skip(key.values); err != nil {
				return err
			}
		}
		if err := w.value(p.fields[string(w.data[key.end-key.body:key.end])]); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) integer(h head, p *place) error {
	n, negative := integer(w.data, h)
	fits := true
	switch p.kind {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		fits = (negative || n <= math.MaxInt64) && !p.typ.OverflowInt(int64(n)) //nolint:gosec // the bits of a negative one
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		fits = !negative && !p.typ.OverflowUint(n)
	}
	if !fits {
		return fmt.Errorf("msgpack: the integer at byte %d is out of the range of %s", h.start, p.typ)
	}
	return nil
}

// integer returns the integer that h is, as the bits of an int64 if it is
// negative.
func integer(data []byte, h head) (n uint64, negative bool) {
	c, body := data[h.start], data[h.end-h.body:h.end]
	var signed int64
	switch c {
	case msgpcode.Uint8:
		return uint64(body[0]), false
	case msgpcode.Uint16:
		return uint64(binary.BigEndian.Uint16(body)), false
	case msgpcode.Uint32:
		return uint64(binary.BigEndian.Uint32(body)), false
	case msgpcode.Uint64:
		return binary.BigEndian.Uint64(body), false
	case msgpcode.Int8:
		signed = int64(int8(body[0])) //nolint:gosec // so it is encoded, here and below
	case msgpcode.Int16:
		signed = int64(int16(binary.BigEndian.Uint16(body))) //nolint:gosec // see above
	case msgpcode.Int32:
		signed = int64(int32(binary.BigEndian.Uint32(body))) //nolint:gosec // see above
	case msgpcode.Int64:
		signed = int64(binary.BigEndian.Uint64(body)) //nolint:gosec // see above
	default:
		signed = int64(int8(c)) //nolint:gosec // see above
	}
	return uint64(signed), signed < 0 //nolint:gosec // see above
}

// head takes the next value, without those that it contains.
func (w *walk) head() (head, error) {
	h, err := readHead(w.data, w.pos)
	w.pos = h.end
	return h, err
}

func (w *walk) skip(values int64) error {
	for ; values > 0; values-- {
		h, err := w.head()
		if err != nil {
			return err
		}
		values += h.values
	}
	return nil
}

// place is a type in which values end, pointers followed. Its kind is Invalid
// where the type, or an any, decides for itself.
type place struct {
	typ    reflect.Type
	kind   reflect.Kind
	fields map[string]reflect.Type // of a struct, by key
}

var (
	nowhere = &place{}
	places  sync.Map // of *place, by reflect.Type

	decoders = []reflect.Type{
		reflect.TypeFor[msgpack.CustomDecoder](), reflect.TypeFor[msgpack.Unmarshaler](),
		reflect.TypeFor[encoding.BinaryUnmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](),
	}
)

func placeOf(t reflect.Type) *place {
	if t == nil {
		return nowhere
	}
	if p, ok := places.Load(t); ok {
		return p.(*place)
	}
	p := newPlace(t)
	places.Store(t, p)
	return p
}

func newPlace(t reflect.Type) *place {
	t = underPointers(t)
	switch {
	case t == nil || t.Kind() == reflect.Interface:
		return nowhere
	case t.Kind() == reflect.Struct:
		p := &place{typ: t, kind: reflect.Struct, fields: make(map[string]reflect.Type)}
		p.addFields(t)
		return p
	}
	return &place{typ: t, kind: t.Kind()}
}

// underPointers returns the type that t points to, or nil if t or one on the way
// decodes itself.
func underPointers(t reflect.Type) reflect.Type {
	for ; ; t = t.Elem() {
		for _, decoder := range decoders {
			if t.Implements(decoder) || reflect.PointerTo(t).Implements(decoder) {
				return nil
			}
		}
		if t.Kind() != reflect.Pointer {
			return t
		}
	}
}

// addFields adds the fields of the struct t by the names that the library gives
// them; those of an embedded struct after its own, which win.
func (p *place) addFields(t reflect.Type) {
	var embedded []reflect.Type
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("msgpack")
		if tag == "" {
			tag = f.Tag.Get("json")
		}
		name, _, _ := strings.Cut(tag, ",")
		switch {
		case name == "-", !f.IsExported() && !f.Anonymous:
			continue
		case name == "":
			name = f.Name
		}
		if in := underPointers(f.Type); f.Anonymous && in != nil && in.Kind() == reflect.Struct {
			embedded = append(embedded, in)
		}
		if _, ok := p.fields[name]; !ok {
			p.fields[name] = f.Type
		}
	}
	for _, t := range embedded {
		p.addFields(t)
	}
}
