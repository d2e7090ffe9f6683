package gormoutbox_test

import (
	"database/sql"
	"slices"
	"testing"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/model"
	gormoutbox "github.com/outbox-go/outbox/model/gorm"
	"github.com/outbox-go/outbox/outboxtest"
	"github.com/outbox-go/outbox/store/sqlstore"
)

func TestModelThatIsNilStandsForItsTable(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		b.ok(gormoutbox.Skip(b.db).Create(&[]User{{Name: "Ada"}, {Name: "Bob"}}))
		b.ok(b.db.Model((*User)(nil)).Where("name = ?", "Ada").Update("age", 2))
		b.want("Update", `user.updated 1 {"id": 1, "name": "Ada", "age": 2, "level": 1, "company_id": null}`)
		if err := b.db.Where("1 = 1").Delete((*User)(nil)).Error; err == nil {
			t.Error("GORM deletes by a nil")
		}
		b.want("a statement that GORM refuses")
	})
}

func TestDeleteLeavesTheCallersValuesAlone(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		users := []User{{Name: "Ada"}, {Name: "Bob"}, {Name: "Cleo"}}
		b.ok(b.db.Create(&users))
		b.ok(b.db.Delete(&User{}, users[0].ID))
		b.take()
		b.ok(b.db.Delete(users))
		b.want("Delete of a slice", `user.deleted 2 {"id": 2, "name": "Bob"}`, `user.deleted 3 {"id": 3, "name": "Cleo"}`)
		if users[0].Name != "Ada" || users[1].Name != "Bob" || users[2].Name != "Cleo" {
			t.Errorf("the slice became %v", users)
		}
		pair := [2]User{{Name: "Dora"}, {Name: "Eve"}}
		b.ok(b.db.Create(&pair))
		b.ok(b.db.Delete(&User{}, pair[0].ID))
		b.take()
		b.ok(b.db.Delete(&pair))
		b.want("Delete of an array", `user.deleted 5 {"id": 5, "name": "Eve"}`)
		pets := []*Pet{{Name: "Rex"}, {Name: "Tom"}}
		must(t, b.db.Transaction(func(tx *gorm.DB) error { return tx.Create(&User{Name: "Fay", Pets: []Pet{*pets[0], *pets[1]}}).Error }))
		b.ok(b.db.Find(&pets))
		kept := slices.Clone(pets)
		b.ok(b.db.Delete(&pets))
		if !slices.Equal(pets, kept) || !pets[0].DeletedAt.Valid || !pets[1].DeletedAt.Valid {
			t.Errorf("the pointers are %v, and were %v", pets, kept)
		}
	})
}

func TestAssociationsAreNotThoseOfAnotherRow(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		rec := outboxtest.NewRecorder[*sql.Tx](nil)
		db := b.publishing(outbox.New(rec), model.Must(model.Publish[User](model.Config{Destination: "x", On: all, Serializer: "WithCompany"})))
		b.ok(gormoutbox.Skip(b.db).Create(&[]User{{Name: "Ada"}, {Name: "Bob"}}))
		given := &User{Company: &Company{ID: 1, Name: "that of the given"}}
		b.ok(db.Model(given).Omit(clause.Associations).Where("name = ?", "Bob").Update("age", 7))
		if got, want := string(rec.All()[0].Payload), `{"age": 7, "company": "unknown", "name": "Bob"}`; got != want {
			t.Errorf("the body is %s, want %s", got, want)
		}
	})
}

type Address struct {
	City string `json:"city"`
	Zip  int    `json:"zip"`
}

// House embeds columns by a pointer.
type House struct {
	ID       uint `json:"id"`
	*Address `gorm:"embedded"`
}

func TestEmbeddedPointerIsLeftAlone(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		must(t, b.db.AutoMigrate(&House{}))
		rec := outboxtest.NewRecorder[*sql.Tx](nil)
		db := b.publishing(outbox.New(rec), model.Must(model.Publish[House](model.Config{Destination: "house", On: all})))
		h := &House{Address: &Address{City: "Bonn", Zip: 1}}
		b.ok(db.Create(h))
		h.City = "in memory"
		b.ok(db.Model(h).Update("zip", gorm.Expr("zip + 5")))
		b.ok(db.Delete(h))
		if h.City != "in memory" || h.Zip != 1 {
			t.Errorf("the caller's became %+v", *h.Address)
		}
		without := &House{}
		b.ok(db.Create(without))
		b.ok(db.Delete(without))
		if without.Address != nil {
			t.Errorf("the caller's nil became %+v", *without.Address)
		}
		want := []string{
			`{"id": 1, "city": "Bonn", "zip": 1}`, `{"id": 1, "city": "Bonn", "zip": 6}`, `{"id": 1, "city": "Bonn", "zip": 6}`,
			`{"id": 2}`, `{"id": 2, "city": "", "zip": 0}`,
		}
		for i, m := range rec.All() {
			if string(m.Payload) != want[i] {
				t.Errorf("message %d has %s, want %s", i, m.Payload, want[i])
			}
		}
	})
}

// Person has a schema in the name of its table.
type Person struct {
	ID   uint   `json:"id"`
	Name string `json:"name" gorm:"unique"`
	Note string `json:"note"`
}

func (Person) TableName() string { return "crm.people" }

func TestTableOfASchemaIsPublished(t *testing.T) {
	t.Parallel()
	b := newPostgres(t, gorm.Config{})
	_, err := b.sql.ExecContext(t.Context(), `CREATE SCHEMA crm; CREATE TABLE crm.people (id bigserial PRIMARY KEY, name text UNIQUE, note text);
		CREATE TABLE people (LIKE crm.people INCLUDING ALL); INSERT INTO people VALUES (1, 'wrong', 'wrong')`)
	must(t, err)
	db := b.publishing(outbox.New(sqlstore.New(b.sql, sqlstore.PostgreSQL, nil)), model.Must(model.Publish[Person](model.Config{Destination: "person", On: all})))
	b.ok(db.Create(&Person{Name: "Ada"}))
	b.ok(db.Model(&Person{ID: 1}).Update("note", "x"))
	b.ok(db.Save(&[]Person{{ID: 1, Name: "Adele"}}))
	b.ok(db.Table("crm.people").Select("Name").Create(&Person{Name: "Bob"}))
	b.ok(db.Delete(&Person{ID: 1}))
	b.want("statements on the table", `person 1 {"id": 1, "name": "Ada", "note": ""}`, `person 1 {"id": 1, "name": "Ada", "note": "x"}`,
		`person 1 {"id": 1, "name": "Adele", "note": ""}`, `person 2 {"id": 2, "name": "Bob", "note": ""}`, `person 1 {"id": 1, "name": "Adele", "note": ""}`)
	row := map[string]any{"name": "map"}
	for _, table := range []string{"crm.people", "people", "crm.people AS p"} {
		b.refused(db.Table(table).Create(row), &Pet{}, "Person is published", "the statement on its table "+table[:6], "Skip", "name the schema")
	}
	b.ok(db.Table("public.people").Create(map[string]any{"name": "of another table", "id": 2}))
	b.refused(b.db.Table("public.users").Create(row), &User{}, "User is published", "public.users")
	var n int64
	b.ok(db.Model(&Person{}).Where("name = 'map'").Count(&n))
	if n != 0 {
		t.Errorf("%d maps were written", n)
	}
}
