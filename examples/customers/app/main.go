// App saves customers, which are published as they are saved.
package main

import (
	"context"
	"log"
	"os"

	_ "github.com/jackc/pgx/v5/stdlib"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/model"
	gormoutbox "github.com/outbox-go/outbox/model/gorm"
	"github.com/outbox-go/outbox/store/sqlstore"
)

// Customer is a row, and what is published of it.
type Customer struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
	City string `json:"city"`
}

// Card is a body of its own, with nothing added to it.
func (c Customer) Card() any {
	return map[string]any{"id": c.ID, "line": c.Name + ", " + c.City}
}

// Label is another one, which may fail.
func (c Customer) Label() (any, error) {
	return struct {
		ID int    `json:"id"`
		To string `json:"to"`
	}{c.ID, c.City}, nil
}

var customers = model.Must(model.Publish[Customer](
	model.Config{Destination: "/topic/customers"},
	model.Config{Destination: "/topic/customers", Version: "v1"},
	model.Config{Destination: "/topic/names", Fields: []string{"name"}},
	model.Config{Destination: "/topic/cards", Serializer: "Card"},
	model.Config{Destination: "/topic/labels", Serializer: "Label"},
))

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	db, err := gorm.Open(postgres.Open(os.Getenv("DATABASE_URL")))
	if err != nil {
		return err
	}
	pool, err := db.DB()
	if err != nil {
		return err
	}
	defer pool.Close()
	store := sqlstore.New(pool, sqlstore.PostgreSQL, nil)
	if err := store.Migrate(ctx); err != nil {
		return err
	}
	ob := outbox.New(store)
	if err := db.Use(gormoutbox.New(ob, customers)); err != nil {
		return err
	}
	if err := db.AutoMigrate(&Customer{}); err != nil {
		return err
	}
	return db.WithContext(ctx).Transaction(func(db *gorm.DB) error {
		if err := db.Create(&Customer{Name: "Ada", City: "London"}).Error; err != nil {
			return err
		}
		tx, err := gormoutbox.Tx(db)
		if err != nil {
			return err
		}
		return ob.Emit(ctx, tx, outbox.Event{Topic: "greetings", Payload: map[string]string{"some": "data"}})
	})
}
