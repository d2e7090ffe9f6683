package acceptance

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/model"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/worker"
)

func readmeModel(ctx context.Context, ob *outbox.Outbox[pgx.Tx], user User) error {
	// example: model
	users, err := model.Publish[User](model.Config{Destination: "user.saved", Fields: []string{"name"}})
	if err != nil {
		return err
	}
	return ob.InTx(ctx, func(tx pgx.Tx) error {
		return model.Save(ctx, ob, tx, func() error {
			_, err := tx.Exec(ctx, `UPDATE users SET name = $2 WHERE id = $1`, user.ID, user.Name)
			return err
		}, users.Updated(&user))
	})
	// end
}

func readmeReceive(ctx context.Context, mux *http.ServeMux, store *pgxstore.Store,
	bill func(context.Context, pgx.Tx, *worker.Delivery[Order]) error) error {
	// example: receive
	receiver, err := webhook.NewReceiver(nil)
	if err != nil {
		return err
	}
	mux.Handle("POST /events", receiver)
	w := worker.New(receiver, &worker.Config{Queue: "billing"})
	worker.HandleTx(w, store, "order.placed", bill)
	return w.Run(ctx)
	// end
}

func TestReadmeModel(t *testing.T) {
	t.Parallel()
	pool := openPool(t, testenv.Postgres(t).NewDatabase(t), 4)
	store := pgxstore.New(pool, &pgxstore.Config{Logger: quiet()})
	defer store.Close()
	must(t, store.Migrate(t.Context()))
	_, err := pool.Exec(t.Context(), `CREATE TABLE users (id text PRIMARY KEY, name text NOT NULL); INSERT INTO users VALUES ('1', 'Ada')`)
	must(t, err)
	must(t, readmeModel(t.Context(), outbox.New(store), User{"1", "Bob"}))
	var name, payload string
	must(t, pool.QueryRow(t.Context(), `SELECT name, convert_from(payload, 'UTF8') FROM users, outbox.message WHERE topic = 'user.saved'`).Scan(&name, &payload))
	if name != "Bob" || payload != `{"id": "1", "name": "Bob"}` {
		t.Errorf("the name is %q, and the payload %s", name, payload)
	}
}

func TestReadmeReceive(t *testing.T) {
	t.Parallel()
	pool := openPool(t, testenv.Postgres(t).NewDatabase(t), 10)
	store := pgxstore.New(pool, &pgxstore.Config{Logger: quiet()})
	defer store.Close()
	must(t, store.Migrate(t.Context()))
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	billed, ended := make(chan Order, 1), make(chan error, 1)
	go func() {
		ended <- readmeReceive(ctx, mux, store, func(_ context.Context, _ pgx.Tx, d *worker.Delivery[Order]) error {
			billed <- d.Payload
			return nil
		})
	}()
	publisher, err := webhook.NewPublisher(server.URL+"/events", nil)
	must(t, err)
	runRelay(t, store, publisher, relay.Config{RefusedBackoff: reconnectMin}, func() {})
	ob := outbox.New(store)
	must(t, ob.InTx(ctx, func(tx pgx.Tx) error {
		return ob.Emit(ctx, tx, outbox.Event{Topic: "order.placed", Payload: Order{"ada", 30}})
	}))
	if order := <-billed; order != (Order{"ada", 30}) {
		t.Errorf("billed %v", order)
	}
	cancel()
	must(t, <-ended)
}

// TestReadmeCommandsWithABroker runs those of the README's commands that need one.
func TestReadmeCommandsWithABroker(t *testing.T) {
	t.Parallel()
	blocks := regexp.MustCompile("(?s)<!-- run with a broker -->\n```sh\n(.*?)```").FindAllStringSubmatch(readme(t), -1)
	if len(blocks) == 0 {
		t.Fatal("the README has no commands with a broker")
	}
	folder := t.TempDir()
	must(t, os.Symlink(buildProgram(t), filepath.Join(folder, "outbox")))
	for _, block := range blocks {
		out := runBlock(t, folder, block[1], "BROKER_URL="+testenv.RabbitMQ(t).NewVHost(t))
		billed, err := os.ReadFile(filepath.Join(folder, "billed"))
		if text := string(billed); err != nil || !strings.HasPrefix(text, "order.placed ") || !strings.Contains(text, `{"id": "1"}`) {
			t.Errorf("billed %q, %v\n%s", text, err, out)
		}
	}
}
