package acceptance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	gormpostgres "gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp"
	"github.com/outbox-go/outbox/model"
	bunoutbox "github.com/outbox-go/outbox/model/bun"
	gormoutbox "github.com/outbox-go/outbox/model/gorm"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/sqlstore"
)

// MyModel is the model of django-outbox-pattern's page.
type MyModel struct {
	ID       int64  `json:"id" bun:",pk,autoincrement"`
	FieldOne string `json:"field_one"`
	FieldTwo string `json:"field_two"`
}

// MySerializer and the two after it are the page's.
func (m *MyModel) MySerializer() any {
	return map[string]any{"id": m.ID, "one": m.FieldOne, "two": m.FieldTwo}
}

// MySerializer1 leaves the second field out.
func (m *MyModel) MySerializer1() any { return map[string]any{"id": m.ID, "one": m.FieldOne} }

// MySerializer2 leaves the first field out.
func (m *MyModel) MySerializer2() (any, error) {
	return map[string]any{"id": m.ID, "two": m.FieldTwo}, nil
}

const (
	myModels       = `CREATE TABLE my_models (id bigserial PRIMARY KEY, field_one text NOT NULL, field_two text NOT NULL)`
	mySQLiteModels = `CREATE TABLE my_models (id INTEGER PRIMARY KEY AUTOINCREMENT, field_one text NOT NULL, field_two text NOT NULL)`
	insertMyModel  = `INSERT INTO my_models (field_one, field_two) VALUES ($1, $2) RETURNING id`
)

// publishing returns GORM on the system's database, with MyModel published.
func publishing(t *testing.T, s *system, configs ...model.Config) *gorm.DB {
	t.Helper()
	db, err := gorm.Open(gormpostgres.New(gormpostgres.Config{Conn: s.sql()}), nil)
	must(t, err)
	published, err := model.Publish[MyModel](configs...)
	must(t, err)
	must(t, db.Use(gormoutbox.New(outbox.New(sqlstore.New(s.sql(), sqlstore.PostgreSQL, nil)), published)))
	return db
}

// savings save a model outside and one inside a savepoint, which is rolled back, and
// end the transaction by undo.
var savings = map[string]func(t *testing.T, s *system, undo error) error{
	"GORM": func(t *testing.T, s *system, undo error) error {
		return publishing(t, s, model.Config{Destination: "my_route_key"}).Transaction(func(tx *gorm.DB) error {
			must(t, tx.Create(&MyModel{FieldOne: "outer"}).Error)
			err := tx.Transaction(func(tx *gorm.DB) error {
				must(t, tx.Create(&MyModel{FieldOne: "inner"}).Error)
				return errUndone
			})
			wantUndone(t, err)
			return undo
		})
	},
	"bun": func(t *testing.T, s *system, undo error) error {
		hook, err := bunoutbox.New(outbox.New(sqlstore.New(s.sql(), sqlstore.PostgreSQL, nil)),
			model.Must(model.Publish[MyModel](model.Config{Destination: "my_route_key"})))
		must(t, err)
		save := func(ctx context.Context, tx bun.Tx, name string) {
			_, err := hook.Exec(ctx, tx, tx.NewInsert().Model(&MyModel{FieldOne: name}))
			must(t, err)
		}
		db := bun.NewDB(s.sql(), pgdialect.New()).WithQueryHook(hook)
		return db.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			save(ctx, tx, "outer")
			wantUndone(t, tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				save(ctx, tx, "inner")
				return errUndone
			}))
			return undo
		})
	},
	"pgx": func(t *testing.T, s *system, undo error) error {
		published := model.Must(model.Publish[MyModel](model.Config{Destination: "my_route_key"}))
		ob := s.database.(*postgres).outbox
		save := func(tx pgx.Tx, name string) {
			m := MyModel{FieldOne: name}
			must(t, model.Save(t.Context(), ob, tx, func() error {
				return tx.QueryRow(t.Context(), insertMyModel, m.FieldOne, m.FieldTwo).Scan(&m.ID)
			}, published.Created(&m)))
		}
		return ob.InTx(t.Context(), func(tx pgx.Tx) error {
			save(tx, "outer")
			wantUndone(t, pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error {
				save(tx, "inner")
				return errUndone
			}))
			return undo
		})
	},
	"database/sql on SQLite": func(t *testing.T, s *system, undo error) error {
		published := model.Must(model.Publish[MyModel](model.Config{Destination: "my_route_key"}))
		ob := s.database.(*sqlite).outbox
		save := func(tx *sql.Tx, name string) {
			m := MyModel{FieldOne: name}
			must(t, model.Save(t.Context(), ob, tx, func() error {
				return tx.QueryRowContext(t.Context(), insertMyModel, m.FieldOne, m.FieldTwo).Scan(&m.ID)
			}, published.Created(&m)))
		}
		return ob.InTx(t.Context(), func(tx *sql.Tx) error {
			save(tx, "outer")
			_, err := tx.ExecContext(t.Context(), "SAVEPOINT mine")
			must(t, err)
			save(tx, "inner")
			_, err = tx.ExecContext(t.Context(), "ROLLBACK TO mine")
			must(t, err)
			return undo
		})
	},
}

func wantUndone(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, errUndone) {
		t.Fatalf("the error is %v, want that of the function", err)
	}
}

func TestD01_SavingAndPublishingAreOneTransaction(t *testing.T) {
	t.Parallel()
	for name, save := range savings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(newPostgres(t), newRabbit(t, false))
			table := myModels
			if name == "database/sql on SQLite" {
				s, table = newSystem(newSQLite(t), newJetStream(t)), mySQLiteModels
			}
			execute(t, s, table)
			wantUndone(t, save(t, s, errUndone))
			s.awaitPending(t, 0)
			wantModels(t, s)
			must(t, save(t, s, nil))
			wantModels(t, s, "outer")
			if n := len(pending(t, s)); n != 1 {
				t.Fatalf("%d messages are in the outbox, want that of the committed model", n)
			}
			r := s.startWorker(t)
			s.startRelay(t, relay.Config{})
			d := r.await(1)[0]
			if want := fmt.Sprintf(`{"id": %s, "field_one": "outer", "field_two": ""}`, d.Key); string(d.Payload) != want || d.Topic != "my_route_key" || d.Type != "MyModel" {
				t.Errorf("%s with %s arrived, a %s, want %s", d.Topic, d.Payload, d.Type, want)
			}
			s.awaitPending(t, 0)
			if n := len(r.deliveries()); n != 1 {
				t.Errorf("%d messages arrived", n)
			}
		})
	}
}

// wantModels checks what the business table has.
func wantModels(t *testing.T, s *system, want ...string) {
	t.Helper()
	rows, err := s.sql().QueryContext(t.Context(), `SELECT field_one FROM my_models ORDER BY id`)
	must(t, err)
	defer rows.Close()
	var got []string
	for rows.Next() {
		var one string
		must(t, rows.Scan(&one))
		got = append(got, one)
	}
	must(t, rows.Err())
	if !slices.Equal(got, want) {
		t.Errorf("the table has %q, want %q", got, want)
	}
}

// pageExample is one of the page's: what is configured, saved, and sent.
type pageExample struct {
	configs  []model.Config
	one, two string
	want     []string // version, topic and body
}

// pageExamples are all of the page's, in its order.
var pageExamples = []pageExample{
	{
		[]model.Config{{Destination: "/topic/my_route_key"}},
		"Field One", "Field Two",
		[]string{` my_route_key {"id": 1, "field_one": "Field One", "field_two": "Field Two"}`},
	}, {
		[]model.Config{{Destination: "/topic/my_route_key", Version: "v1"}},
		"One", "Two",
		[]string{`v1 my_route_key.v1 {"id": 1, "field_one": "One", "field_two": "Two"}`},
	}, {
		[]model.Config{{Destination: "/topic/my_route_key", Fields: []string{"field_one"}}},
		"Field One", "Field Two",
		[]string{` my_route_key {"id": 1, "field_one": "Field One"}`},
	}, {
		[]model.Config{{Destination: "/topic/my_route_key", Serializer: "MySerializer"}},
		"Field One", "Field Two",
		[]string{` my_route_key {"id": 1, "one": "Field One", "two": "Field Two"}`},
	}, {
		[]model.Config{
			{Destination: "/topic/my_route_key_1", Serializer: "MySerializer1"},
			{Destination: "/topic/my_route_key_2", Serializer: "MySerializer2"},
		},
		"Field One", "Field Two",
		[]string{` my_route_key_1 {"id": 1, "one": "Field One"}`, ` my_route_key_2 {"id": 1, "two": "Field Two"}`},
	},
}

// publishedBed is GORM on PostgreSQL, a relay, a broker and a worker that takes all.
type publishedBed struct {
	*system
	received *recorder
	seen     int
}

func newPublishedBed(t *testing.T, byStomp bool) *publishedBed {
	t.Helper()
	b := newRabbit(t, false)
	s := newSystem(newPostgres(t), b)
	execute(t, s, myModels)
	if !byStomp {
		bed := &publishedBed{system: s, received: s.startWorker(t)}
		s.startRelay(t, relay.Config{})
		return bed
	}
	url := b.server.STOMPURL(b.address)
	sub, err := stomp.NewSubscriber(url, nil)
	must(t, err)
	t.Cleanup(func() { _ = sub.Close() })
	p, err := stomp.NewPublisher(url, nil)
	must(t, err)
	bed := &publishedBed{system: s, received: startWorker(t, sub, "all", "#")}
	s.startRelayWith(t, p, relay.Config{})
	return bed
}

// save saves the model in a table that has none, as often as there are operations, and
// returns the n messages that came of it.
func (b *publishedBed) save(t *testing.T, m MyModel, n int, configs []model.Config, then ...func(db *gorm.DB, m *MyModel) error) []delivery {
	t.Helper()
	execute(t, b, `TRUNCATE my_models RESTART IDENTITY`)
	db := publishing(t, b.system, configs...)
	must(t, db.Create(&m).Error)
	for _, do := range then {
		must(t, do(db, &m))
	}
	b.seen += n
	b.received.await(b.seen)
	b.awaitPending(t, 0)
	all := b.received.deliveries()
	if len(all) != b.seen {
		t.Fatalf("%d messages arrived, want %d", len(all), b.seen)
	}
	return all[b.seen-n:]
}

// eachTransport runs a test by AMQP and by STOMP.
func eachTransport(t *testing.T, test func(t *testing.T, b *publishedBed)) {
	t.Helper()
	t.Parallel()
	for name, byStomp := range map[string]bool{"AMQP": false, "STOMP": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newPublishedBed(t, byStomp))
		})
	}
}

func TestD02_BodiesAreThoseOfThePage(t *testing.T) {
	eachTransport(t, func(t *testing.T, b *publishedBed) {
		for i, e := range pageExamples {
			var got []string
			for _, d := range b.save(t, MyModel{FieldOne: e.one, FieldTwo: e.two}, len(e.want), e.configs) {
				got = append(got, fmt.Sprintf("%s %s %s", d.Version, d.Topic, d.Payload))
				if d.Key != "1" || d.Type != "MyModel" || d.ContentType != outbox.ContentTypeJSON {
					t.Errorf("example %d: the key is %q, the type %q, the content type %q", i, d.Key, d.Type, d.ContentType)
				}
			}
			if !slices.Equal(got, e.want) {
				t.Errorf("example %d sent %q, want %q", i, got, e.want)
			}
		}
	})
}

func TestD03_SerializerWinsOverFields(t *testing.T) {
	eachTransport(t, func(t *testing.T, b *publishedBed) {
		both := []model.Config{{Destination: "/topic/my_route_key", Fields: []string{"field_two"}, Serializer: "MySerializer1"}}
		d := b.save(t, MyModel{FieldOne: "Field One", FieldTwo: "Field Two"}, 1, both)[0]
		if want := `{"id": 1, "one": "Field One"}`; string(d.Payload) != want {
			t.Errorf("%s was sent, want %s", d.Payload, want)
		}
	})
}

func TestD04_VersionIsAppendedOnce(t *testing.T) {
	eachTransport(t, func(t *testing.T, b *publishedBed) {
		again := func(db *gorm.DB, m *MyModel) error { return db.Save(m).Error }
		for _, destination := range []string{"/topic/my_route_key", "/topic/my_route_key.v1", "my_route_key"} {
			configs := []model.Config{{Destination: destination, Version: "v1"}}
			for _, d := range b.save(t, MyModel{FieldOne: "One"}, 3, configs, again, again) {
				if d.Topic != "my_route_key.v1" || d.Version != "v1" {
					t.Errorf("%s: version %q of %q was sent", destination, d.Version, d.Topic)
				}
			}
		}
	})
	queue := []model.Config{{Destination: "/queue/users", Version: "v2"}}
	t.Run("a destination that is no topic by AMQP", func(t *testing.T) {
		t.Parallel()
		d := newPublishedBed(t, false).save(t, MyModel{}, 1, queue)[0]
		if d.Topic != "users.v2" || d.Headers[stomp.HeaderDestination] != "/queue/users.v2" || d.Version != "v2" {
			t.Errorf("version %q of %q was sent, for %q", d.Version, d.Topic, d.Headers)
		}
	})
	t.Run("a destination that is no topic by STOMP", func(t *testing.T) {
		t.Parallel()
		b := newPublishedBed(t, true)
		ch := collecting(t, b.broker.(*rabbit).address, "users.v2")
		must(t, publishing(t, b.system, queue...).Create(&MyModel{}).Error)
		d := awaitDelivery(t, ch, "users.v2")
		if d.Exchange != "" || d.RoutingKey != "users.v2" || d.Headers[outbox.HeaderTopic] != "users.v2" || d.Headers[outbox.HeaderVersion] != "v2" {
			t.Errorf("sent to %q by %q with %v", d.Exchange, d.RoutingKey, d.Headers)
		}
	})
}
