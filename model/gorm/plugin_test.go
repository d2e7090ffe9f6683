package gormoutbox_test

import (
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/model"
	gormoutbox "github.com/outbox-go/outbox/model/gorm"
	"github.com/outbox-go/outbox/outboxtest"
)

func TestSkipSavesWithoutPublishing(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		skip := gormoutbox.Skip(b.db)
		u := &User{Name: "Ada", Pets: []Pet{{Name: "Rex"}}}
		b.ok(skip.Create(u))
		b.ok(skip.Model(u).Update("age", 3))
		b.ok(skip.Model(&User{}).Create(map[string]any{"name": "by a map"}))
		b.ok(skip.Delete(&Pet{}, 1))
		must(t, skip.Transaction(func(tx *gorm.DB) error { return gormoutbox.Skip(tx).Create(&User{Name: "Bob"}).Error }))
		b.want("statements with Skip")
		if got := b.names(&User{}); !slices.Equal(got, []string{"Ada", "Bob", "by a map"}) {
			t.Errorf("the users are %q", got)
		}
		b.ok(b.db.Create(&User{Name: "Cleo"}))
		if got := b.take(); len(got) != 1 {
			t.Errorf("the next statement published %q", got)
		}
	})
}

func TestOtherModelsAreUntouched(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		n := &Note{Text: "a"}
		b.ok(b.db.Create(n))
		b.ok(b.db.Model(n).Update("text", "b"))
		b.ok(b.db.Table("notes").Create(map[string]any{"text": "c"}))
		b.ok(b.db.Delete(n))
		b.ok(b.db.Session(&gorm.Session{DryRun: true}).Create(&User{Name: "Ada"}))
		text := b.db.ToSQL(func(tx *gorm.DB) *gorm.DB { return tx.Model(&User{}).Where("id = ?", 1).Update("age", 1) })
		if strings.Contains(text, "RETURNING") {
			t.Errorf("the SQL of a dry run is %s", text)
		}
		b.ok(b.db.Delete(&Company{}, 1)) // which is published when it is saved
		b.want("statements on what is not published")
	})
}

func TestHooksOfTheModelGoOn(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		h := &Hooked{Name: "  a"}
		b.ok(b.db.Create(h))
		h.Name = "b"
		b.ok(b.db.Save(h))
		b.ok(b.db.Delete(h))
		b.want("three operations", `hooked 1 {"id": 1, "name": "a"}`, `hooked 1 {"id": 1, "name": "b"}`, `hooked 1 {"id": 1, "name": "b"}`)
		var texts []string
		b.ok(b.db.Model(&Note{}).Order("id").Pluck("text", &texts))
		if !slices.Equal(texts, []string{"created a", "updated b", "deleted b"}) {
			t.Errorf("the hooks wrote %q", texts)
		}
		// With a condition, GORM calls the hook for the model that it was given.
		b.ok(gormoutbox.Skip(b.db).Create(&[]Hooked{{Name: "c"}, {Name: "d"}}))
		b.ok(b.db.Model(&Hooked{Name: "given"}).Where("name > ?", "a").UpdateColumn("name", "e"))
		b.ok(b.db.Model(&Hooked{}).Where("name > ?", "a").Update("name", "f"))
		if got := b.take(); len(got) != 4 {
			t.Errorf("two updates of two rows published %q", got)
		}
		var last Note
		b.ok(b.db.Last(&last))
		if last.Text != "updated f" {
			t.Errorf("the hook wrote %q", last.Text)
		}
	})
}

func TestFailurePublishesNothing(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		for _, hook := range []string{"fail before", "fail after"} {
			if err := b.db.Create(&[]Hooked{{Name: "good"}, {Name: hook}}).Error; !errors.Is(err, errHook) {
				t.Errorf("%s: the error is %v", hook, err)
			}
		}
		b.ok(gormoutbox.Skip(b.db).Create(&User{Name: "Ada"}))
		if err := b.db.Create(&User{Name: "Ada", Company: &Company{Name: "Acme"}}).Error; err == nil {
			t.Error("a unique index let two in")
		}
		b.want("failures")
		for _, value := range []any{&Hooked{}, &Company{}} {
			if got := b.names(value); len(got) != 0 {
				t.Errorf("the rows of %T are %q", value, got)
			}
		}
	})
}

func TestFailedEmitUndoesTheSave(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		_, err := b.sql.ExecContext(t.Context(), `DROP TABLE `+b.table)
		must(t, err)
		if err := b.db.Create(&User{Name: "Ada"}).Error; err == nil || !strings.Contains(err.Error(), "gormoutbox: outbox: emit: ") {
			t.Errorf("the error is %v", err)
		}
		if got := b.names(&User{}); len(got) != 0 {
			t.Errorf("the users are %q", got)
		}
	})
}

// Member is another type of the users' table.
type Member struct {
	ID   uint
	Name string
}

func (Member) TableName() string { return "users" }

func TestWhatCannotBePublishedIsRefused(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		user := &User{}
		b.refused(b.db.Model(user).Create(map[string]any{"name": "x"}), user, "gormoutbox: ", "User is published", "map[string]interface", "Skip")
		b.refused(b.db.Model(user).Create([]map[string]any{{"name": "x"}}), user, "User is published", "[]map[string]interface")
		b.refused(b.db.Table("users").Create(map[string]any{"name": "x"}), user, "User is published", "its table users is not of this type")
		b.refused(b.db.Create(&Member{Name: "x"}), user, "User is published", "its table users is not of this type")
		b.refused(b.db.Clauses(clause.From{Tables: []clause.Table{{Name: "pets"}}}).Model(user).Where("1 = 1").Update("age", 1), user, "User is published", "FROM")
		where := clause.OnConflict{Columns: []clause.Column{{Name: "name"}}, UpdateAll: true, Where: clause.Where{Exprs: []clause.Expression{clause.Expr{SQL: "users.age > 5"}}}}
		b.refused(b.db.Clauses(where).Create(&[]User{{Name: "a"}, {Name: "b"}}), user, "several gormoutbox_test.User", "WHERE", "one at a time")
	})
}

// TestWithoutReturningIsRefused takes RETURNING from the dialect, as the drivers'
// WithoutReturning does.
func TestWithoutReturningIsRefused(t *testing.T) {
	t.Parallel()
	b := newSQLite(t, gorm.Config{})
	db, err := gorm.Open(b.db.Dialector, &gorm.Config{Logger: b.db.Logger, ConnPool: b.sql})
	must(t, err)
	without := func(clauses []string) []string {
		return slices.DeleteFunc(slices.Clone(clauses), func(c string) bool { return c == "RETURNING" })
	}
	db.Callback().Create().Clauses = without(db.Callback().Create().Clauses)
	db.Callback().Update().Clauses = without(db.Callback().Update().Clauses)
	rec := outboxtest.NewRecorder[*sql.Tx](nil)
	must(t, db.Use(gormoutbox.New(outbox.New(rec), published()...)))
	for _, refused := range []*gorm.DB{
		db.Save(&[]User{{Name: "x"}}), db.Save(&User{ID: 1, Name: "x"}), db.Model(&User{}).Where("1 = 1").Update("age", 1),
	} {
		b.refused(refused, &User{}, "gormoutbox: ", "RETURNING", "Skip")
	}
	if n := len(rec.All()); n != 0 {
		t.Errorf("%d messages were emitted", n)
	}
}

func TestUseReportsAllFaults(t *testing.T) {
	t.Parallel()
	b := newSQLite(t, gorm.Config{})
	type odd struct {
		ID   int            `json:"id"`
		Func func()         `json:"-"`
		Many map[string]int `json:"many"`
	}
	users := model.Must(model.Publish[User](model.Config{Destination: "x"}))
	var none *model.Publication[User]
	odds := model.Must(model.Publish[odd](model.Config{Destination: "x"}))
	ob := outbox.New(outboxtest.NewRecorder[*sql.Tx](nil))
	for _, c := range []struct {
		plugin *gormoutbox.Plugin
		want   []string
	}{
		{gormoutbox.New(nil), []string{"the outbox is nil", "there are no models"}},
		{gormoutbox.New(ob, users, nil, none, users, odds), []string{
			"model 1: is nil", "model 2: is nil", "model 3: gormoutbox_test.User is there already", "model 4: gormoutbox_test.odd is no GORM model",
		}},
	} {
		db, err := gorm.Open(b.db.Dialector, &gorm.Config{Logger: b.db.Logger, ConnPool: b.sql})
		must(t, err)
		err = db.Use(c.plugin)
		if err == nil {
			t.Errorf("no error, want %q", c.want)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("the error is %q, want %q in it", err, part)
			}
		}
	}
}
