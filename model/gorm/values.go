package gormoutbox

import (
	"reflect"

	"gorm.io/gorm"
	"gorm.io/gorm/schema"
	"gorm.io/gorm/utils"
)

// inRow reports whether a field is a column that can be read.
func inRow(field *schema.Field) bool { return field.DBName != "" && field.Readable }

// elemType is the type of a value or, of a slice, that of its elements.
func elemType(v reflect.Value) reflect.Type {
	t := v.Type()
	if t.Kind() == reflect.Slice || t.Kind() == reflect.Array {
		t = t.Elem()
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// structs returns the structs, with addresses, that are a value or the elements of a
// slice; those that are nil are left out.
func structs(v reflect.Value) []reflect.Value {
	switch v.Kind() {
	case reflect.Struct:
		return []reflect.Value{addressable(v)}
	case reflect.Slice, reflect.Array:
		all := make([]reflect.Value, 0, v.Len())
		for i := range v.Len() {
			if e := reflect.Indirect(v.Index(i)); e.IsValid() {
				all = append(all, addressable(e))
			}
		}
		return all
	}
	return nil
}

// addressable returns v, or a copy of it that has an address.
func addressable(v reflect.Value) reflect.Value {
	if v.CanAddr() {
		return v
	}
	copied := reflect.New(v.Type()).Elem()
	copied.Set(v)
	return copied
}

// keyOf returns the primary key as a string, for comparisons.
func keyOf(stmt *gorm.Statement, v reflect.Value) string {
	values := make([]any, len(stmt.Schema.PrimaryFields))
	for i, field := range stmt.Schema.PrimaryFields {
		values[i], _ = field.ValueOf(stmt.Context, v)
	}
	return utils.ToStringKey(values...)
}

// byKey returns values by their primary keys, the first of each.
func byKey(stmt *gorm.Statement, values []reflect.Value) map[string]reflect.Value {
	m := make(map[string]reflect.Value, len(values))
	for _, v := range values {
		if key := keyOf(stmt, v); !m[key].IsValid() {
			m[key] = v
		}
	}
	return m
}

// lacksKey reports whether the primary key of v is left to the database.
func lacksKey(stmt *gorm.Statement, v reflect.Value) bool {
	for _, field := range stmt.Schema.PrimaryFields {
		if _, zero := field.ValueOf(stmt.Context, v); zero && field.HasDefaultValue {
			return true
		}
	}
	return false
}

// paired returns the value that each row of an INSERT comes from, and false if that is
// not known. The rows are in the order of the values, as GORM has it, too. Of fewer it
// is the key that tells, where the value has one.
func paired(stmt *gorm.Statement, values, rows []reflect.Value) ([]reflect.Value, bool) {
	if len(rows) == len(values) {
		return values, true
	}
	var keyed, others []reflect.Value
	for _, v := range values {
		if lacksKey(stmt, v) {
			others = append(others, v)
		} else {
			keyed = append(keyed, v)
		}
	}
	of, sources, next := byKey(stmt, keyed), make([]reflect.Value, len(rows)), 0
	for i, row := range rows {
		source, ok := of[keyOf(stmt, row)]
		if !ok {
			if next == len(others) {
				return nil, false
			}
			source = others[next]
			next++
		}
		sources[i] = source
	}
	return sources, next == 0 || next == len(others)
}

// fill sets fields of v to those of row.
func fill(stmt *gorm.Statement, fields []*schema.Field, v, row reflect.Value) {
	for _, field := range fields {
		if inRow(field) {
			field.ReflectValueOf(stmt.Context, v).Set(field.ReflectValueOf(stmt.Context, row))
		}
	}
}

// overlaid returns a pointer to the row to publish: with what v, if there is one, has
// beside its columns.
func overlaid(stmt *gorm.Statement, v, row reflect.Value) any {
	if !v.IsValid() {
		return row.Addr().Interface()
	}
	merged := detached(stmt.Schema, v)
	fill(stmt, stmt.Schema.Fields, merged, row)
	return merged.Addr().Interface()
}

// detached returns a copy of v that shares none of the structs that v embeds by
// pointers.
func detached(s *schema.Schema, v reflect.Value) reflect.Value {
	copied := reflect.New(v.Type()).Elem()
	copied.Set(v)
	done := map[any]bool{}
	for _, field := range s.Fields {
		at := copied
		for _, i := range field.StructField.Index {
			if i >= 0 {
				at = at.Field(i)
				continue
			}
			at = at.Field(-i - 1) // by which GORM marks a pointer
			if at.IsNil() {
				break
			}
			if place := at.Addr().Interface(); !done[place] {
				done[place] = true
				own := reflect.New(at.Type().Elem())
				own.Elem().Set(at.Elem())
				at.Set(own)
			}
			at = at.Elem()
		}
	}
	return copied
}
