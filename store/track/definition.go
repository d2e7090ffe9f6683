package track

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Subject is a table as a store finds it.
type Subject struct {
	Schema, Name string
	Columns      []Column // in their order
	PrimaryKey   []string
	FoldCase     bool // names that differ in case alone are the same

	// Fault is why the table cannot publish, if it cannot, as in "is a view".
	Fault string
}

// Column is a column as a store finds it.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// Definition is what a table publishes, with nothing left to choose. A store keeps it
// as JSON beside the triggers that it makes of it.
type Definition struct {
	Into    string   `json:"into"`   // the table of the outbox's messages
	Schema  string   `json:"schema"` // of the table, by their names when it was tracked
	Table   string   `json:"table"`
	On      []Op     `json:"on"` // in the order insert, update, delete
	Fields  []string `json:"fields"`
	All     bool     `json:"all"` // the fields are all that there were
	Topic   string   `json:"topic"`
	Key     []string `json:"key"`
	Columns []Column `json:"columns"` // those of Fields and Key, in the table's order
}

// Resolve returns what c, which may be nil, means for a table, and reports all that is
// wrong with it as [*FieldError]s joined. The definition's Into is the store's to fill
// in. It is for those who write stores, as is all of this file.
func Resolve(c *Config, s Subject) (*Definition, error) {
	full := c.withDefaults()
	errs := full.validate(s)
	if s.Fault == "" {
		s.Fault = typeFault(s.Name)
	}
	if s.Fault != "" {
		return nil, errors.Join(append(errs, &FieldError{"Table", s.Name, s.Fault})...)
	}
	d := &Definition{Schema: s.Schema, Table: s.Name, Topic: full.Topic, All: len(full.Fields) == 0}
	for _, op := range ops {
		if slices.Contains(full.On, op) {
			d.On = append(d.On, op)
		}
	}
	if d.All {
		for _, column := range s.Columns {
			d.Fields = append(d.Fields, column.Name)
		}
		if len(d.Fields) == 0 {
			errs = append(errs, &FieldError{"Table", s.Name, "has no columns"})
		}
	} else {
		d.Fields = s.resolve("Fields", full.Fields, &errs)
	}
	d.Key = s.PrimaryKey
	switch {
	case len(full.Key) > 0:
		d.Key = s.resolve("Key", full.Key, &errs)
	case len(d.Key) == 0:
		errs = append(errs, &FieldError{"Key", "", "is not given, and " + s.Name + " has no primary key: name the columns by which its messages are to be in order"})
	}
	for _, column := range s.Columns {
		if slices.Contains(d.Fields, column.Name) || slices.Contains(d.Key, column.Name) {
			d.Columns = append(d.Columns, column)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return d, nil
}

// TopicOf returns the topic of the messages of a change.
func (d *Definition) TopicOf(op Op) string {
	return expand(d.Topic, op, Subject{Schema: d.Schema, Name: d.Table})
}

// typeFault tells why a table's name cannot be a message's type, or "".
func typeFault(name string) string {
	const most = 512
	control := strings.IndexFunc(name, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
	switch {
	case control >= 0:
		return fmt.Sprintf("has the control character %q, and the messages' type is the name", name[control])
	case len(name) > most || !utf8.ValidString(name):
		return fmt.Sprintf("is not UTF-8 of at most %d bytes, and the messages' type is the name", most)
	}
	return ""
}

// same goes by ASCII letters, as databases do.
func (s Subject) same(a, b string) bool { return a == b || s.FoldCase && fold(a) == fold(b) }

func fold(name string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, name)
}

// resolve returns the columns of those names as the table calls them.
func (s Subject) resolve(field string, names []string, errs *[]error) (found []string) {
	for _, name := range names {
		i := slices.IndexFunc(s.Columns, func(c Column) bool { return s.same(c.Name, name) })
		switch {
		case i >= 0:
			found = append(found, s.Columns[i].Name)
		case name != "": // that one was reported
			*errs = append(*errs, &FieldError{field, name, "is no column of " + s.Name + ", which has " + s.columnList()})
		}
	}
	return found
}

// columnList is for people, who do not read hundreds.
func (s Subject) columnList() string {
	const most = 20
	var names []string
	for _, column := range s.Columns {
		if len(names) == most {
			names = append(names, "...")
			break
		}
		names = append(names, column.Name)
	}
	return strings.Join(names, ", ")
}
