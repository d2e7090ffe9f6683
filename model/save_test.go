package model_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/model"
	"github.com/outbox-go/outbox/outboxtest"
)

func TestSaveEmitsInTheTransaction(t *testing.T) {
	t.Parallel()
	rec := inserted{Recorder: outboxtest.NewRecorder[*sql.Tx](nil)}
	ob := outbox.New(&rec)
	p := publish[MyModel](t, model.Config{Destination: "/topic/my_route_key", Version: "v1"})
	var mine *sql.Tx
	v, other := &MyModel{}, &MyModel{ID: 2}
	err := ob.InTx(t.Context(), func(tx *sql.Tx) error {
		mine = tx
		return model.Save(t.Context(), ob, tx, func() error {
			*v = *one() // as the database gave it
			return nil
		}, p.Created(v, other), p.Deleted(other))
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(rec.txs) != 1 || rec.txs[0] != mine {
		t.Errorf("the messages went into %v, want one INSERT in %p", rec.txs, mine)
	}
	msgs := rec.All()
	if len(msgs) != 2 {
		t.Fatalf("%d messages, want one for each value that was created", len(msgs))
	}
	if got := string(msgs[0].Payload); got != `{"id": 1, "field_one": "Field One", "field_two": "Field Two"}` || msgs[0].Key != "1" ||
		msgs[0].Version != "v1" || msgs[0].Type != "MyModel" || msgs[0].ContentType != outbox.ContentTypeJSON {
		t.Errorf("the message is %+v with %s", msgs[0], got)
	}
}

// inserted knows the transactions in which messages were written.
type inserted struct {
	*outboxtest.Recorder[*sql.Tx]
	txs []*sql.Tx
}

func (i *inserted) Insert(ctx context.Context, tx *sql.Tx, msgs []outbox.Message) error {
	i.txs = append(i.txs, tx)
	return i.Recorder.Insert(ctx, tx, msgs)
}

func TestSaveEmitsNothingWhenItFails(t *testing.T) {
	t.Parallel()
	rec := outboxtest.NewRecorder[*sql.Tx](nil)
	ob := outbox.New(rec)
	p := publish[MyModel](t, model.Config{Destination: "x"})
	save := func(tx *sql.Tx, err error, v *MyModel) (ran bool, got error) {
		got = model.Save(t.Context(), ob, tx, func() error { ran = true; return err }, p.Created(one()), p.Created(v))
		return ran, got
	}
	errSave := errors.New("no luck")
	if _, err := save(new(sql.Tx), errSave, one()); !errors.Is(err, errSave) {
		t.Errorf("the error is %v, want that of the save", err)
	}
	if _, err := save(new(sql.Tx), nil, &MyModel{}); err == nil {
		t.Error("a value without an id was published")
	}
	if ran, err := save(nil, nil, one()); ran || !errors.Is(err, outbox.ErrNilTx) {
		t.Errorf("without a transaction: saved %v, error %v", ran, err)
	}
	rec.Fail(errSave)
	if _, err := save(new(sql.Tx), nil, one()); !errors.Is(err, errSave) {
		t.Errorf("the error is %v, want that of the store", err)
	}
	if n := len(rec.All()); n != 0 {
		t.Errorf("%d messages were emitted", n)
	}
	if err := model.Save(t.Context(), ob, new(sql.Tx), func() error { return nil }, model.Change{}); err == nil && len(rec.All()) != 0 {
		t.Error("a change of nothing emits")
	}
}

func ExampleSave() {
	type User struct {
		ID   int    `json:"id"`
		Name string `json:"name"`
	}
	users := model.Must(model.Publish[User](model.Config{Destination: "/topic/user.saved", Version: "v1"}))

	store := outboxtest.NewRecorder[*sql.Tx](nil) // or pgxstore.New, sqlstore.New
	ob := outbox.New(store)
	ctx := context.Background()
	err := ob.InTx(ctx, func(tx *sql.Tx) error {
		user := User{Name: "Ada"}
		return model.Save(ctx, ob, tx, func() error {
			// user, err = queries.WithTx(tx).CreateUser(ctx, "Ada")
			user.ID = 1
			return nil
		}, users.Created(&user))
	})
	fmt.Println(err)
	for _, m := range store.All() {
		fmt.Println(m.Topic, m.Key, m.Type, string(m.Payload))
	}
	// Output:
	// <nil>
	// user.saved.v1 1 User {"id": 1, "name": "Ada"}
}

func ExamplePublish() {
	_, err := model.Publish[MyModel](model.Config{Destination: "my_route_key", Fields: []string{"field_tow"}})
	fmt.Println(err)
	// Output:
	// model: model_test.MyModel: config 0: Fields "field_tow" is no field of model_test.MyModel: have id, field_one, field_two
}
