package bunoutbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/uptrace/bun"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/model"
	bunoutbox "github.com/outbox-go/outbox/model/bun"
	"github.com/outbox-go/outbox/outboxtest"
)

func TestRelationsAreThoseOfTheRow(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		b.ok(insert(&User{Name: "Ada"}))
		b.want("INSERT", `user.created 1 {"id": 1, "name": "Ada", "age": 0, "extra": "db"}`)
		users := []User{{Name: "Ada", Team: &Team{ID: 1, Name: "of Ada"}}, {Name: "Bob", Team: &Team{ID: 2, Name: "of Bob"}}}
		b.ok(func(tx bun.Tx) bun.Query { return tx.NewInsert().Model(&users).On("CONFLICT DO NOTHING") })
		bob := users[0].ID
		b.want("an INSERT of which one was there", fmt.Sprintf(`user.created %d {"id": %d, "name": "Bob", "age": 0, "extra": "db"}`, bob, bob))
		b.ok(func(tx bun.Tx) bun.Query {
			return tx.NewUpdate().Model(&User{ID: 1, Team: &Team{Name: "of the given"}}).Set("age = 4").Where("name = 'Bob'")
		})
		b.want("an UPDATE of another row", fmt.Sprintf(`user.updated %d {"id": %d, "name": "Bob", "age": 4, "extra": "db"}`, bob, bob))
	})
}

type Address struct {
	City string `json:"city"`
}

// House embeds columns by a pointer, and may have the id 0.
type House struct {
	ID int64 `json:"id" bun:",pk"`
	*Address
}

func TestRowWithTheIDZeroIsPublished(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		_, err := b.db.NewCreateTable().Model(&House{}).Exec(t.Context())
		must(t, err)
		rec := outboxtest.NewRecorder[*sql.Tx](nil)
		hook, err := bunoutbox.New(outbox.New(rec), model.Must(model.Publish[House](model.Config{Destination: "house"})))
		must(t, err)
		h := &House{Address: &Address{City: "Bonn"}}
		must(t, b.db.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			_, err := hook.Exec(ctx, tx, tx.NewInsert().Model(h))
			must(t, err)
			_, err = hook.Exec(ctx, tx, tx.NewUpdate().Model(h).Set("city = 'Rome'").WherePK())
			return err
		}))
		msgs := rec.All()
		if len(msgs) != 2 || string(msgs[0].Payload) != `{"id": 0, "city": "Bonn"}` || string(msgs[1].Payload) != `{"id": 0, "city": "Rome"}` {
			t.Errorf("the messages are %v", msgs)
		}
		if h.City != "Bonn" {
			t.Errorf("the caller's city became %s", h.City)
		}
	})
}
