// Package bunoutbox publishes bun models when they are saved, in the transaction that
// saves them.
//
//	hook, err := bunoutbox.New(outbox.New(sqlstore.New(sqlDB, sqlstore.PostgreSQL, nil)), users, orders)
//	db = db.WithQueryHook(hook)
//	err = db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
//		_, err := hook.Exec(ctx, tx, tx.NewInsert().Model(&user))
//		return err
//	})
//
// bun's hooks see neither the transaction of a statement nor can they make it fail
// afterwards. So it is [Hook.Exec] that runs the statement and emits for the models
// that are published, see package model, all with one INSERT. As a query hook it only
// sees to it that nobody forgets: a statement on a published model that does not come
// by Exec is an error. [Skip] saves without publishing.
//
// A message tells what the database has: the statement returns its rows, by RETURNING,
// and all of them are published and held in memory. An INSERT fills its models from
// them, an UPDATE or DELETE leaves its model alone. With ON CONFLICT DO NOTHING the rows
// that were inserted are published; bun shrinks the slice to them, and may leave the
// relations of another in an element. A serializer gets the model that was given, with
// its relations, if that is a single one whose primary key is that of the row; else it
// gets the rows. A soft delete is [model.Deleted].
//
// An INSERT with DO UPDATE, or another that may update, is for [Hook.Upsert], and Exec
// refuses it. What writes to the table of a published model and is not of its type is
// refused, too, be it a map, [bun.UpdateQuery.Table] or another type; a name without a
// schema may be that of any schema. An INSERT of what a SELECT returns has no values to
// be filled, and is refused.
//
// On a [bun.Conn] what is refused arrives as "driver: bad connection", since that is
// what database/sql makes of it: use the bun.DB, or a bun.Tx, to read the reason.
//
// SQL by NewRaw, ExecContext and NewMerge is not seen, nor a statement that only names
// its table after a WITH that has a model: the command "outbox track" has the database
// publish what it changes.
package bunoutbox
