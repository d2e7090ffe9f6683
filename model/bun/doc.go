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
// them, an UPDATE or DELETE leaves its model alone. A serializer gets the model
// that was given, with its relations, if that is a single one; of several it gets the
// rows. A soft delete is [model.Deleted].
//
// SQL by NewRaw, ExecContext and NewMerge is not seen: the command "outbox track" has
// the database publish what it changes.
package bunoutbox
