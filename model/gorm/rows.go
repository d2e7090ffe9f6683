package gormoutbox

import (
	"errors"
	"fmt"
	"reflect"

	"gorm.io/gorm"
	"gorm.io/gorm/callbacks"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/schema"

	"github.com/outbox-go/outbox/model"
)

// given are a statement's values.
type given struct {
	value       reflect.Value
	dest, model any
}

var errNoReturning = errors.New("the dialect has no RETURNING, by which the rows are read back: let it, or Skip and emit yourself")

// returnRows has the statement return all columns, whatever the caller wants of them.
func (c *change) returnRows(stmt *gorm.Statement) error {
	before, asked := stmt.Clauses["RETURNING"]
	if asked && !stmt.ReflectValue.CanAddr() {
		return fmt.Errorf("%s with RETURNING has nowhere to put the columns: pass a pointer", c.model.GoType())
	}
	c.returning = &before
	delete(stmt.Clauses, "RETURNING")
	stmt.AddClause(clause.Returning{})
	return nil
}

// asked returns the fields that the caller's RETURNING names, whether those are all,
// and whether there was one.
func (c *change) asked(s *schema.Schema) (fields []*schema.Field, all, ok bool) {
	returning, ok := c.returning.Expression.(clause.Returning)
	if !ok {
		return nil, false, false
	}
	for _, column := range returning.Columns {
		if field := s.LookUpField(column.Name); field != nil && inRow(field) {
			fields = append(fields, field)
		}
		all = all || column.Name == "*"
	}
	if all = all || len(returning.Columns) == 0; all {
		fields = s.Fields
	}
	return fields, all, true
}

// take gives the statement a slice of our own for the rows.
func (c *change) take(stmt *gorm.Statement) {
	c.given = &given{stmt.ReflectValue, stmt.Dest, stmt.Model}
	rows := reflect.New(reflect.SliceOf(stmt.Schema.ModelType))
	stmt.ReflectValue = rows.Elem()
	if c.op == model.Deleted {
		stmt.Dest, stmt.Model = rows.Interface(), rows.Interface() // which GORM would compare, and look for keys in
	}
}

// restore gives the statement back what is the caller's.
func (c *change) restore(stmt *gorm.Statement) {
	if c.given != nil {
		stmt.ReflectValue, stmt.Dest, stmt.Model = c.given.value, c.given.dest, c.given.model
		c.given = nil
	}
	if c.assigned {
		delete(stmt.Clauses, "SET")
		c.assigned = false
	}
	if c.returning == nil {
		return
	}
	delete(stmt.Clauses, "RETURNING")
	if c.returning.Expression != nil {
		stmt.Clauses["RETURNING"] = *c.returning
	}
	c.returning = nil
}

// beforeChange has an UPDATE or DELETE return its rows.
func beforeChange(returns bool) func(db *gorm.DB, c *change) error {
	return func(db *gorm.DB, c *change) error {
		stmt := db.Statement
		if !returns {
			return errNoReturning
		}
		if _, ok := stmt.Clauses["FROM"]; ok {
			return fmt.Errorf("%s is published, and a statement with FROM of its own returns more than its rows: select them by a subquery, or Skip", c.model.GoType())
		}
		// An UPDATE may have a nil as its model, which stands for the table.
		if v := stmt.ReflectValue; v.IsValid() && elemType(v) != stmt.Schema.ModelType {
			return fmt.Errorf("%s is published, and cannot be from a %T: use the type itself, or Skip", c.model.GoType(), stmt.Dest)
		}
		if err := c.returnRows(stmt); err != nil {
			return err
		}
		if c.op == model.Updated {
			c.assign(stmt)
		} else {
			aim(stmt)
		}
		c.take(stmt)
		return nil
	}
}

// assign does what GORM's callback does with the values that were given, before the
// rows take their place. It leaves the rest of an UPDATE to GORM.
func (c *change) assign(stmt *gorm.Statement) {
	for _, clause := range stmt.Schema.UpdateClauses {
		stmt.AddClause(clause)
	}
	if _, ok := stmt.Clauses["SET"]; ok {
		return
	}
	if set := callbacks.ConvertToAssignments(stmt); len(set) > 0 {
		stmt.AddClause(set)
		c.assigned = true
	}
}

// aim does the same for a DELETE: the keys go into its WHERE, and the clauses of a soft
// one make it an UPDATE.
func aim(stmt *gorm.Statement) {
	if v := stmt.ReflectValue; !v.CanAddr() && v.Kind() == reflect.Struct {
		stmt.ReflectValue = addressable(v)
		stmt.Dest = stmt.ReflectValue.Addr().Interface()
		stmt.Model = stmt.Dest
	}
	for _, clause := range stmt.Schema.DeleteClauses {
		stmt.AddClause(clause)
	}
	if stmt.SQL.Len() > 0 {
		return
	}
	whereKeys(stmt, stmt.ReflectValue)
	if stmt.ReflectValue.CanAddr() && stmt.Model != nil && stmt.Dest != stmt.Model {
		whereKeys(stmt, reflect.ValueOf(stmt.Model))
	}
}

func whereKeys(stmt *gorm.Statement, v reflect.Value) {
	_, keys := schema.GetIdentityFieldValuesMap(stmt.Context, v, stmt.Schema.PrimaryFields)
	if column, values := schema.ToQueryValues(stmt.Table, stmt.Schema.PrimaryFieldDBNames, keys); len(values) > 0 {
		stmt.AddClause(clause.Where{Exprs: []clause.Expression{clause.IN{Column: column, Values: values}}})
	}
}

// afterChange notes the rows that an UPDATE or DELETE has returned. Where one is of a
// value that was given, it keeps what that has beside its columns: its associations,
// for a serializer.
func afterChange(db *gorm.DB, c *change) error {
	stmt := db.Statement
	rows := structs(stmt.ReflectValue)
	fields, all, asked := c.asked(stmt.Schema)
	c.restore(stmt)
	given := byKey(stmt, structs(stmt.ReflectValue))
	for _, row := range rows {
		c.rows = append(c.rows, overlaid(stmt, given[keyOf(stmt, row)], row))
	}
	if asked {
		hand(stmt, fields, all, rows)
	}
	return nil
}

// hand fills the caller's value from rows as GORM would: a struct from the first of
// them, a slice from all.
func hand(stmt *gorm.Statement, fields []*schema.Field, all bool, rows []reflect.Value) {
	v := stmt.ReflectValue
	switch {
	case v.Kind() == reflect.Struct:
		if len(rows) > 0 {
			fill(stmt, fields, v, rows[0])
		}
	case v.Kind() == reflect.Slice && (all || v.Len() == 0):
		v.Set(reflect.MakeSlice(v.Type(), len(rows), len(rows)))
		for i, row := range rows {
			if e := v.Index(i); e.Kind() == reflect.Pointer {
				e.Set(reflect.New(e.Type().Elem()))
			}
			fill(stmt, fields, reflect.Indirect(v.Index(i)), row)
		}
	default:
		given := byKey(stmt, structs(v))
		for _, row := range rows {
			if of, ok := given[keyOf(stmt, row)]; ok {
				fill(stmt, fields, of, row)
			}
		}
	}
}
