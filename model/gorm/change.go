package gormoutbox

import (
	"database/sql"
	"errors"
	"fmt"
	"reflect"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/outbox-go/outbox/model"
)

const changeKey = "outbox:change"

// change is a statement on a published model, on its way through the callbacks.
type change struct {
	model model.Model
	op    model.Op
	rows  []any // what is to be published

	// pool is that of before, if the transaction was begun here.
	pool gorm.ConnPool

	// What is the caller's, while the statement has something else.
	given     *given
	returning *clause.Clause
	assigned  bool // the SET is not the caller's

	readBack bool // the rows may not be as in memory
	unsure   bool // the number of rows that GORM reports is not to be relied upon
	emitted  bool
}

// given are a statement's values.
type given struct {
	value       reflect.Value
	dest, model any
}

// each calls fn for a statement that is to be published, unless it has failed.
func each(fn func(db *gorm.DB, c *change) error) func(*gorm.DB) {
	return func(db *gorm.DB) {
		if c := changeOf(db); c != nil && db.Error == nil {
			note(db, fn(db, c))
		}
	}
}

func changeOf(db *gorm.DB) *change {
	v, _ := db.InstanceGet(changeKey)
	c, _ := v.(*change)
	return c
}

func note(db *gorm.DB, err error) {
	if err != nil {
		_ = db.AddError(fmt.Errorf("gormoutbox: %w", err))
	}
}

// begin finds out whether a statement is to be published, and sees to a transaction.
func (h *hook) begin(op model.Op) func(*gorm.DB) {
	return func(db *gorm.DB) {
		c, err := h.change(db, op)
		if err == nil && c != nil {
			err = c.begin(db)
		}
		db.InstanceSet(changeKey, c)
		note(db, err)
	}
}

// change returns nil if the statement is not to be published.
func (h *hook) change(db *gorm.DB, op model.Op) (*change, error) {
	stmt := db.Statement
	if _, skip := db.Get(skipKey); skip || db.Error != nil || db.DryRun {
		return nil, nil
	}
	if conflict, ok := conflictOf(stmt); ok && op == model.Created && !conflict.DoNothing {
		op = model.Saved
	}
	var m model.Model
	if stmt.Schema != nil {
		m = h.types[stmt.Schema.ModelType]
	}
	if m == nil {
		if other := h.tables[stmt.Table]; other != nil && other.On()&op != 0 {
			return nil, fmt.Errorf("%s is published, and the statement on its table %s is not of this type: use it, or Skip", other.GoType(), stmt.Table)
		}
		return nil, nil
	}
	if m.On()&op == 0 {
		return nil, nil
	}
	if op&model.Created != 0 && elemType(stmt.ReflectValue) != m.GoType() {
		return nil, fmt.Errorf("%s is published, and cannot be from a %T: use the type itself, or Skip", m.GoType(), stmt.Dest)
	}
	return &change{model: m, op: op}, nil
}

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

// begin begins a transaction if there is none, as with SkipDefaultTransaction.
func (c *change) begin(db *gorm.DB) error {
	stmt := db.Statement
	if _, ok := stmt.ConnPool.(gorm.TxCommitter); !ok {
		tx := db.Begin()
		if tx.Error != nil {
			return fmt.Errorf("begin: %w", tx.Error)
		}
		c.pool, stmt.ConnPool = stmt.ConnPool, tx.Statement.ConnPool
	}
	_, err := txOf(stmt)
	return err
}

// txOf returns the transaction of database/sql that GORM uses.
func txOf(stmt *gorm.Statement) (*sql.Tx, error) {
	pool := stmt.ConnPool
	if prepared, ok := pool.(*gorm.PreparedStmtTX); ok {
		pool = prepared.Tx
	}
	if tx, ok := pool.(*sql.Tx); ok && tx != nil {
		return tx, nil
	}
	return nil, fmt.Errorf("the transaction is a %T, and must be an *sql.Tx", pool)
}

// emit writes the messages.
func (h *hook) emit(db *gorm.DB, c *change) error {
	if len(c.rows) == 0 {
		return nil
	}
	ctx := db.Statement.Context
	events, err := c.model.Events(ctx, c.op, c.rows...)
	if err != nil {
		return err
	}
	tx, err := txOf(db.Statement)
	if err != nil {
		return err
	}
	c.rows, c.emitted = nil, true
	return h.outbox.Emit(ctx, tx, events...)
}

// end ends the transaction that begin has begun. Where the commit is seen, the relay
// is told.
func (h *hook) end(db *gorm.DB) {
	c := changeOf(db)
	if c == nil {
		return
	}
	c.restore(db.Statement)
	if c.pool != nil {
		if db.Error != nil {
			db.Rollback()
		} else {
			db.Commit()
		}
		db.Statement.ConnPool = c.pool
	}
	if _, inTx := db.Statement.ConnPool.(gorm.TxCommitter); c.emitted && !inTx && db.Error == nil {
		h.outbox.Wake()
	}
}

var errNoReturning = errors.New("the dialect has no RETURNING, by which the rows are read back: let it, or Skip and emit yourself")

// returnColumns has the statement return columns, or all if there are none.
func (c *change) returnColumns(stmt *gorm.Statement, columns []clause.Column) {
	if before, ok := stmt.Clauses["RETURNING"]; ok {
		c.returning = &before
	} else {
		c.returning = &clause.Clause{}
	}
	delete(stmt.Clauses, "RETURNING")
	stmt.AddClause(clause.Returning{Columns: columns})
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

// pointers returns pointers to a value or to the elements of a slice.
func pointers(v reflect.Value) []any {
	if v.Kind() != reflect.Slice && v.Kind() != reflect.Array {
		return []any{pointer(v)}
	}
	all := make([]any, v.Len())
	for i := range all {
		all[i] = pointer(v.Index(i))
	}
	return all
}

func pointer(v reflect.Value) any {
	if v.Kind() == reflect.Pointer {
		return v.Interface()
	}
	return addressable(v).Addr().Interface()
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
