// Package gormoutbox publishes GORM models when they are saved, in the transaction in
// which GORM saves them.
//
//	store := sqlstore.New(sqlDB, sqlstore.PostgreSQL, nil)
//	err := db.Use(gormoutbox.New(outbox.New(store), users, orders))
//
// From then on Create, CreateInBatches, Save, Update, Updates, UpdateColumn and Delete
// emit for the models that are published, see package model, and for no others. The
// messages of a statement are one INSERT, in GORM's own transaction for it or in the
// one that the caller has begun: what is rolled back, to a savepoint too, was not
// emitted. With SkipDefaultTransaction, a statement on a published model still has a
// transaction of its own. Associations that are saved along are published too, whether
// what they belong to is or not. A soft delete is [model.Deleted]. After a commit of
// GORM's own the relay is told; after one of the caller's, call Wake of the outbox or
// leave it to the relay.
//
// A message tells what the database has. A new row is published as it is in memory: a
// time that GORM has set keeps its nanoseconds there, which the database may round.
// After an update or a delete GORM reads the rows back in the same statement, by
// RETURNING, and so all rows of
//
//	db.Model(&User{}).Where("age > ?", 18).Update("adult", true)
//
// are published, and held in memory for it. It is the same with an INSERT that has ON
// CONFLICT or a RETURNING of the caller's, or leaves columns out, by Select, Omit or a
// permission: with DO NOTHING the rows that were inserted are published, and no others.
// Of an upsert it is not known what it did: configurations for [model.Created] and for
// [model.Updated] publish it.
//
// The values that were given become what GORM makes of them, with a RETURNING of the
// caller's, too, which needs a pointer. RowsAffected is the number of all rows that were
// written, where GORM would count one for a RETURNING into a struct. A serializer gets
// the value that was given, with its associations, if its primary key is that of the
// row, else the row alone.
//
// Messages are emitted before the model's hooks AfterCreate, AfterUpdate, AfterDelete
// and AfterSave are called. When one of them fails, or anything else, the transaction
// must be rolled back; GORM does so with its own.
//
// # What is not published
//
// [Skip] saves without publishing. SQL by Exec and Raw is not seen, nor is
// what other programs write: the command "outbox track" has the database publish
// that. What cannot be published rightly is an error, before it is written or so that
// it is rolled back: rows given as maps, or as another type of the same table (a name
// without a schema may be that of any schema); an update with FROM; several rows without
// keys and with ON CONFLICT DO NOTHING of which only some were inserted, since which of
// the values got the keys is not known; several with DO UPDATE WHERE; a dialect without
// RETURNING where it is needed.
package gormoutbox
