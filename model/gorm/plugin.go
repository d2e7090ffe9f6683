package gormoutbox

import (
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"gorm.io/gorm"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/model"
)

// Plugin is a [gorm.Plugin] that publishes models. It is safe for concurrent use, by
// any number of [gorm.DB]; make it with [New].
type Plugin struct {
	outbox *outbox.Outbox[*sql.Tx]
	models []model.Model
}

// New returns a plugin that publishes models to an outbox in the same database. Their
// types must be GORM models; whatever is wrong is reported by [gorm.DB.Use].
func New(ob *outbox.Outbox[*sql.Tx], models ...model.Model) *Plugin {
	return &Plugin{outbox: ob, models: models}
}

const skipKey = "outbox:skip"

// Skip returns a session in which nothing is published of what the caller saves. What
// the hooks of a model save by their own is published.
func Skip(db *gorm.DB) *gorm.DB { return db.Set(skipKey, true).Session(&gorm.Session{}) }

// Name implements [gorm.Plugin].
func (p *Plugin) Name() string { return "outbox" }

// Initialize implements [gorm.Plugin]: it registers the callbacks.
func (p *Plugin) Initialize(db *gorm.DB) error {
	h := &hook{outbox: p.outbox, types: map[reflect.Type]model.Model{}, tables: map[string]model.Model{}}
	var errs []error
	if p.outbox == nil {
		errs = append(errs, errors.New("gormoutbox: the outbox is nil: pass what outbox.New returns"))
	}
	if len(p.models) == 0 {
		errs = append(errs, errors.New("gormoutbox: there are no models: pass what model.Publish returns"))
	}
	for i, m := range p.models {
		if err := h.add(db, m); err != nil {
			errs = append(errs, fmt.Errorf("gormoutbox: model %d: %w", i, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return h.register(db)
}

// hook are the callbacks of a gorm.DB.
type hook struct {
	outbox *outbox.Outbox[*sql.Tx]
	types  map[reflect.Type]model.Model
	tables map[string]model.Model // one of each table

	// running are the transactions, as *sql.Tx, that end with a statement, and whether
	// anything was emitted in them.
	running sync.Map
}

func (h *hook) add(db *gorm.DB, m model.Model) error {
	if v := reflect.ValueOf(m); m == nil || v.Kind() == reflect.Pointer && v.IsNil() {
		return errors.New("is nil: pass what model.Publish returns")
	}
	t := m.GoType()
	if _, ok := h.types[t]; ok {
		return fmt.Errorf("%s is there already: pass all its configurations to one model.Publish", t)
	}
	stmt := &gorm.Statement{DB: db}
	if err := stmt.Parse(reflect.New(t).Interface()); err != nil {
		return fmt.Errorf("%s is no GORM model: %w", t, err)
	}
	h.types[t], h.tables[stmt.Schema.Table] = m, m
	return nil
}

// register puts the callbacks between GORM's own.
func (h *hook) register(db *gorm.DB) error {
	create, update, remove := db.Callback().Create(), db.Callback().Update(), db.Callback().Delete()
	returns := func(clauses []string) bool { return slices.Contains(clauses, "RETURNING") }
	return errors.Join(
		create.Before("gorm:before_create").Register("outbox:begin_create", h.begin(model.Created)),
		create.Before("gorm:create").Register("outbox:before_create", each(beforeCreate(returns(create.Clauses)))),
		create.Before("gorm:save_after_associations").Register("outbox:after_create", each(afterCreate)),
		create.Before("gorm:after_create").Register("outbox:emit_create", each(h.emit)),
		create.After("gorm:commit_or_rollback_transaction").Register("outbox:end_create", h.end),

		update.Before("gorm:before_update").Register("outbox:begin_update", h.begin(model.Updated)),
		update.Before("gorm:update").Register("outbox:before_update", each(beforeChange(returns(update.Clauses)))),
		update.Before("gorm:save_after_associations").Register("outbox:after_update", each(afterChange)),
		update.Before("gorm:after_update").Register("outbox:emit_update", each(h.emit)),
		update.After("gorm:commit_or_rollback_transaction").Register("outbox:end_update", h.end),

		remove.Before("gorm:before_delete").Register("outbox:begin_delete", h.begin(model.Deleted)),
		remove.Before("gorm:delete").Register("outbox:before_delete", each(beforeChange(returns(remove.Clauses)))),
		remove.Before("gorm:after_delete").Register("outbox:emit_delete", each(h.emit)),
		remove.Before("outbox:emit_delete").Register("outbox:after_delete", each(afterChange)),
		remove.After("gorm:commit_or_rollback_transaction").Register("outbox:end_delete", h.end),
	)
}
