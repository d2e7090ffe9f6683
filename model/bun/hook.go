package bunoutbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/model"
)

// Hook publishes models. It is safe for concurrent use; make it with [New].
type Hook struct {
	outbox *outbox.Outbox[*sql.Tx]
	models map[reflect.Type]model.Model
}

var _ bun.QueryHook = (*Hook)(nil)

// New returns a hook that publishes models to an outbox in the same database, or all
// that is wrong with them.
func New(ob *outbox.Outbox[*sql.Tx], models ...model.Model) (*Hook, error) {
	h := &Hook{outbox: ob, models: map[reflect.Type]model.Model{}}
	var errs []error
	if ob == nil {
		errs = append(errs, errors.New("bunoutbox: the outbox is nil: pass what outbox.New returns"))
	}
	if len(models) == 0 {
		errs = append(errs, errors.New("bunoutbox: there are no models: pass what model.Publish returns"))
	}
	for i, m := range models {
		if v := reflect.ValueOf(m); m == nil || v.Kind() == reflect.Pointer && v.IsNil() {
			errs = append(errs, fmt.Errorf("bunoutbox: model %d is nil: pass what model.Publish returns", i))
			continue
		}
		if _, ok := h.models[m.GoType()]; ok {
			errs = append(errs, fmt.Errorf("bunoutbox: model %d: %s is there already: pass all its configurations to one model.Publish", i, m.GoType()))
		}
		h.models[m.GoType()] = m
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return h, nil
}

// Exec runs an INSERT, UPDATE or DELETE in tx and emits for its rows in the same
// transaction. A statement on a model that is not published, or with [Skip], is run,
// too; an INSERT that may update is for [Hook.Upsert]. After an error the transaction
// must be rolled back.
func (h *Hook) Exec(ctx context.Context, tx bun.Tx, query bun.Query) (sql.Result, error) {
	return h.run(ctx, tx, query, opOf(query))
}

// Upsert is [Hook.Exec] for an INSERT with ON CONFLICT DO UPDATE. It is not known what
// it does to a row: configurations for [model.Created] and for [model.Updated] publish
// it.
func (h *Hook) Upsert(ctx context.Context, tx bun.Tx, query *bun.InsertQuery) (sql.Result, error) {
	return h.run(ctx, tx, query, model.Saved)
}

func (h *Hook) run(ctx context.Context, tx bun.Tx, query bun.Query, op model.Op) (sql.Result, error) {
	if tx.Tx == nil {
		return nil, outbox.ErrNilTx
	}
	if op == 0 {
		return nil, fmt.Errorf("bunoutbox: a %T cannot be published: pass an INSERT, UPDATE or DELETE", query)
	}
	if ctx.Value(skipKey{}) != nil {
		return runAlone(ctx, tx, query)
	}
	if m := h.modelOf(query); m != nil && m.On()&model.Saved != 0 && op == model.Created && updates(textOf(tx, query)) {
		return nil, fmt.Errorf("bunoutbox: %s is published, and its INSERT may update: use Upsert", m.GoType())
	}
	m, err := h.published(tx.Dialect(), query, op)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return runAlone(allow(ctx, query), tx, query)
	}
	rows, result, err := runForRows(allow(ctx, query), tx, query)
	if err != nil {
		return nil, err
	}
	events, err := m.Events(ctx, op, rows...)
	if err != nil {
		return nil, fmt.Errorf("bunoutbox: %w", err)
	}
	if err := h.outbox.Emit(ctx, tx.Tx, events...); err != nil {
		return nil, fmt.Errorf("bunoutbox: %w", err)
	}
	return result, nil
}

// published returns how a query is published, nil if it is not, and an error if it
// writes to the table of a published type and is not of the type.
func (h *Hook) published(dialect schema.Dialect, query bun.Query, op model.Op) (model.Model, error) {
	if m := h.modelOf(query); m != nil {
		if m.On()&op == 0 {
			return nil, nil
		}
		return m, nil
	}
	table := tableOf(query)
	for t, m := range h.models {
		if m.On()&op != 0 && sameTable(dialect.Tables().Get(t).Name, table) {
			return nil, fmt.Errorf("bunoutbox: %s is published, and the statement on its table %s is not of this type: use it, or Skip, or name the schema if it is another", t, table)
		}
	}
	return nil, nil
}

// modelOf returns nil if the model of a query is not published.
func (h *Hook) modelOf(query bun.Query) model.Model {
	if table, ok := query.GetModel().(bun.TableModel); ok {
		return h.models[table.Table().Type]
	}
	return nil
}

func opOf(query bun.Query) model.Op {
	switch query.(type) {
	case *bun.InsertQuery:
		return model.Created
	case *bun.UpdateQuery:
		return model.Updated
	case *bun.DeleteQuery:
		return model.Deleted
	}
	return 0
}

type allowKey struct{}

// allow lets query through, but nothing that hooks of the model do with ctx.
func allow(ctx context.Context, query bun.Query) context.Context {
	return context.WithValue(ctx, allowKey{}, query)
}

type skipKey struct{}

// Skip returns a context with which statements on published models run as any other,
// and are not published.
func Skip(ctx context.Context) context.Context { return context.WithValue(ctx, skipKey{}, true) }

// BeforeQuery implements [bun.QueryHook]: it refuses what should have been published.
func (h *Hook) BeforeQuery(ctx context.Context, event *bun.QueryEvent) context.Context {
	query := event.IQuery
	if query == nil || ctx.Value(skipKey{}) != nil || ctx.Value(allowKey{}) == any(query) {
		return ctx
	}
	op := opOf(query)
	if op == model.Created && updates(event.Query) {
		op = model.Saved
	}
	m, err := h.published(event.DB.Dialect(), query, op)
	if m != nil {
		err = fmt.Errorf("bunoutbox: %s is published: run its %s by Exec, or with Skip", m.GoType(), query.Operation())
	}
	if err != nil {
		return refusal{ctx, err}
	}
	return ctx
}

// AfterQuery implements [bun.QueryHook].
func (h *Hook) AfterQuery(context.Context, *bun.QueryEvent) {}

// refusal is a context that has ended: the one way of a hook to keep a statement from
// being run.
type refusal struct {
	context.Context
	err error
}

var ended = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (r refusal) Done() <-chan struct{} { return ended }
func (r refusal) Err() error            { return r.err }
