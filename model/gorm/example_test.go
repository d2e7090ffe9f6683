package gormoutbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"

	"gorm.io/driver/sqlite"
	"gorm.io/gorm"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/model"
	gormoutbox "github.com/outbox-go/outbox/model/gorm"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/sqlstore"
)

func Example() {
	type MyModel struct {
		ID       uint   `json:"id"`
		FieldOne string `json:"field_one"`
		FieldTwo string `json:"field_two"`
	}
	myModels := model.Must(model.Publish[MyModel](model.Config{Destination: "/topic/my_route_key", Version: "v1"}))

	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer func() { _ = os.RemoveAll(dir) }()
	sqlDB, err := sql.Open("sqlite", sqlstore.SQLiteDSN(filepath.Join(dir, "app.db")))
	check(err)
	defer func() { _ = sqlDB.Close() }()
	store := sqlstore.New(sqlDB, sqlstore.SQLite, nil)
	check(store.Migrate(context.Background()))

	db, err := gorm.Open(sqlite.New(sqlite.Config{Conn: sqlDB}), nil)
	check(err)
	check(db.AutoMigrate(&MyModel{}))
	check(db.Use(gormoutbox.New(outbox.New(store), myModels)))

	check(db.Create(&MyModel{FieldOne: "One", FieldTwo: "Two"}).Error)
	check(gormoutbox.Skip(db).Create(&MyModel{FieldOne: "not published"}).Error)

	_, err = relay.RunOnce(context.Background(), store, func(_ context.Context, m *outbox.Message) error {
		fmt.Println(m.Topic, m.Version, m.Key, string(m.Payload))
		return nil
	}, nil)
	check(err)
	// Output:
	// my_route_key.v1 v1 1 {"id": 1, "field_one": "One", "field_two": "Two"}
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
	}
}
