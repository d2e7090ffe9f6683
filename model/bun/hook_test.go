package bunoutbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"github.com/uptrace/bun/schema"
	_ "modernc.org/sqlite"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/model"
	bunoutbox "github.com/outbox-go/outbox/model/bun"
	"github.com/outbox-go/outbox/outboxtest"
	"github.com/outbox-go/outbox/store/sqlstore"
)

func TestMain(m *testing.M) { testenv.Main(m) }

type User struct {
	ID    int64   `json:"id" bun:",pk,autoincrement"`
	Name  string  `json:"name" bun:",unique"`
	Age   int     `json:"age"`
	Team  *Team   `json:"team,omitempty" bun:"rel:belongs-to,join:team_id=id"`
	TeamI *int64  `json:"-" bun:"team_id"`
	Extra *string `json:"extra" bun:",default:'db'"`
}

type Team struct {
	ID   int64  `json:"id" bun:",pk,autoincrement"`
	Name string `json:"name"`
}

// Pet is deleted softly.
type Pet struct {
	ID      int64        `json:"id" bun:",pk,autoincrement"`
	Name    string       `json:"name"`
	Deleted bun.NullTime `json:"-" bun:",soft_delete,nullzero"`
}

// Note is not published.
type Note struct {
	ID   int64 `bun:",pk,autoincrement"`
	Text string
}

// Hooked has a hook, which may fail.
type Hooked struct {
	ID   int64  `json:"id" bun:",pk,autoincrement"`
	Name string `json:"name"`
}

var errHook = errors.New("the hook fails")

var _ bun.AfterInsertHook = (*Hooked)(nil)

func (*Hooked) AfterInsert(_ context.Context, query *bun.InsertQuery) error {
	if h := query.GetModel().Value().(*Hooked); h.Name == "fail" {
		return errHook
	}
	return nil
}

const all = model.Saved | model.Deleted

// bed is a database with bun and an outbox.
type bed struct {
	t     *testing.T
	db    *bun.DB
	hook  *bunoutbox.Hook
	table string
}

func eachDialect(t *testing.T, test func(t *testing.T, b *bed)) {
	t.Helper()
	t.Parallel()
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		db, err := sql.Open("pgx", testenv.Postgres(t).NewDatabase(t))
		must(t, err)
		test(t, newBed(t, db, pgdialect.New(), sqlstore.PostgreSQL, "outbox.message"))
	})
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		db, err := sql.Open("sqlite", sqlstore.SQLiteDSN(filepath.Join(t.TempDir(), "app.db")))
		must(t, err)
		test(t, newBed(t, db, sqlitedialect.New(), sqlstore.SQLite, "outbox_message"))
	})
}

func newBed(t *testing.T, sqlDB *sql.DB, d schema.Dialect, dialect sqlstore.Dialect, table string) *bed {
	t.Helper()
	t.Cleanup(func() { _ = sqlDB.Close() })
	store := sqlstore.New(sqlDB, dialect, nil)
	must(t, store.Migrate(t.Context()))
	hook, err := bunoutbox.New(outbox.New(store),
		model.Must(model.Publish[User](
			model.Config{Destination: "user.created", On: model.Created},
			model.Config{Destination: "user.updated", On: model.Updated},
			model.Config{Destination: "user.deleted", On: model.Deleted, Fields: []string{"name"}})),
		model.Must(model.Publish[Pet](model.Config{Destination: "pet", On: all})),
		model.Must(model.Publish[Team](model.Config{Destination: "team", On: model.Deleted})),
		model.Must(model.Publish[Hooked](model.Config{Destination: "hooked"})))
	must(t, err)
	b := &bed{t: t, db: bun.NewDB(sqlDB, d), hook: hook, table: table}
	b.db = b.db.WithQueryHook(hook)
	for _, m := range []any{&User{}, &Team{}, &Pet{}, &Note{}, &Hooked{}} {
		_, err := b.db.NewCreateTable().Model(m).Exec(t.Context())
		must(t, err)
	}
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// exec runs a query by the hook, in a transaction.
func (b *bed) exec(query func(tx bun.Tx) bun.Query) (n int64, err error) {
	b.t.Helper()
	err = b.db.RunInTx(b.t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		result, err := b.hook.Exec(ctx, tx, query(tx))
		if err == nil {
			n, err = result.RowsAffected()
		}
		return err
	})
	return n, err
}

func (b *bed) ok(query func(tx bun.Tx) bun.Query) int64 {
	b.t.Helper()
	n, err := b.exec(query)
	must(b.t, err)
	return n
}

func insert(models any) func(tx bun.Tx) bun.Query {
	return func(tx bun.Tx) bun.Query { return tx.NewInsert().Model(models) }
}

// want checks the messages that are in the outbox, in any order, and removes them.
func (b *bed) want(after string, want ...string) {
	b.t.Helper()
	rows, err := b.db.DB.QueryContext(b.t.Context(), `SELECT topic, coalesce(key, ''), payload FROM `+b.table)
	must(b.t, err)
	defer rows.Close()
	var got []string
	for rows.Next() {
		var topic, key, payload string
		must(b.t, rows.Scan(&topic, &key, &payload))
		got = append(got, fmt.Sprintf("%s %s %s", topic, key, payload))
	}
	must(b.t, rows.Err())
	_, err = b.db.DB.ExecContext(b.t.Context(), `DELETE FROM `+b.table)
	must(b.t, err)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.t.Errorf("after %s the outbox has\n\t%s\nwant\n\t%s", after, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func (b *bed) count(models any) int64 {
	b.t.Helper()
	n, err := b.db.NewSelect().Model(models).Count(b.t.Context())
	must(b.t, err)
	return n
}

func TestEachOperationIsPublished(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		u := &User{Name: "Ada", Age: 36, Team: &Team{ID: 7, Name: "kept"}}
		b.ok(insert(u))
		b.want("INSERT", `user.created 1 {"id": 1, "name": "Ada", "age": 36, "team": {"id": 7, "name": "kept"}, "extra": "db"}`)
		b.ok(func(tx bun.Tx) bun.Query { return tx.NewUpdate().Model(u).Set("age = age + 1").WherePK() })
		b.want("UPDATE", `user.updated 1 {"id": 1, "name": "Ada", "age": 37, "team": {"id": 7, "name": "kept"}, "extra": "db"}`)
		b.ok(insert(&[]*User{{Name: "Bob", Age: 1}, {Name: "Cleo", Age: 2}}))
		b.want("INSERT of several",
			`user.created 2 {"id": 2, "name": "Bob", "age": 1, "extra": "db"}`, `user.created 3 {"id": 3, "name": "Cleo", "age": 2, "extra": "db"}`)
		n := b.ok(func(tx bun.Tx) bun.Query {
			return tx.NewUpdate().Model((*User)(nil)).Set("age = NULL").Where("age < ?", 10)
		})
		if n != 2 {
			t.Errorf("%d rows affected", n)
		}
		b.want("UPDATE of several",
			`user.updated 2 {"id": 2, "name": "Bob", "age": 0, "extra": "db"}`, `user.updated 3 {"id": 3, "name": "Cleo", "age": 0, "extra": "db"}`)
		b.ok(func(tx bun.Tx) bun.Query {
			return tx.NewUpdate().Model(&[]User{{ID: 2, Age: 5}, {ID: 3, Age: 6}}).Column("age").Bulk()
		})
		b.want("a bulk UPDATE",
			`user.updated 2 {"id": 2, "name": "Bob", "age": 5, "extra": "db"}`, `user.updated 3 {"id": 3, "name": "Cleo", "age": 6, "extra": "db"}`)
		b.ok(func(tx bun.Tx) bun.Query { return tx.NewUpdate().Model(&User{ID: 99}).Set("age = 1").WherePK() })
		b.want("UPDATE of nothing")
		b.ok(func(tx bun.Tx) bun.Query { return tx.NewDelete().Model(u).WherePK() })
		b.ok(func(tx bun.Tx) bun.Query { return tx.NewDelete().Model((*User)(nil)).Where("age > 0") })
		b.want("DELETE", `user.deleted 1 {"id": 1, "name": "Ada"}`, `user.deleted 2 {"id": 2, "name": "Bob"}`, `user.deleted 3 {"id": 3, "name": "Cleo"}`)
	})
}

func TestSoftDeleteIsADelete(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		b.ok(insert(&[]Pet{{Name: "Rex"}, {Name: "Tom"}}))
		b.want("INSERT", `pet 1 {"id": 1, "name": "Rex"}`, `pet 2 {"id": 2, "name": "Tom"}`)
		b.ok(func(tx bun.Tx) bun.Query { return tx.NewDelete().Model((*Pet)(nil)).Where("name = ?", "Tom") })
		b.want("DELETE", `pet 2 {"id": 2, "name": "Tom"}`)
		b.ok(func(tx bun.Tx) bun.Query { return tx.NewDelete().Model(&Pet{ID: 1}).WherePK().ForceDelete() })
		b.want("DELETE for good", `pet 1 {"id": 1, "name": "Rex"}`)
	})
}

func TestUpsertPublishesWhatWasWritten(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		b.ok(insert(&User{Name: "Ada", Age: 1}))
		b.want("INSERT", `user.created 1 {"id": 1, "name": "Ada", "age": 1, "extra": "db"}`)
		b.ok(func(tx bun.Tx) bun.Query {
			return tx.NewInsert().Model(&[]User{{Name: "Ada"}, {Name: "Bob"}}).On("CONFLICT DO NOTHING")
		})
		b.ok(func(tx bun.Tx) bun.Query { return tx.NewInsert().Model(&User{Name: "Ada"}).On("CONFLICT DO NOTHING") })
		var bob User
		must(t, b.db.NewSelect().Model(&bob).Where("name = 'Bob'").Scan(t.Context()))
		b.want("ON CONFLICT DO NOTHING", fmt.Sprintf(`user.created %d {"id": %d, "name": "Bob", "age": 0, "extra": "db"}`, bob.ID, bob.ID))
		must(t, b.db.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			_, err := b.hook.Upsert(ctx, tx, tx.NewInsert().Model(&User{Name: "Ada", Age: 9}).On("CONFLICT (name) DO UPDATE").Set("extra = 'new'"))
			return err
		}))
		b.want("ON CONFLICT DO UPDATE",
			`user.created 1 {"id": 1, "name": "Ada", "age": 1, "extra": "new"}`, `user.updated 1 {"id": 1, "name": "Ada", "age": 1, "extra": "new"}`)
	})
}

var errUndo = errors.New("undo it")

func TestRolledBackSavepointPublishesNothingOfIt(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		run := func(undo error) error {
			return b.db.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
				_, err := b.hook.Exec(ctx, tx, tx.NewInsert().Model(&Pet{ID: 1, Name: "outer"}))
				must(t, err)
				err = tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
					_, err := b.hook.Exec(ctx, tx, tx.NewInsert().Model(&Pet{ID: 2, Name: "inner"}))
					must(t, err)
					return errUndo
				})
				if !errors.Is(err, errUndo) {
					t.Errorf("the error is %v", err)
				}
				return undo
			})
		}
		if err := run(errUndo); !errors.Is(err, errUndo) {
			t.Errorf("the error is %v", err)
		}
		b.want("a rollback")
		must(t, run(nil))
		b.want("the commit", `pet 1 {"id": 1, "name": "outer"}`)
	})
}

func TestStatementRunsInTheTransactionThatIsGiven(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		b.ok(insert(&[]Pet{{Name: "Rex"}, {Name: "Tom"}}))
		b.want("INSERT", `pet 1 {"id": 1, "name": "Rex"}`, `pet 2 {"id": 2, "name": "Tom"}`)
		err := b.db.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			for _, query := range []bun.Query{
				b.db.NewInsert().Model(&Pet{Name: "Ivy"}), b.db.NewInsert().Model(&Note{}),
				b.db.NewUpdate().Model(&Pet{ID: 1}).Set("name = 'Max'").WherePK(), b.db.NewDelete().Model(&Pet{ID: 2}).WherePK(),
			} {
				_, err := b.hook.Exec(ctx, tx, query)
				must(t, err)
			}
			return errUndo
		})
		if !errors.Is(err, errUndo) {
			t.Errorf("the error is %v", err)
		}
		b.want("a rollback")
		var names []string
		must(t, b.db.NewSelect().Model((*Pet)(nil)).Column("name").Order("id").Scan(t.Context(), &names))
		if !slices.Equal(names, []string{"Rex", "Tom"}) || b.count(&Note{}) != 0 {
			t.Errorf("the pets are %q", names)
		}
	})
}

func TestThousandModelsAreOneInsert(t *testing.T) {
	t.Parallel()
	rec := outboxtest.NewRecorder[*sql.Tx](nil)
	counting := &counter{Recorder: rec}
	sqlDB, err := sql.Open("sqlite", sqlstore.SQLiteDSN(filepath.Join(t.TempDir(), "app.db")))
	must(t, err)
	t.Cleanup(func() { _ = sqlDB.Close() })
	db := bun.NewDB(sqlDB, sqlitedialect.New())
	_, err = db.NewCreateTable().Model(&Pet{}).Exec(t.Context())
	must(t, err)
	hook, err := bunoutbox.New(outbox.New(counting), model.Must(model.Publish[Pet](model.Config{Destination: "pet"})))
	must(t, err)
	pets := make([]Pet, 1000)
	must(t, db.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := hook.Exec(ctx, tx, tx.NewInsert().Model(&pets))
		return err
	}))
	if counting.inserts != 1 || len(rec.All()) != 1000 {
		t.Errorf("%d messages by %d statements, want 1000 by one", len(rec.All()), counting.inserts)
	}
}

// counter counts the statements.
type counter struct {
	*outboxtest.Recorder[*sql.Tx]
	inserts int
}

func (c *counter) Insert(ctx context.Context, tx *sql.Tx, msgs []outbox.Message) error {
	c.inserts++
	return c.Recorder.Insert(ctx, tx, msgs)
}

func TestFailurePublishesNothing(t *testing.T) {
	eachDialect(t, func(t *testing.T, b *bed) {
		if _, err := b.exec(insert(&Hooked{Name: "fail"})); !errors.Is(err, errHook) {
			t.Errorf("the error is %v", err)
		}
		if _, err := b.exec(insert(&[]User{{Name: "same"}, {Name: "same"}})); err == nil {
			t.Error("a unique index let two in")
		}
		if _, err := b.exec(func(tx bun.Tx) bun.Query { return tx.NewSelect().Model(&User{}) }); err == nil || !strings.Contains(err.Error(), "SelectQuery cannot be published") {
			t.Errorf("a SELECT: %v", err)
		}
		if _, err := b.hook.Exec(t.Context(), bun.Tx{}, b.db.NewInsert().Model(&User{})); !errors.Is(err, outbox.ErrNilTx) {
			t.Errorf("without a transaction: %v", err)
		}
		_, err := b.db.DB.ExecContext(t.Context(), `ALTER TABLE `+b.table+` RENAME TO gone`)
		must(t, err)
		if _, err := b.exec(insert(&User{Name: "x"})); err == nil || !strings.Contains(err.Error(), "bunoutbox: outbox: emit: ") {
			t.Errorf("without an outbox: %v", err)
		}
		if users, hooked := b.count(&User{}), b.count(&Hooked{}); users != 0 || hooked != 0 {
			t.Errorf("%d users and %d others were saved", users, hooked)
		}
	})
}

func TestNewReportsAllFaults(t *testing.T) {
	t.Parallel()
	users := model.Must(model.Publish[User](model.Config{Destination: "x"}))
	var none *model.Publication[User]
	_, err := bunoutbox.New(nil, users, nil, none, users)
	for _, part := range []string{"the outbox is nil", "model 1 is nil", "model 2 is nil", "model 3: bunoutbox_test.User is there already"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error is %v, want %q in it", err, part)
		}
	}
	if _, err := bunoutbox.New(outbox.New(outboxtest.NewRecorder[*sql.Tx](nil))); err == nil || !strings.Contains(err.Error(), "there are no models") {
		t.Errorf("without models: %v", err)
	}
}

func ExampleHook_Exec() {
	sqlDB, err := sql.Open("sqlite", "file:example?mode=memory&cache=shared")
	check(err)
	defer func() { _ = sqlDB.Close() }()
	sqlDB.SetMaxOpenConns(1)
	db := bun.NewDB(sqlDB, sqlitedialect.New())
	ctx := context.Background()
	_, err = db.NewCreateTable().Model(&Team{}).Exec(ctx)
	check(err)

	store := outboxtest.NewRecorder[*sql.Tx](nil) // or sqlstore.New
	teams := model.Must(model.Publish[Team](model.Config{Destination: "/topic/teams", Version: "v1"}))
	hook, err := bunoutbox.New(outbox.New(store), teams)
	check(err)
	db = db.WithQueryHook(hook)

	check(db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := hook.Exec(ctx, tx, tx.NewInsert().Model(&[]Team{{Name: "red"}, {Name: "blue"}}))
		return err
	}))
	for _, m := range store.All() {
		fmt.Println(m.Topic, m.Key, string(m.Payload))
	}
	// Output:
	// teams.v1 1 {"id": 1, "name": "red"}
	// teams.v1 2 {"id": 2, "name": "blue"}
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
	}
}
