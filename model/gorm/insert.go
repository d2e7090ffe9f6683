package gormoutbox

import (
	"fmt"

	"gorm.io/gorm"
	"gorm.io/gorm/callbacks"
	"gorm.io/gorm/clause"
)

// conflictOf returns the statement's ON CONFLICT.
func conflictOf(stmt *gorm.Statement) (clause.OnConflict, bool) {
	conflict, ok := stmt.Clauses["ON CONFLICT"].Expression.(clause.OnConflict)
	return conflict, ok
}

// beforeCreate has an INSERT return its rows, if they may not be as in memory.
func beforeCreate(returns bool) func(db *gorm.DB, c *change) error {
	return func(db *gorm.DB, c *change) error {
		stmt := db.Statement
		conflict, conflicts := conflictOf(stmt)
		_, asked := stmt.Clauses["RETURNING"]
		switch {
		case conflicts && len(conflict.Where.Exprs) > 0 && len(structs(stmt.ReflectValue)) > 1:
			return fmt.Errorf("several %s with ON CONFLICT DO UPDATE WHERE: which rows were written is not known: save them one at a time, or Skip", c.model.GoType())
		case !conflicts && !asked && !partial(stmt):
			return nil
		case !returns && conflict.DoNothing && !partial(stmt):
			return nil // all or none: their number tells
		case !returns:
			return errNoReturning
		}
		if err := c.returnRows(stmt); err != nil {
			return err
		}
		if buildInsert(stmt); db.Error == nil {
			c.take(stmt)
		}
		return nil
	}
}

// partial reports whether an INSERT leaves columns out of which GORM does not read
// back what they became.
func partial(stmt *gorm.Statement) bool {
	selected, restricted := stmt.SelectAndOmitColumns(true, false)
	for _, field := range stmt.Schema.Fields {
		if !inRow(field) {
			continue
		}
		wanted, ok := selected[field.DBName]
		if ok && !wanted || !ok && restricted || !field.Creatable && !field.HasDefaultValue {
			return true
		}
	}
	return false
}

// buildInsert does what GORM's callback does with the values that were given, before
// the rows take their place.
func buildInsert(stmt *gorm.Statement) {
	if !stmt.Unscoped {
		for _, clause := range stmt.Schema.CreateClauses {
			stmt.AddClause(clause)
		}
	}
	if stmt.SQL.Len() > 0 {
		return
	}
	stmt.AddClauseIfNotExists(clause.Insert{})
	stmt.AddClause(callbacks.ConvertToCreateValues(stmt))
	stmt.Build(stmt.BuildClauses...)
}

// afterCreate notes the rows that an INSERT has written.
func afterCreate(db *gorm.DB, c *change) error {
	stmt := db.Statement
	if c.given != nil {
		return c.inserted(stmt)
	}
	given := structs(stmt.ReflectValue)
	switch db.RowsAffected {
	case 0:
		return nil
	case int64(len(given)):
		for _, v := range given {
			if lacksKey(stmt, v) {
				return fmt.Errorf("the key that the database gave a %s is not known: let GORM read it, or Skip", c.model.GoType())
			}
			c.rows = append(c.rows, v.Addr().Interface())
		}
		return nil
	}
	return c.unknown(len(given))
}

// inserted notes the rows that an INSERT has returned, and gives the values that they
// come from what GORM would: the columns with a default, or those of the caller's
// RETURNING.
func (c *change) inserted(stmt *gorm.Statement) error {
	rows := structs(stmt.ReflectValue)
	fields, _, asked := c.asked(stmt.Schema)
	c.restore(stmt)
	if !asked {
		fields = stmt.Schema.FieldsWithDefaultDBValue
	}
	given := structs(stmt.ReflectValue)
	sources, ok := paired(stmt, given, rows)
	if !ok {
		return c.unknown(len(given))
	}
	for i, row := range rows {
		fill(stmt, fields, sources[i], row)
		c.rows = append(c.rows, overlaid(stmt, sources[i], row))
	}
	return nil
}

func (c *change) unknown(n int) error {
	return fmt.Errorf("some of %d %s were there already and others not, and which is not known: save them one at a time, or Skip", n, c.model.GoType())
}
