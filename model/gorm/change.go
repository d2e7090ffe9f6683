package gormoutbox

import (
	"database/sql"
	"fmt"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/outbox-go/outbox/model"
)

const (
	changeKey = "outbox:change"
	txKey     = "outbox:tx"
)

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
		h.watch(db, c)
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
		return nil, h.foreign(tableOf(stmt), op)
	}
	if m.On()&op == 0 {
		return nil, nil
	}
	if op&model.Created != 0 && elemType(stmt.ReflectValue) != m.GoType() {
		return nil, fmt.Errorf("%s is published, and cannot be from a %T: use the type itself, or Skip", m.GoType(), stmt.Dest)
	}
	return &change{model: m, op: op}, nil
}

// foreign refuses a statement on the table of a published type that is not of the type.
func (h *hook) foreign(table string, op model.Op) error {
	for name, m := range h.tables {
		if m.On()&op != 0 && sameTable(name, table) {
			return fmt.Errorf("%s is published, and the statement on its table %s is not of this type: use it, or Skip, or name the schema if it is another", m.GoType(), table)
		}
	}
	return nil
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
	c.rows = nil
	h.running.CompareAndSwap(tx, false, true)
	return h.outbox.Emit(ctx, tx, events...)
}

// watch notes a transaction that ends with the statement: associations and the hooks of
// models emit in it, too.
func (h *hook) watch(db *gorm.DB, c *change) {
	var tx *sql.Tx
	if _, started := db.InstanceGet("gorm:started_transaction"); started || c != nil && c.pool != nil {
		tx, _ = txOf(db.Statement)
	}
	db.InstanceSet(txKey, tx)
	if tx != nil {
		h.running.Store(tx, false)
	}
}

// end ends the transaction that begin has begun. Where the commit is seen, the relay
// is told.
func (h *hook) end(db *gorm.DB) {
	if c := changeOf(db); c != nil {
		c.end(db)
	}
	tx, _ := db.InstanceGet(txKey)
	if emitted, _ := h.running.LoadAndDelete(tx); emitted == true && db.Error == nil {
		h.outbox.Wake()
	}
}

func (c *change) end(db *gorm.DB) {
	c.restore(db.Statement)
	if c.pool == nil {
		return
	}
	if db.Error != nil {
		db.Rollback()
	} else {
		db.Commit()
	}
	db.Statement.ConnPool = c.pool
}
