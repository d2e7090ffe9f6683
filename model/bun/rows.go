package bunoutbox

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
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
	var result sql.Result
	var err error
	switch q := query.(type) {
	case *bun.InsertQuery:
		// Its models get the keys that the database makes, in their places.
		into = reflect.ValueOf(table.Value())
		result, err = q.Conn(tx).Returning("?Columns").Exec(ctx)
	case *bun.UpdateQuery:
		result, err = q.Conn(tx).Returning(columns).Exec(ctx, into.Interface())
	case *bun.DeleteQuery:
		result, err = q.Conn(tx).Returning(columns).Exec(ctx, into.Interface())
	}
	if err != nil {
		return nil, nil, err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return nil, result, err
	}
	rows := pointers(into.Elem())
	return overlaid(table, rows), result, nil
}

// pointers returns pointers to a value or to the elements of a slice.
func pointers(v reflect.Value) []any {
	if v.Kind() != reflect.Slice {
		return []any{v.Addr().Interface()}
	}
	all := make([]any, v.Len())
	for i := range all {
		if e := v.Index(i); e.Kind() == reflect.Pointer {
			all[i] = e.Interface()
		} else {
			all[i] = e.Addr().Interface()
		}
	}
	return all
}

// overlaid returns the rows to publish. A single one keeps what the value that was
// given has beside its columns: its relations, for a serializer.
func overlaid(table bun.TableModel, rows []any) []any {
	given := reflect.ValueOf(table.Value())
	if len(rows) != 1 || given.Kind() != reflect.Pointer || given.IsNil() || given.Elem().Kind() != reflect.Struct {
		return rows
	}
	merged := reflect.New(given.Elem().Type())
	merged.Elem().Set(given.Elem())
	row := reflect.ValueOf(rows[0]).Elem()
	for _, field := range table.Table().Fields {
		field.Value(merged.Elem()).Set(field.Value(row))
	}
	return []any{merged.Interface()}
}
