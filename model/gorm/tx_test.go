package gormoutbox_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"gorm.io/gorm"

	gormoutbox "github.com/outbox-go/outbox/model/gorm"
)

var errUndo = errors.New("undo it")

func userOf(id int, name string) string {
	return fmt.Sprintf(`user.created %d {"id": %d, "name": "%s", "age": 0, "level": 1, "company_id": null}`, id, id, name)
}

func TestRolledBackTransactionPublishesNothing(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		err := b.db.Transaction(func(tx *gorm.DB) error {
			b.ok(tx.Create(&User{Name: "Ada"}))
			return errUndo
		})
		if !errors.Is(err, errUndo) {
			t.Fatal(err)
		}
		tx := b.ok(b.db.Begin())
		b.ok(tx.Create(&User{Name: "Ada"}))
		b.ok(tx.Rollback())
		b.want("a rollback")
		if got := b.names(&User{}); len(got) != 0 {
			t.Errorf("the users are %q", got)
		}
	})
}

func TestRolledBackSavepointPublishesNothingOfIt(t *testing.T) {
	for _, prepare := range []bool{false, true} {
		t.Run(fmt.Sprintf("PrepareStmt=%v", prepare), func(t *testing.T) {
			eachDialectWith(t, gorm.Config{PrepareStmt: prepare}, func(t *testing.T, b *bed) {
				must(t, b.db.Transaction(func(tx *gorm.DB) error {
					b.ok(tx.Create(&Company{ID: 1, Name: "outer"}))
					err := tx.Transaction(func(tx *gorm.DB) error {
						b.ok(tx.Create(&Company{ID: 2, Name: "undone"}))
						return errUndo
					})
					if !errors.Is(err, errUndo) {
						return err
					}
					b.ok(tx.SavePoint("mine"))
					b.ok(tx.Create(&[]Company{{ID: 3, Name: "undone"}, {ID: 4, Name: "undone"}}))
					b.ok(tx.RollbackTo("mine"))
					return tx.Transaction(func(tx *gorm.DB) error { return tx.Create(&Company{ID: 5, Name: "inner"}).Error })
				}))
				b.want("the commit", `company 1 {"id": 1, "name": "outer"}`, `company 5 {"id": 5, "name": "inner"}`)
			})
		})
	}
}

func TestThousandModelsAreOneInsert(t *testing.T) {
	t.Parallel()
	b := newPostgres(t, gorm.Config{})
	for _, text := range []string{
		`CREATE TABLE inserts (n integer)`,
		`CREATE FUNCTION note_insert() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO inserts SELECT count(*) FROM new; RETURN NULL; END $$`,
		`CREATE TRIGGER note_insert AFTER INSERT ON outbox.message REFERENCING NEW TABLE AS new FOR EACH STATEMENT EXECUTE FUNCTION note_insert()`,
	} {
		_, err := b.sql.ExecContext(t.Context(), text)
		must(t, err)
	}
	users := make([]User, 1000)
	for i := range users {
		users[i].Name = fmt.Sprint("user ", i)
	}
	b.ok(b.db.Create(&users))
	b.ok(b.db.Model(&User{}).Where("id > 0").Update("age", 1))
	b.ok(b.db.CreateInBatches(&[]Company{{}, {}, {}}, 2))
	var inserts []int
	b.ok(b.db.Table("inserts").Order("n").Pluck("n", &inserts))
	if fmt.Sprint(inserts) != "[1 2 1000 1000]" {
		t.Errorf("the outbox had statements of %v rows, want one of all rows for each of GORM's", inserts)
	}
}

func TestBatchesArePublished(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		users := make([]*User, 250) // more than the store writes at once on SQLite
		for i := range users {
			users[i] = &User{Name: fmt.Sprint("user ", i)}
		}
		b.ok(b.db.CreateInBatches(users, 120))
		got := map[string]bool{}
		for _, m := range b.take() {
			got[m] = true
		}
		for i := range users {
			if want := userOf(int(users[i].ID), users[i].Name); users[i].ID == 0 || !got[want] {
				t.Fatalf("there is no %s", want)
			}
		}
		if len(got) != len(users) {
			t.Errorf("%d messages for %d users", len(got), len(users))
		}
	})
}

func TestWithoutDefaultTransactionItHasItsOwn(t *testing.T) {
	for _, prepare := range []bool{false, true} {
		t.Run(fmt.Sprintf("PrepareStmt=%v", prepare), func(t *testing.T) {
			eachDialectWith(t, gorm.Config{SkipDefaultTransaction: true, PrepareStmt: prepare}, func(t *testing.T, b *bed) {
				u := &User{Name: "Ada"}
				b.ok(b.db.Create(u))
				b.want("Create", userOf(1, "Ada"))
				if err := b.db.Create(&Hooked{Name: "fail after"}).Error; !errors.Is(err, errHook) {
					t.Errorf("the error is %v", err)
				}
				if got := b.names(&Hooked{}); len(got) != 0 {
					t.Errorf("a failed hook left %q", got)
				}
				b.want("a hook that failed")
				b.ok(b.db.Model(u).Update("age", 3))
				b.ok(b.db.Delete(u))
				if got := b.take(); len(got) != 2 {
					t.Errorf("an update and a delete became %q", got)
				}
				must(t, b.db.Transaction(func(tx *gorm.DB) error { return tx.Create(&Company{}).Error }))
				b.want("a transaction", `company 1 {"id": 1, "name": ""}`)
				if n := b.sql.Stats().InUse; n != 0 {
					t.Errorf("%d connections are still in use", n)
				}
			})
		})
	}
}

func TestConnectionPublishes(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		must(t, b.db.Connection(func(tx *gorm.DB) error { return tx.Create(&User{Name: "Ada"}).Error }))
		b.want("Create on a connection", userOf(1, "Ada"))
	})
}

// Owner is not published, and its company is.
type Owner struct {
	ID        uint
	CompanyID uint
	Company   Company
}

func TestRelayIsToldWhenTheCommitIsSeen(t *testing.T) {
	for _, without := range []bool{false, true} {
		t.Run(fmt.Sprintf("SkipDefaultTransaction=%v", without), func(t *testing.T) {
			eachDialectWith(t, gorm.Config{SkipDefaultTransaction: without}, func(t *testing.T, b *bed) {
				told := func(want int64, after string) {
					t.Helper()
					if n := b.wakes.Swap(0); n != want {
						t.Errorf("the relay was told %d times after %s, want %d", n, after, want)
					}
				}
				u := &User{Name: "Ada"}
				b.ok(b.db.Create(u))
				told(1, "Create")
				b.ok(b.db.Model(u).Update("age", 1))
				told(1, "Update")
				b.ok(b.db.Delete(u))
				told(1, "Delete")
				b.ok(gormoutbox.Skip(b.db).Create(&User{Name: "Bob"}))
				b.ok(b.db.Create(&Note{}))
				told(0, "what is not published")
				if b.db.Create(&User{Name: "Bob"}).Error == nil {
					t.Error("a unique index let two in")
				}
				if b.db.Create(&Hooked{Name: "fail after"}).Error == nil {
					t.Error("the hook did not fail")
				}
				told(0, "what failed")
				must(t, b.db.AutoMigrate(&Owner{}))
				b.ok(b.db.Create(&Owner{Company: Company{Name: "of an unpublished type"}}))
				told(1, "an association of what is not published")
				must(t, b.db.Transaction(func(tx *gorm.DB) error { return tx.Create(&Company{}).Error }))
				told(0, "a transaction of the caller's")
			})
		})
	}
}

func TestEndedContextPublishesNothing(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.db.WithContext(ctx).Create(&User{Name: "Ada"}).Error; !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v", err)
		}
		b.want("an ended context")
	})
}
