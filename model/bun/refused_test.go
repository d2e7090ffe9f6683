package bunoutbox_test

import (
	"context"
	"database/sql"
	"strings"
	"testing"

	"github.com/uptrace/bun"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/model"
	bunoutbox "github.com/outbox-go/outbox/model/bun"
	"github.com/outbox-go/outbox/outboxtest"
)

func TestStatementPastTheHookIsRefused(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		ctx := t.Context()
		refused := func(_ sql.Result, err error) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), "bunoutbox: ") || !strings.Contains(err.Error(), "by Exec, or with Skip") {
				t.Errorf("the error is %v", err)
			}
		}
		refused(b.db.NewInsert().Model(&User{Name: "x"}).Exec(ctx))
		refused(b.db.NewUpdate().Model(&User{ID: 1}).Set("age = 1").WherePK().Exec(ctx))
		refused(b.db.NewDelete().Model(&Pet{ID: 1}).WherePK().Exec(ctx))
		must(t, b.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			refused(tx.NewInsert().Model(&User{Name: "x"}).Exec(ctx))
			_, err := tx.NewInsert().Model(&Note{}).Exec(ctx)
			return err // the transaction is as good as before
		}))
		if n := b.count(&User{}); n != 0 {
			t.Errorf("%d users were saved", n)
		}
		_, err := b.db.NewInsert().Model(&User{Name: "skipped"}).Exec(bunoutbox.Skip(ctx))
		must(t, err)
		_, err = b.db.NewInsert().Model(&Team{Name: "published when it is deleted"}).Exec(ctx)
		must(t, err)
		b.ok(insert(&Team{}))
		b.ok(insert(&Note{}))
		b.want("what is not published")
		if users, teams, notes := b.count(&User{}), b.count(&Team{}), b.count(&Note{}); users != 1 || teams != 2 || notes != 2 {
			t.Errorf("%d users, %d teams and %d notes were saved", users, teams, notes)
		}
	})
}

func TestOtherWaysToThePublishedTableAreRefused(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		ctx := t.Context()
		type Member struct {
			bun.BaseModel `bun:"table:users"`
			ID            int64 `bun:",pk,autoincrement"`
			Name          string
		}
		row := map[string]any{"name": "by a map"}
		for name, query := range map[string]func(db bun.IDB) bun.Query{
			"a map":               func(db bun.IDB) bun.Query { return db.NewInsert().Model(&row).Table("users") },
			"UPDATE of a table":   func(db bun.IDB) bun.Query { return db.NewUpdate().Table("users").Set("age = 1").Where("1 = 1") },
			"DELETE of an alias":  func(db bun.IDB) bun.Query { return db.NewDelete().TableExpr("users AS u").Where("1 = 1") },
			"a table of a schema": func(db bun.IDB) bun.Query { return db.NewDelete().Table("main.users").Where("1 = 1") },
			"another type":        func(db bun.IDB) bun.Query { return db.NewInsert().Model(&Member{Name: "x"}) },
		} {
			_, byExec := b.exec(func(tx bun.Tx) bun.Query { return query(tx) })
			_, past := query(b.db).(interface {
				Exec(ctx context.Context, dest ...any) (sql.Result, error)
			}).Exec(ctx)
			for _, err := range []error{byExec, past} {
				if err == nil || !strings.Contains(err.Error(), "User is published, and the statement on its table") {
					t.Errorf("%s: the error is %v", name, err)
				}
			}
		}
		b.want("what was refused")
		if n := b.count(&User{}); n != 0 {
			t.Errorf("%d users were saved", n)
		}
		_, err := b.db.NewInsert().Model(&row).Table("users").Exec(bunoutbox.Skip(ctx))
		must(t, err)
		must(t, b.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			_, err := b.hook.Exec(bunoutbox.Skip(ctx), tx, tx.NewInsert().Model(&User{Name: "skipped"}))
			return err
		}))
		b.want("statements with Skip")
		if n := b.count(&User{}); n != 2 {
			t.Errorf("%d users were saved with Skip, want 2", n)
		}
	})
}

func TestExecRefusesWhatItCannotPublish(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		upsert := func(tx bun.Tx) bun.Query {
			return tx.NewInsert().Model(&User{Name: "x"}).On("CONFLICT (name) DO UPDATE").Set("age = EXCLUDED.age")
		}
		for _, c := range []struct {
			query func(tx bun.Tx) bun.Query
			want  string
		}{
			{upsert, "use Upsert"},
			{func(tx bun.Tx) bun.Query { return tx.NewInsert().Model(&User{Name: "x"}).Returning("NULL") }, `Returning("NULL")`},
			{func(tx bun.Tx) bun.Query {
				return tx.NewInsert().Model((*Pet)(nil)).Column("name").TableExpr("(SELECT name FROM users) AS s")
			}, "has no values to be filled"},
			{func(tx bun.Tx) bun.Query {
				return tx.NewInsert().Model(&Pet{}).Column("name").TableExpr("(SELECT 'a' AS name UNION ALL SELECT 'b') AS s")
			}, "2 bunoutbox_test.Pet were written"},
		} {
			if _, err := b.exec(c.query); err == nil || !strings.Contains(err.Error(), "bunoutbox: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v, want %q in it", err, c.want)
			}
		}
		b.want("what was refused")
		if users, pets := b.count(&User{}), b.count(&Pet{}); users+pets != 0 {
			t.Errorf("%d users and %d pets were saved", users, pets)
		}
		b.ok(insert(&User{Name: "ON CONFLICT DO UPDATE ' DO UPDATE RETURNING NULL, "}))
		if n := b.count(&User{}); n != 1 {
			t.Error("SQL in a value was taken for SQL")
		}
	})
}

func TestUpsertIsRefusedWhereUpdatesArePublished(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		hook, err := bunoutbox.New(outbox.New(outboxtest.NewRecorder[*sql.Tx](nil)), model.Must(model.Publish[Note](model.Config{Destination: "note", ID: "ID", On: model.Updated})))
		must(t, err)
		db := b.db.WithQueryHook(hook)
		upsert := func() *bun.InsertQuery {
			return db.NewInsert().Model(&Note{ID: 1}).On("CONFLICT (id) DO UPDATE").Set("text = 'x'")
		}
		if _, err := upsert().Exec(t.Context()); err == nil || !strings.Contains(err.Error(), "run its INSERT by Exec") {
			t.Errorf("past the hook: %v", err)
		}
		must(t, db.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			if _, err := hook.Exec(ctx, tx, upsert()); err == nil || !strings.Contains(err.Error(), "use Upsert") {
				t.Errorf("by Exec: %v", err)
			}
			_, err := hook.Exec(ctx, tx, tx.NewInsert().Model(&Note{ID: 1}))
			return err
		}))
		if n := b.count(&Note{}); n != 1 {
			t.Errorf("%d notes were saved, want 1", n)
		}
	})
}
