// App stores a user and emits, in the same transaction, that there is one more.
package main

import (
	"context"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// User is a row, and the payload.
type User struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	store := pgxstore.New(pool, nil)
	defer store.Close()
	if err := store.Migrate(ctx); err != nil { // does nothing when the tables are there
		return err
	}
	ob := outbox.New(store)
	user := User{ID: 7, Name: "Ada"}
	return ob.InTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO users (id, name) VALUES ($1, $2)`, user.ID, user.Name); err != nil {
			return err
		}
		return ob.Emit(ctx, tx, outbox.Event{Topic: "user.created", Payload: user})
	})
}
