package gormoutbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"gorm.io/driver/postgres"
	"gorm.io/driver/sqlite"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
	_ "modernc.org/sqlite"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/model"
	gormoutbox "github.com/outbox-go/outbox/model/gorm"
	"github.com/outbox-go/outbox/store/sqlstore"
)

func TestMain(m *testing.M) {
	logger.Default = logger.Discard // GORM logs what it returns as an error
	testenv.Main(m)
}

type User struct {
	ID        uint      `json:"id"`
	Name      string    `json:"name" gorm:"uniqueIndex"`
	Age       int       `json:"age"`
	Level     int       `json:"level" gorm:"default:1"`
	UpdatedAt time.Time `json:"-"`
	CompanyID *uint     `json:"company_id"`
	Company   *Company  `json:"-"`
	Pets      []Pet     `json:"-"`
	Groups    []Group   `json:"-" gorm:"many2many:user_groups"`
}

// WithCompany is a serializer that needs an association.
func (u *User) WithCompany() any {
	name := "unknown"
	if u.Company != nil {
		name = u.Company.Name
	}
	return map[string]any{"name": u.Name, "age": u.Age, "company": name}
}

type Company struct {
	ID   uint   `json:"id"`
	Name string `json:"name"`
}

// Pet is deleted softly.
type Pet struct {
	ID        uint           `json:"id"`
	Name      string         `json:"name"`
	UserID    uint           `json:"user_id"`
	Seen      *time.Time     `json:"seen,omitempty"`
	DeletedAt gorm.DeletedAt `json:"-"`
}

type Group struct {
	ID   uint   `json:"id"`
	Name string `json:"name"`
}

// Note is not published.
type Note struct {
	ID   uint
	Text string
}

// Part has a key of two columns, and one that the database makes.
type Part struct {
	Order  int    `json:"order" gorm:"primaryKey;autoIncrement:false"`
	Number int    `json:"number" gorm:"primaryKey;autoIncrement:false"`
	Name   string `json:"name"`
	Label  string `json:"label" gorm:"->;type:text GENERATED ALWAYS AS (name || '!') STORED"`
}

// Tag has a key that is the caller's to choose.
type Tag struct {
	Code string `json:"code" gorm:"primaryKey"`
	Name string `json:"name" gorm:"uniqueIndex"`
	Note string `json:"note"`
}

// Hooked has hooks, which may fail.
type Hooked struct {
	ID   uint   `json:"id"`
	Name string `json:"name"`
}

var errHook = errors.New("the hook fails")

func (h *Hooked) BeforeCreate(*gorm.DB) error {
	h.Name = strings.TrimPrefix(h.Name, "  ")
	return failIn("before", h)
}

func (h *Hooked) AfterCreate(db *gorm.DB) error {
	if err := db.Create(&Note{Text: "created " + h.Name}).Error; err != nil {
		return err
	}
	return failIn("after", h)
}

func (h *Hooked) AfterUpdate(db *gorm.DB) error {
	return db.Create(&Note{Text: "updated " + h.Name}).Error
}

func (h *Hooked) AfterDelete(db *gorm.DB) error {
	return db.Create(&Note{Text: "deleted " + h.Name}).Error
}

func failIn(hook string, h *Hooked) error {
	if strings.HasPrefix(h.Name, "fail "+hook) {
		return errHook
	}
	return nil
}

const all = model.Saved | model.Deleted

// published are the models of a plugin: each topic is the type and the operation.
func published() []model.Model {
	return []model.Model{
		model.Must(model.Publish[User](
			model.Config{Destination: "user.created", On: model.Created},
			model.Config{Destination: "user.updated", On: model.Updated},
			model.Config{Destination: "user.deleted", On: model.Deleted, Fields: []string{"name"}})),
		model.Must(model.Publish[Company](model.Config{Destination: "company"})),
		model.Must(model.Publish[Pet](model.Config{Destination: "pet", On: all})),
		model.Must(model.Publish[Group](model.Config{Destination: "group"})),
		model.Must(model.Publish[Part](model.Config{Destination: "part", ID: "number", On: all})),
		model.Must(model.Publish[Tag](model.Config{Destination: "tag", ID: "code"})),
		model.Must(model.Publish[Hooked](model.Config{Destination: "hooked", On: all})),
	}
}

// bed is a database with GORM and an outbox.
type bed struct {
	t     *testing.T
	db    *gorm.DB
	sql   *sql.DB
	table string
	wakes atomic.Int64
}

// waking counts the calls of Wake.
type waking struct {
	*sqlstore.Store
	wakes *atomic.Int64
}

func (w waking) Wake() {
	w.wakes.Add(1)
	w.Store.Wake()
}

func eachDialect(t *testing.T, test func(t *testing.T, b *bed)) {
	eachDialectWith(t, gorm.Config{}, test)
}

func eachDialectWith(t *testing.T, config gorm.Config, test func(t *testing.T, b *bed)) {
	t.Helper()
	t.Parallel()
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		test(t, newPostgres(t, config))
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		test(t, newSQLite(t, config))
	})
}

func newPostgres(t *testing.T, config gorm.Config) *bed {
	t.Helper()
	db := openSQL(t, "pgx", testenv.Postgres(t).NewDatabase(t))
	return newBed(t, db, postgres.New(postgres.Config{Conn: db}), sqlstore.PostgreSQL, "outbox.message", config)
}

func newSQLite(t *testing.T, config gorm.Config) *bed {
	t.Helper()
	db := openSQL(t, "sqlite", sqlstore.SQLiteDSN(filepath.Join(t.TempDir(), "app.db")))
	return newBed(t, db, sqlite.New(sqlite.Config{Conn: db}), sqlstore.SQLite, "outbox_message", config)
}

func openSQL(t *testing.T, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func newBed(t *testing.T, sqlDB *sql.DB, d gorm.Dialector, dialect sqlstore.Dialect, table string, config gorm.Config) *bed {
	t.Helper()
	store := sqlstore.New(sqlDB, dialect, nil)
	must(t, store.Migrate(t.Context()))
	config.Logger = logger.Discard
	db, err := gorm.Open(d, &config)
	must(t, err)
	must(t, db.AutoMigrate(&Company{}, &Group{}, &User{}, &Pet{}, &Note{}, &Part{}, &Tag{}, &Hooked{}))
	b := &bed{t: t, db: db.WithContext(t.Context()), sql: sqlDB, table: table}
	must(t, db.Use(gormoutbox.New(outbox.New(waking{store, &b.wakes}), published()...)))
	return b
}

// publishing is another GORM on the database, which publishes models to ob.
func (b *bed) publishing(ob *outbox.Outbox[*sql.Tx], models ...model.Model) *gorm.DB {
	b.t.Helper()
	db, err := gorm.Open(b.db.Dialector, &gorm.Config{Logger: b.db.Logger, ConnPool: b.sql})
	must(b.t, err)
	must(b.t, db.Use(gormoutbox.New(ob, models...)))
	return db
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// take removes the messages from the outbox and returns them, each as topic, key and
// body.
func (b *bed) take() []string {
	b.t.Helper()
	rows, err := b.sql.QueryContext(context.Background(), `SELECT topic, coalesce(key, ''), payload FROM `+b.table+` ORDER BY position`)
	must(b.t, err)
	defer rows.Close()
	var list []string
	for rows.Next() {
		var topic, key string
		var payload []byte
		must(b.t, rows.Scan(&topic, &key, &payload))
		list = append(list, fmt.Sprintf("%s %s %s", topic, key, payload))
	}
	must(b.t, rows.Err())
	_, err = b.sql.ExecContext(context.Background(), `DELETE FROM `+b.table)
	must(b.t, err)
	return list
}

// want checks the messages that are in the outbox, in any order, and removes them.
func (b *bed) want(after string, want ...string) {
	b.t.Helper()
	got := b.take()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.t.Errorf("after %s the outbox has\n\t%s\nwant\n\t%s", after, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// ok checks that a statement has run.
func (b *bed) ok(db *gorm.DB) *gorm.DB {
	b.t.Helper()
	must(b.t, db.Error)
	return db
}

// refused checks that a statement failed with an error that says all of it, that it
// wrote nothing into the table of value and that nothing was emitted.
func (b *bed) refused(db *gorm.DB, value any, parts ...string) {
	b.t.Helper()
	for _, part := range parts {
		if db.Error == nil || !strings.Contains(db.Error.Error(), part) {
			b.t.Errorf("the error is %v, want %q in it", db.Error, part)
		}
	}
	b.want("a statement that was refused")
	var n int64
	b.ok(b.db.Model(value).Count(&n))
	if n != 0 {
		b.t.Errorf("a statement that was refused left %d rows of %T", n, value)
	}
}

func (b *bed) names(value any) (names []string) {
	b.t.Helper()
	b.ok(b.db.Model(value).Order("name").Pluck("name", &names))
	return names
}
