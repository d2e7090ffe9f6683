package gormoutbox_test

import (
	"database/sql"
	"slices"
	"strings"
	"testing"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/model"
	"github.com/outbox-go/outbox/outboxtest"
)

func TestEachOperationIsPublished(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		u := &User{Name: "Ada", Age: 36}
		b.ok(b.db.Create(u))
		b.want("Create", `user.created 1 {"id": 1, "name": "Ada", "age": 36, "level": 1, "company_id": null}`)
		u.Age = 37
		b.ok(b.db.Save(u))
		b.want("Save", `user.updated 1 {"id": 1, "name": "Ada", "age": 37, "level": 1, "company_id": null}`)
		b.ok(b.db.Save(&User{Name: "Bob"}))
		b.want("Save of a new row", `user.created 2 {"id": 2, "name": "Bob", "age": 0, "level": 1, "company_id": null}`)
		b.ok(b.db.Model(u).Updates(map[string]any{"age": gorm.Expr("age + ?", 3), "Level": 4}))
		b.want("Updates", `user.updated 1 {"id": 1, "name": "Ada", "age": 40, "level": 4, "company_id": null}`)
		if u.Age != 37 || u.Level != 4 { // as GORM leaves it
			t.Errorf("the model is %+v", u)
		}
		b.ok(b.db.Model(&User{ID: 2}).Update("age", 5))
		b.want("Update by id", `user.updated 2 {"id": 2, "name": "Bob", "age": 5, "level": 1, "company_id": null}`)
		b.ok(b.db.Model(User{ID: 2}).UpdateColumn("age", 6))
		b.want("UpdateColumn", `user.updated 2 {"id": 2, "name": "Bob", "age": 6, "level": 1, "company_id": null}`)
		b.ok(b.db.Where("id = ?", 2).Updates(&User{Age: 7}))
		b.want("Updates with a condition", `user.updated 2 {"id": 2, "name": "Bob", "age": 7, "level": 1, "company_id": null}`)
		b.ok(b.db.Model(&User{ID: 99}).Update("age", 5))
		b.ok(b.db.Create(&Company{Name: "Acme"}))
		b.take()
		b.ok(b.db.Model(&[]Company{{ID: 1}}).Updates(map[string]any{}))
		b.want("updates of nothing")
		b.ok(b.db.Delete(u))
		b.want("Delete", `user.deleted 1 {"id": 1, "name": "Ada"}`)
		b.ok(b.db.Delete(&User{}, 2))
		b.ok(b.db.Delete(&User{}, 2))
		b.want("Delete by id, twice", `user.deleted 2 {"id": 2, "name": "Bob"}`)
	})
}

func TestSoftDeleteIsADelete(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		seen := time.Date(2024, 5, 6, 12, 0, 0, 0, time.UTC)
		b.ok(b.db.Create(&User{Name: "Ada"}))
		pets := []Pet{{Name: "Rex", UserID: 1}, {Name: "Tom", UserID: 1}, {Name: "Ivy", UserID: 1, Seen: &seen}}
		b.ok(b.db.Omit(clause.Associations).Create(&pets))
		b.take()
		const rex, tom = `pet 1 {"id": 1, "name": "Rex", "user_id": 1}`, `pet 2 {"id": 2, "name": "Tom", "user_id": 1}`
		b.ok(b.db.Where("name = ?", "Tom").Delete(&Pet{}))
		b.want("Delete", tom)
		b.ok(b.db.Where("name = ?", "Tom").Delete(&Pet{}))
		b.want("Delete of what is deleted")
		b.ok(b.db.Unscoped().Model(&Pet{}).Where("name = ?", "Tom").Update("deleted_at", nil))
		b.want("undeleting", tom)
		b.ok(b.db.Delete(pets[:1]))
		b.want("Delete of a slice", rex)
		b.ok(b.db.Where("name = ?", "Tom").Delete(Pet{}))
		b.want("Delete of a value", tom)
		b.ok(b.db.Unscoped().Delete(&[]*Pet{{ID: 1}, {ID: 2}}))
		b.want("Delete for good", rex, tom)
		b.ok(b.db.Unscoped().Where("name = ?", "Ivy").Delete(Pet{}))
		if got := b.take(); len(got) != 1 || !strings.Contains(got[0], `"seen": "2024-05-06T`) {
			t.Errorf("a row with a time became %q", got)
		}
		if got := b.names(&Pet{}); len(got) != 0 {
			t.Errorf("there still are %q", got)
		}
	})
}

func TestAllRowsOfAStatementArePublished(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		users := []*User{{Name: "Ada", Age: 1}, {Name: "Bob", Age: 2}, {Name: "Cleo", Age: 3}}
		b.ok(b.db.Create(users))
		b.want("Create",
			`user.created 1 {"id": 1, "name": "Ada", "age": 1, "level": 1, "company_id": null}`,
			`user.created 2 {"id": 2, "name": "Bob", "age": 2, "level": 1, "company_id": null}`,
			`user.created 3 {"id": 3, "name": "Cleo", "age": 3, "level": 1, "company_id": null}`)

		m := &User{}
		if n := b.ok(b.db.Model(m).Where("age > ?", 1).Updates(User{Level: 9})).RowsAffected; n != 2 {
			t.Errorf("%d rows affected", n)
		}
		b.want("Updates with a condition",
			`user.updated 2 {"id": 2, "name": "Bob", "age": 2, "level": 9, "company_id": null}`,
			`user.updated 3 {"id": 3, "name": "Cleo", "age": 3, "level": 9, "company_id": null}`)
		if m.ID != 0 || m.Name != "" {
			t.Errorf("a model without a key became %+v", m)
		}

		b.ok(b.db.Model(&users).Update("age", 0))
		b.want("Update of a slice",
			`user.updated 1 {"id": 1, "name": "Ada", "age": 0, "level": 1, "company_id": null}`,
			`user.updated 2 {"id": 2, "name": "Bob", "age": 0, "level": 9, "company_id": null}`,
			`user.updated 3 {"id": 3, "name": "Cleo", "age": 0, "level": 9, "company_id": null}`)

		users[0].Age, users[1].Age = 5, 6
		b.ok(b.db.Save(users[:2]))
		b.want("Save of a slice",
			`user.created 1 {"id": 1, "name": "Ada", "age": 5, "level": 1, "company_id": null}`,
			`user.created 2 {"id": 2, "name": "Bob", "age": 6, "level": 1, "company_id": null}`,
			`user.updated 1 {"id": 1, "name": "Ada", "age": 5, "level": 1, "company_id": null}`,
			`user.updated 2 {"id": 2, "name": "Bob", "age": 6, "level": 1, "company_id": null}`)

		b.ok(b.db.Delete(users[:1]))
		b.ok(b.db.Where("age >= ?", 0).Delete(&User{}))
		b.want("Delete",
			`user.deleted 1 {"id": 1, "name": "Ada"}`, `user.deleted 2 {"id": 2, "name": "Bob"}`, `user.deleted 3 {"id": 3, "name": "Cleo"}`)
	})
}

func TestRowIsPublishedAsTheDatabaseHasIt(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		b.ok(b.db.Select("Name").Create(&User{Name: "Ada", Age: 36}))
		b.want("Create of some columns", `user.created 1 {"id": 1, "name": "Ada", "age": 0, "level": 1, "company_id": null}`)
		b.ok(b.db.Omit("Age").Create(&[]User{{Name: "Bob", Age: 36}, {Name: "Cleo", Age: 37, Level: 2}}))
		b.want("Create of some columns",
			`user.created 2 {"id": 2, "name": "Bob", "age": 0, "level": 1, "company_id": null}`,
			`user.created 3 {"id": 3, "name": "Cleo", "age": 0, "level": 2, "company_id": null}`)
		b.ok(b.db.Select("Name").Save(&User{ID: 1, Name: "Adele", Age: 99}))
		b.want("Save of some columns", `user.updated 1 {"id": 1, "name": "Adele", "age": 0, "level": 1, "company_id": null}`)

		upsert := clause.OnConflict{Columns: []clause.Column{{Name: "name"}}, DoUpdates: clause.AssignmentColumns([]string{"age"})}
		b.ok(b.db.Clauses(upsert).Create(&[]User{{Name: "Adele", Age: 5, Level: 7}, {Name: "Dora", Age: 6}}))
		b.want("an upsert of some columns",
			`user.created 1 {"id": 1, "name": "Adele", "age": 5, "level": 1, "company_id": null}`,
			`user.updated 1 {"id": 1, "name": "Adele", "age": 5, "level": 1, "company_id": null}`,
			`user.created 5 {"id": 5, "name": "Dora", "age": 6, "level": 1, "company_id": null}`,
			`user.updated 5 {"id": 5, "name": "Dora", "age": 6, "level": 1, "company_id": null}`)

		b.ok(b.db.Create(&Tag{Code: "a", Name: "x", Note: "old"}))
		b.take()
		rename := clause.OnConflict{Columns: []clause.Column{{Name: "name"}}, DoUpdates: clause.Assignments(map[string]any{"name": "y"})}
		b.ok(b.db.Clauses(rename).Create(&[]Tag{{Code: "b", Name: "x", Note: "new"}, {Code: "c", Name: "z"}}))
		b.want("an upsert of a row with another key", `tag a {"id": "a", "name": "y", "note": "old"}`, `tag c {"id": "c", "name": "z", "note": ""}`)

		p := &Part{Order: 1, Number: 2, Name: "nut"}
		b.ok(b.db.Create(p))
		b.want("Create of a generated column", `part 2 {"id": 2, "order": 1, "name": "nut", "label": "nut!"}`)
		b.ok(b.db.Model(p).Update("name", "bolt"))
		b.want("Update of a generated column", `part 2 {"id": 2, "order": 1, "name": "bolt", "label": "bolt!"}`)
		b.ok(b.db.Model(&Part{Number: 2}).Where("name = ?", "bolt").Update("name", nil))
		b.ok(b.db.Delete(&Part{Order: 1, Number: 2, Name: "of old"}))
		b.want("null", `part 2 {"id": 2, "order": 1, "name": "", "label": ""}`, `part 2 {"id": 2, "order": 1, "name": "", "label": ""}`)
	})
}

func TestSerializerSeesTheAssociationsOfOneModel(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		rec := outboxtest.NewRecorder[*sql.Tx](nil)
		db := b.publishing(outbox.New(rec), model.Must(model.Publish[User](model.Config{Destination: "x", On: all, Serializer: "WithCompany"})))
		u := &User{Name: "Ada", Company: &Company{Name: "Acme"}}
		b.ok(db.Create(u))
		b.ok(db.Model(u).Update("age", gorm.Expr("age + 3")))
		b.ok(db.Omit("Age").Create(&User{Name: "Bob", Company: u.Company, Age: 9}))
		b.ok(db.Delete(u))
		var bodies []string
		for _, m := range rec.All() {
			bodies = append(bodies, string(m.Payload))
		}
		want := []string{
			`{"age": 0, "company": "Acme", "name": "Ada"}`, `{"age": 3, "company": "Acme", "name": "Ada"}`,
			`{"age": 0, "company": "Acme", "name": "Bob"}`, `{"age": 3, "company": "Acme", "name": "Ada"}`,
		}
		if !slices.Equal(bodies, want) {
			t.Errorf("the bodies are %q, want %q", bodies, want)
		}
	})
}

func TestAssociationsArePublishedAsTheyAreSaved(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		u := &User{Name: "Ada", Company: &Company{Name: "Acme"}, Pets: []Pet{{Name: "Rex"}, {Name: "Tom"}}, Groups: []Group{{Name: "staff"}}}
		b.ok(b.db.Create(u))
		b.want("Create with associations",
			`company 1 {"id": 1, "name": "Acme"}`, `group 1 {"id": 1, "name": "staff"}`,
			`pet 1 {"id": 1, "name": "Rex", "user_id": 1}`, `pet 2 {"id": 2, "name": "Tom", "user_id": 1}`,
			`user.created 1 {"id": 1, "name": "Ada", "age": 0, "level": 1, "company_id": 1}`)
		// Those that exist are named by their ids, and only linked.
		b.ok(b.db.Create(&User{Name: "Bob", Company: &Company{ID: 1}, Groups: []Group{{ID: 1}}}))
		b.want("Create with associations that exist", `user.created 2 {"id": 2, "name": "Bob", "age": 0, "level": 1, "company_id": 1}`)
		b.ok(b.db.Create(&[]User{{Name: "Cleo", Company: &Company{ID: 1}}, {Name: "Dora", Company: &Company{ID: 1}}}))
		b.want("Create of several with associations that exist",
			`user.created 3 {"id": 3, "name": "Cleo", "age": 0, "level": 1, "company_id": 1}`,
			`user.created 4 {"id": 4, "name": "Dora", "age": 0, "level": 1, "company_id": 1}`)
		// A child that changes its parent is read back.
		must(t, b.db.Model(&User{ID: 2}).Association("Pets").Append(&Pet{ID: 1, Name: "Rex"}))
		b.want("Append", `pet 1 {"id": 1, "name": "Rex", "user_id": 2}`, `user.updated 2 {"id": 2, "name": "Bob", "age": 0, "level": 1, "company_id": 1}`)
	})
}
