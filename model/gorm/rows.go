package gormoutbox

import (
	"fmt"
	"reflect"

	"gorm.io/gorm"
	"gorm.io/gorm/callbacks"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/schema"

	"github.com/outbox-go/outbox/model"
)

// conflictOf returns the statement's ON CONFLICT.
func conflictOf(stmt *gorm.Statement) (clause.OnConflict, bool) {
	conflict, ok := stmt.Clauses["ON CONFLICT"].Expression.(clause.OnConflict)
	return conflict, ok
}

// beforeCreate has an INSERT return the keys of rows that may not be as in memory.
func beforeCreate(returns bool) func(db *gorm.DB, c *change) error {
	return func(db *gorm.DB, c *change) error {
		stmt := db.Statement
		several := count(stmt.ReflectValue) > 1
		conflict, conflicts := conflictOf(stmt)
		switch {
		case conflicts && conflict.DoNothing:
			// GORM passes rows over whose defaults are set, and counts them.
			c.unsure = returns && several && anyDefaultSet(stmt)
		case conflicts && len(conflict.Where.Exprs) > 0 && several:
			return fmt.Errorf("several %s with ON CONFLICT DO UPDATE WHERE: which rows were written is not known: save them one at a time, or Skip", c.model.GoType())
		case conflicts && !returns:
			return errNoReturning
		case conflicts:
			c.readBack = true
			c.returnColumns(stmt, keys(stmt.Schema))
		}
		c.readBack = c.readBack || partial(stmt)
		return nil
	}
}

// keys are the columns that the database may choose, or those of a row that it had:
// named, since GORM would replace the values if all were returned.
func keys(s *schema.Schema) (columns []clause.Column) {
	for _, field := range s.Fields {
		if field.DBName != "" && field.Readable && (field.PrimaryKey || field.HasDefaultValue) {
			columns = append(columns, clause.Column{Name: field.DBName})
		}
	}
	return columns
}

// partial reports whether an INSERT leaves columns out of which GORM does not read
// back what they became.
func partial(stmt *gorm.Statement) bool {
	selected, restricted := stmt.SelectAndOmitColumns(true, false)
	for _, field := range stmt.Schema.Fields {
		if field.DBName == "" || !field.Readable {
			continue
		}
		wanted, ok := selected[field.DBName]
		if ok && !wanted || !ok && restricted || !field.Creatable && !field.HasDefaultValue {
			return true
		}
	}
	return false
}

// anyDefaultSet reports whether a value brings what the database would give.
func anyDefaultSet(stmt *gorm.Statement) bool {
	for _, p := range pointers(stmt.ReflectValue) {
		value := reflect.ValueOf(p).Elem()
		if !value.IsValid() {
			continue // nil, which GORM will refuse
		}
		for _, field := range stmt.Schema.FieldsWithDefaultDBValue {
			if _, zero := field.ValueOf(stmt.Context, value); !zero {
				return true
			}
		}
	}
	return false
}

func count(v reflect.Value) int64 {
	if v.Kind() == reflect.Slice || v.Kind() == reflect.Array {
		return int64(v.Len())
	}
	return 1
}

// afterCreate notes the rows that an INSERT has written: all, or none of them.
func afterCreate(db *gorm.DB, c *change) error {
	stmt := db.Statement
	c.restore(stmt)
	n := count(stmt.ReflectValue)
	switch {
	case db.RowsAffected == 0:
		return nil
	case db.RowsAffected != n || c.unsure:
		return fmt.Errorf("some of %d %s were there already and others not, and which is not known: save them one at a time, or Skip", n, c.model.GoType())
	case c.readBack:
		return c.read(db, n)
	}
	c.rows = pointers(stmt.ReflectValue)
	return nil
}

// read reads the n rows of the statement's values by their primary keys.
func (c *change) read(db *gorm.DB, n int64) error {
	stmt := db.Statement
	_, values := schema.GetIdentityFieldValuesMap(stmt.Context, stmt.ReflectValue, stmt.Schema.PrimaryFields)
	column, in := schema.ToQueryValues(stmt.Table, stmt.Schema.PrimaryFieldDBNames, values)
	rows := reflect.New(reflect.SliceOf(stmt.Schema.ModelType))
	tx := db.Session(&gorm.Session{NewDB: true, SkipHooks: true}).Unscoped().Table(stmt.Table)
	if err := tx.Where(clause.IN{Column: column, Values: in}).Find(rows.Interface()).Error; err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if found := rows.Elem().Len(); int64(found) != n {
		return fmt.Errorf("%d of %d %s were found by their primary keys when they were read back: save them by their keys, or Skip", found, n, c.model.GoType())
	}
	c.rows = c.overlaid(stmt, rows.Elem())
	return nil
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
		if elemType(stmt.ReflectValue) != stmt.Schema.ModelType {
			return fmt.Errorf("%s is published, and cannot be from a %T: use the type itself, or Skip", c.model.GoType(), stmt.Dest)
		}
		c.given = &given{stmt.ReflectValue, stmt.Dest, stmt.Model}
		if c.op == model.Updated {
			c.assign(stmt)
			stmt.ReflectValue = reflect.New(reflect.SliceOf(stmt.Schema.ModelType)).Elem()
		} else {
			aim(stmt)
		}
		c.returnColumns(stmt, nil)
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

// aim gives a DELETE a place for its rows that still says which are meant: GORM takes
// the primary keys from there.
func aim(stmt *gorm.Statement) {
	v := stmt.ReflectValue
	if !v.CanAddr() {
		// GORM compares the two where the value has an address, and panics if they
		// cannot be.
		v = addressable(v)
		stmt.Dest = v.Addr().Interface()
		stmt.Model = stmt.Dest
	}
	if v.Kind() == reflect.Struct {
		keyed, zero := reflect.New(v.Type()).Elem(), true
		for _, field := range stmt.Schema.PrimaryFields {
			value := field.ReflectValueOf(stmt.Context, v)
			field.ReflectValueOf(stmt.Context, keyed).Set(value)
			zero = zero && value.IsZero()
		}
		if v = keyed; zero {
			v = reflect.New(reflect.SliceOf(stmt.Schema.ModelType)).Elem()
		}
	}
	stmt.ReflectValue = v
}

// afterChange notes the rows that an UPDATE or DELETE has returned.
func afterChange(db *gorm.DB, c *change) error {
	rows := db.Statement.ReflectValue
	c.restore(db.Statement)
	if db.RowsAffected > 0 {
		c.rows = c.overlaid(db.Statement, rows)
	}
	return nil
}

// overlaid returns the rows to publish. A single one keeps what the value that was
// given has beside its columns: its associations, for a serializer.
func (c *change) overlaid(stmt *gorm.Statement, rows reflect.Value) []any {
	value := stmt.ReflectValue
	all := pointers(rows)
	if len(all) != 1 || value.Kind() != reflect.Struct {
		return all
	}
	merged := reflect.New(value.Type()).Elem()
	merged.Set(value)
	row := reflect.ValueOf(all[0]).Elem()
	for _, field := range stmt.Schema.Fields {
		if field.DBName != "" && field.Readable {
			field.ReflectValueOf(stmt.Context, merged).Set(field.ReflectValueOf(stmt.Context, row))
		}
	}
	return pointers(merged)
}
