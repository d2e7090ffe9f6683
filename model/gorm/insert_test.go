package gormoutbox_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	gormoutbox "github.com/outbox-go/outbox/model/gorm"
)

var nothing = clause.OnConflict{DoNothing: true}

func TestOnConflictDoNothingPublishesWhatWasInserted(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		b.ok(b.db.Clauses(nothing).Create(&User{Name: "Ada"}))
		b.want("one that is new", `user.created 1 {"id": 1, "name": "Ada", "age": 0, "level": 1, "company_id": null}`)
		b.ok(b.db.Clauses(nothing).Create(&User{Name: "Ada"}))
		b.ok(b.db.Clauses(nothing).Create(&[]User{{ID: 1, Name: "Ada"}, {ID: 1, Name: "Eve"}}))
		b.ok(b.db.Clauses(nothing).Create(&[]User{{Name: "Ada"}, {Name: "Ada"}}))
		b.want("none that is new")
		b.ok(b.db.Clauses(nothing).Create(&[]Part{{Order: 1, Number: 1}, {Order: 1, Number: 2}}))
		b.want("all that are new", `part 1 {"id": 1, "order": 1, "name": "", "label": "!"}`, `part 2 {"id": 2, "order": 1, "name": "", "label": "!"}`)
		b.ok(b.db.Clauses(nothing).Create(&[]Part{{Order: 1, Number: 1}, {Order: 1, Number: 3}}))
		b.want("some that are new", `part 3 {"id": 3, "order": 1, "name": "", "label": "!"}`)

		users := []*User{{ID: 1, Name: "x"}, {Name: "Bob", Level: 7}, {ID: 90, Name: "Cleo"}}
		b.ok(b.db.Clauses(nothing).Create(users))
		bob := fmt.Sprint(users[1].ID)
		b.want("some that are new", `user.created 90 {"id": 90, "name": "Cleo", "age": 0, "level": 1, "company_id": null}`,
			`user.created `+bob+` {"id": `+bob+`, "name": "Bob", "age": 0, "level": 7, "company_id": null}`)
		if users[0].ID != 1 || users[1].ID == 0 || users[2].Level != 1 {
			t.Errorf("the values became %+v, %+v, %+v", *users[0], *users[1], *users[2])
		}
		err := b.db.Clauses(nothing).Create(&[]User{{Name: "Dora"}, {Name: "Ada"}}).Error
		if err == nil || !strings.Contains(err.Error(), "some of 2 gormoutbox_test.User were there already") {
			t.Errorf("of two without ids one was inserted: %v", err)
		}
		b.want("a statement that was rolled back")
		for _, nils := range []any{&[]*User{nil, nil}, &[]*User{{Name: "Dora"}, nil}} {
			if err := b.db.Clauses(nothing).Create(nils).Error; !errors.Is(err, gorm.ErrInvalidData) {
				t.Errorf("the error for nil is %v", err)
			}
		}
		if got := b.names(&User{}); !slices.Equal(got, []string{"Ada", "Bob", "Cleo"}) {
			t.Errorf("the users are %q", got)
		}
	})
}

func TestNewAssociationsArePublishedAmongThoseThatExist(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		old := Group{Name: "old"}
		b.ok(b.db.Create(&old))
		b.ok(b.db.Create(&Company{Name: "old"}))
		b.take()
		b.ok(b.db.Create(&User{Name: "Ada", Groups: []Group{old, {Name: "new"}}}))
		group := func(id int, name string) string {
			return fmt.Sprintf(`group %d {"id": %d, "name": "%s"}`, id, id, name)
		}
		made := func(name string) int {
			var g Group
			b.ok(b.db.Take(&g, "name = ?", name))
			return int(g.ID)
		}
		b.want("an old and a new group", userOf(1, "Ada"), group(made("new"), "new"))
		b.ok(b.db.Create(&User{Name: "Bob", Groups: []Group{{ID: 101, Name: "a"}, {ID: 102, Name: "b"}}}))
		b.want("two new groups with ids", userOf(2, "Bob"), group(101, "a"), group(102, "b"))
		bob := &User{ID: 2}
		must(t, b.db.Model(bob).Association("Groups").Append(&old, &Group{Name: "newer"}))
		if got := b.take(); !slices.Contains(got, group(made("newer"), "newer")) {
			t.Errorf("Append published %q", got)
		}
		if n := b.db.Model(bob).Association("Groups").Count(); n != 4 {
			t.Errorf("Bob is in %d groups, want 4", n)
		}
		users := []User{{Name: "Cleo", Company: &Company{Name: "new"}}, {Name: "Dora", Company: &Company{ID: 1, Name: "x"}}}
		b.ok(b.db.Create(&users))
		if got := b.take(); len(got) != 3 || *users[0].CompanyID == 1 || *users[1].CompanyID != 1 {
			t.Errorf("two users with an old and a new company published %q", got)
		}
	})
}

func TestInsertOfRowsKeepsWhatBelongsToThem(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		// The company must have its id before the users are inserted.
		users := []User{{Name: "Ada", Company: &Company{Name: "Acme"}, Pets: []Pet{{Name: "Rex"}}}, {Name: "Bob"}}
		b.ok(b.db.Clauses(nothing).Create(&users))
		b.want("an insert of rows", `company 1 {"id": 1, "name": "Acme"}`, `pet 1 {"id": 1, "name": "Rex", "user_id": 1}`,
			`user.created 1 {"id": 1, "name": "Ada", "age": 0, "level": 1, "company_id": 1}`, userOf(2, "Bob"))

		p := &Pet{Name: "Tom", UserID: 1}
		b.ok(b.db.Create(p))
		b.ok(b.db.Delete(p))
		b.take()
		b.ok(b.db.Clauses(clause.OnConflict{UpdateAll: true}).Omit("DeletedAt").Create(&Pet{ID: p.ID, Name: "Max", UserID: 1}))
		b.want("an upsert of a row that was deleted softly", `pet 2 {"id": 2, "name": "Max", "user_id": 1}`)
	})
}

// TestCallersReturningIsFilled does everything with GORM alone first.
func TestCallersReturningIsFilled(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		all, name := clause.Returning{}, clause.Returning{Columns: []clause.Column{{Name: "name"}}}
		upsert := clause.OnConflict{Columns: []clause.Column{{Name: "name"}}, DoUpdates: clause.Assignments(map[string]any{"level": 8})}
		run := func(db *gorm.DB) (got []string) {
			tell := func(tx *gorm.DB, users ...User) {
				t.Helper()
				b.ok(tx)
				for _, u := range users {
					got = append(got, fmt.Sprintf("%v %s %d %d", u.ID != 0, u.Name, u.Age, u.Level))
				}
				got = append(got, "")
			}
			users := []User{{ID: 101, Name: "Ada", Age: 5}, {ID: 102, Name: "Bob", Age: 5}, {ID: 103, Name: "Cleo", Age: 5}}
			b.ok(db.Create(&users))
			var filled []User
			tell(db.Model(&filled).Clauses(all).Where("id < 103").Update("age", 6), filled...)
			var pointers []*User
			tell(db.Model(&pointers).Clauses(name).Where("id = 101").Update("age", 6), *pointers[0])
			tell(db.Model(&users).Clauses(name).UpdateColumn("name", gorm.Expr("name || '!'")), users...)
			var u User
			tell(db.Model(&u).Clauses(name).Where("id = 101").Update("age", 7), u)
			tell(db.Clauses(all).Where("id = 101").Delete(&u), u)
			none := User{Name: "kept"}
			tell(db.Model(&none).Clauses(all).Where("id = 99").Update("age", 7), none)
			insert := User{Name: "Bob!", Age: 9}
			tell(db.Clauses(upsert, all).Create(&insert), insert)
			single := User{Name: "Dora"}
			tell(db.Clauses(name).Create(&single), single)
			gone := []User{}
			tell(db.Clauses(all).Where("id > 0").Delete(&gone), gone[:2]...)
			return got
		}
		want := run(gormoutbox.Skip(b.db))
		if got := run(b.db); !slices.Equal(got, want) {
			t.Errorf("filled were\n%q, want\n%q", got, want)
		}
		if got := b.take(); len(got) != 17 {
			t.Errorf("%d messages were published: %q", len(got), got)
		}

		var users []User
		tx := b.ok(b.db.Model(&users).Clauses(name).Where("1 = 1").Update("age", 1))
		if r, _ := tx.Statement.Clauses["RETURNING"].Expression.(clause.Returning); len(r.Columns) != 1 {
			t.Errorf("the statement has %v", r)
		}
		b.refused(b.db.Model(User{}).Clauses(all).Where("1 = 1").Update("age", 1), &User{}, "RETURNING", "pass a pointer")
	})
}
