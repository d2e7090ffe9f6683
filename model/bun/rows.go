package bunoutbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"
)

// runAlone runs a query whose rows nobody wants.
func runAlone(ctx context.Context, tx bun.Tx, query bun.Query) (sql.Result, error) {
	switch q := query.(type) {
	case *bun.InsertQuery:
		return q.Conn(tx).Exec(ctx)
	case *bun.UpdateQuery:
		return q.Conn(tx).Exec(ctx)
	case *bun.DeleteQuery:
		return q.Conn(tx).Exec(ctx)
	}
	return nil, fmt.Errorf("bunoutbox: a %T cannot be run", query)
}

// runForRows runs a query and returns pointers to its rows.
func runForRows(ctx context.Context, tx bun.Tx, query bun.Query) ([]any, sql.Result, error) {
	table := query.GetModel().(bun.TableModel)
	into := reflect.New(reflect.SliceOf(table.Table().Type))
	columns := "?TableColumns"
	if tx.Dialect().Name() == dialect.SQLite {
		columns = "?Columns" // its RETURNING knows no alias, and no other table
	}
	var exec func(context.Context, ...any) (sql.Result, error)
	switch q := query.(type) {
	case *bun.InsertQuery:
		// Its models get the keys that the database makes, in their places.
		if into = reflect.ValueOf(table.Value()); into.Kind() != reflect.Pointer || into.IsNil() {
			return nil, nil, fmt.Errorf("bunoutbox: %s is published, and its INSERT has no values to be filled: pass a pointer to them as the model, or run it with Skip and emit yourself", table.Table().Type)
		}
		insert := q.Conn(tx).Returning("?Columns")
		exec = func(ctx context.Context, _ ...any) (sql.Result, error) { return insert.Exec(ctx) }
	case *bun.UpdateQuery:
		exec = q.Conn(tx).Returning(columns).Exec
	case *bun.DeleteQuery:
		exec = q.Conn(tx).Returning(columns).Exec
	}
	if returnsNull(textOf(tx, query)) {
		return nil, nil, errors.New(`bunoutbox: what is published has its rows returned: leave Returning("NULL") out, or run it with Skip`)
	}
	result, err := exec(ctx, into.Interface())
	if err != nil {
		return nil, nil, err
	}
	n, err := result.RowsAffected()
	if err != nil || n == 0 {
		return nil, result, err
	}
	rows := structs(into.Elem())
	if int64(len(rows)) != n {
		return nil, nil, fmt.Errorf("bunoutbox: %d %s were written, and the model holds %d: pass a slice", n, table.Table().Type, len(rows))
	}
	return published(table, rows), result, nil
}

// structs returns a struct or the elements of a slice.
func structs(v reflect.Value) []reflect.Value {
	if v.Kind() != reflect.Slice {
		return []reflect.Value{v}
	}
	all := make([]reflect.Value, v.Len())
	for i := range all {
		all[i] = reflect.Indirect(v.Index(i))
	}
	return all
}

// published returns pointers to what is to be published of rows: their columns alone,
// since bun may have put one into what had been the place of another. A single one
// keeps what the value that was given has beside its columns: its relations, for a
// serializer.
func published(table bun.TableModel, rows []reflect.Value) []any {
	given := reflect.Indirect(reflect.ValueOf(table.Value()))
	single := len(rows) == 1 && given.Kind() == reflect.Struct && sameKey(table.Table(), given, rows[0])
	all := make([]any, len(rows))
	for i, row := range rows {
		own := reflect.New(table.Table().Type)
		if single {
			detach(table.Table(), own.Elem(), given)
		}
		for _, field := range table.Table().Fields {
			field.Value(own.Elem()).Set(field.Value(row))
		}
		all[i] = own.Interface()
	}
	return all
}

// sameKey reports whether two values have the same primary key.
func sameKey(table *schema.Table, a, b reflect.Value) bool {
	return !slices.ContainsFunc(table.PKs, func(field *schema.Field) bool {
		return !reflect.DeepEqual(field.Value(a).Interface(), field.Value(b).Interface())
	})
}

// detach sets own to a copy of v that shares none of the structs that v embeds by
// pointers.
func detach(table *schema.Table, own, v reflect.Value) {
	own.Set(v)
	done := map[any]bool{}
	for _, field := range table.Fields {
		at := own
		for _, i := range field.Index[:len(field.Index)-1] {
			if at = at.Field(i); at.Kind() != reflect.Pointer {
				continue
			}
			if at.IsNil() {
				break
			}
			if place := at.Addr().Interface(); !done[place] {
				done[place] = true
				copied := reflect.New(at.Type().Elem())
				copied.Elem().Set(at.Elem())
				at.Set(copied)
			}
			at = at.Elem()
		}
	}
}
