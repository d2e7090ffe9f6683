// Package model publishes Go types: a value of such a type that is saved becomes a
// message, in the transaction that saves it.
//
//	var users = model.Must(model.Publish[User](
//		model.Config{Destination: "user.saved"},
//		model.Config{Destination: "user.names", Fields: []string{"name"}, Version: "v1"},
//	))
//
// With database/sql, pgx or sqlc, [Save] runs the statement and emits:
//
//	err := model.Save(ctx, ob, tx, func() error {
//		return queries.WithTx(tx).UpdateUser(ctx, params)
//	}, users.Updated(&user))
//
// For GORM and bun there are hooks: see the modules model/gorm and model/bun. What is
// changed behind the types' back, by SQL, is published by the database itself, with
// the command "outbox track".
//
// # Bodies
//
// A body is a JSON object: first the id, under the name "id", then the fields in the
// order of their declaration. Names, order, omitempty, omitzero and embedding are
// those of encoding/json; "-" leaves a field out. As django-outbox-pattern does, a
// space follows each comma and colon. Characters beyond ASCII stay as they are in
// UTF-8, where Python would escape them.
package model
