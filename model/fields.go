package model

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/outbox-go/outbox"
)

// field is a field that encoding/json knows.
type field struct {
	name   string // in JSON
	index  []int  // for reflect.Value.FieldByIndex
	tagged bool
	text   bool // has the option "string"

	// single is a struct with this field alone. encoding/json encodes it, so that
	// all its rules hold, whatever the other fields of the type are.
	single reflect.Type
}

// fieldSet are the fields of a struct, in the order of their declaration.
type fieldSet struct {
	of     reflect.Type
	fields []*field
}

// fieldsOf returns what encoding/json would encode of t.
func fieldsOf(t reflect.Type) *fieldSet {
	all := collect(t, nil, map[reflect.Type]bool{t: true})
	s := &fieldSet{of: t}
	for _, f := range all {
		if dominant(all, f) {
			s.fields = append(s.fields, f)
		}
	}
	return s
}

// collect returns the fields of t and of what it embeds; seen are the types on the
// way, which may embed themselves.
func collect(t reflect.Type, index []int, seen map[reflect.Type]bool) []*field {
	var all []*field
	for i := range t.NumField() {
		sf := t.Field(i)
		at := append(slices.Clone(index), i)
		name, options, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if strings.ContainsFunc(name, notInName) {
			name = "" // which encoding/json ignores
		}
		embedded := sf.Type
		if embedded.Kind() == reflect.Pointer {
			embedded = embedded.Elem()
		}
		switch {
		case sf.Tag.Get("json") == "-":
		case sf.Anonymous && embedded.Kind() == reflect.Struct && name == "":
			if !seen[embedded] {
				seen[embedded] = true
				all = append(all, collect(embedded, at, seen)...)
				delete(seen, embedded)
			}
		case sf.IsExported():
			all = append(all, newField(sf, name, options, at))
		}
	}
	return all
}

// notInName reports whether encoding/json would not have c in a name.
func notInName(c rune) bool {
	return !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", c)
}

func newField(sf reflect.StructField, name, options string, index []int) *field {
	f := &field{name: name, index: index, tagged: name != ""}
	f.text = slices.Contains(strings.Split(options, ","), "string")
	if !f.tagged {
		f.name = sf.Name
	}
	f.single = singleOf(sf.Type, sf.Name, sf.Tag)
	return f
}

func singleOf(t reflect.Type, name string, tag reflect.StructTag) reflect.Type {
	return reflect.StructOf([]reflect.StructField{{Name: name, Type: t, Tag: tag}})
}

// as is the field under another name, which is there whatever its value is.
func (f *field) as(name string) *field {
	tag := `json:"` + name + `"`
	if f.text {
		tag = `json:"` + name + `,string"`
	}
	sf := f.single.Field(0)
	return &field{name: name, index: f.index, tagged: true, text: f.text, single: singleOf(sf.Type, sf.Name, reflect.StructTag(tag))}
}

// dominant reports whether f is the one of its name: of several, the least deep
// one, then the tagged one, and none if there still are two.
func dominant(all []*field, f *field) bool {
	for _, other := range all {
		if other == f || other.name != f.name || len(other.index) > len(f.index) {
			continue
		}
		if len(other.index) < len(f.index) || other.tagged || !f.tagged {
			return false
		}
	}
	return true
}

func (s *fieldSet) find(name string) *field {
	for _, f := range s.fields {
		if f.name == name {
			return f
		}
	}
	return nil
}

// named returns the field with a JSON or, else, a Go name, for a setting.
func (s *fieldSet) named(setting, name string) (*field, error) {
	if f := s.find(name); f != nil {
		return f, nil
	}
	if sf, ok := s.of.FieldByName(name); ok && sf.IsExported() {
		return newField(sf, "", "", sf.Index).as(name), nil // whatever its tag says
	}
	return nil, fmt.Errorf("%s %q is no field of %s: %s", setting, name, s.of, s.have())
}

// id returns the field that identifies a row.
func (s *fieldSet) id(name string) (*field, error) {
	if name != "" {
		return s.named("ID", name)
	}
	if f := s.find("id"); f != nil {
		return f, nil
	}
	f, err := s.named("ID", "ID")
	if err != nil {
		return nil, fmt.Errorf("ID is empty, and %s has neither a field with the JSON name \"id\" nor a field ID: name one, %s", s.of, s.have())
	}
	return f, nil
}

// selected returns the fields of these names, or all if there are none.
func (s *fieldSet) selected(names []string) (fields []*field, errs []error) {
	if len(names) == 0 {
		return s.fields, nil
	}
	for _, name := range names {
		if s.find(name) == nil && name != "id" {
			errs = append(errs, fmt.Errorf("Fields %q is no field of %s: %s", name, s.of, s.have()))
		}
	}
	for _, f := range s.fields {
		if slices.Contains(names, f.name) {
			fields = append(fields, f)
		}
	}
	return fields, errs
}

// have lists the names that there are.
func (s *fieldSet) have() string {
	if len(s.fields) == 0 {
		return "it has none"
	}
	names := make([]string, len(s.fields))
	for i, f := range s.fields {
		names[i] = f.name
	}
	return "have " + strings.Join(names, ", ")
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// encodable reports whether encoding/json would encode t by its fields.
func (s *fieldSet) encodable(t reflect.Type) error {
	for method, marshaler := range map[string]reflect.Type{"MarshalJSON": jsonMarshaler, "MarshalText": textMarshaler} {
		if reflect.PointerTo(t).Implements(marshaler) {
			return fmt.Errorf("Serializer is empty, and %s encodes itself by %s, so that its fields are not known: write a method that returns the body and name it", t, method)
		}
	}
	return nil
}

// value returns the field of v, a struct, and whether there is one: there is none in
// an embedded pointer that is nil.
func (f *field) value(v reflect.Value) (reflect.Value, bool) {
	value, err := v.FieldByIndexErr(f.index)
	return value, err == nil
}

// encode returns the field of v as `"name":value`, or nothing if it is left out.
func (f *field) encode(v reflect.Value) ([]byte, error) {
	value, ok := f.value(v)
	if !ok {
		return nil, nil
	}
	single := reflect.New(f.single)
	single.Elem().Field(0).Set(value)
	data, err := outbox.JSON.Encode(single.Interface())
	if err != nil {
		return nil, fmt.Errorf("field %s: %w", f.name, err)
	}
	return data[1 : len(data)-1], nil
}

// asText returns the field of v as it is in JSON, a string without its quotes, and
// null as nothing.
func (f *field) asText(v reflect.Value) (string, error) {
	data, err := f.encode(v)
	if err != nil || len(data) == 0 {
		return "", err
	}
	data = data[len(f.name)+len(`"":`):]
	if string(data) == "null" {
		return "", nil
	}
	var text string
	if json.Unmarshal(data, &text) == nil {
		return text, nil
	}
	return string(data), nil
}
