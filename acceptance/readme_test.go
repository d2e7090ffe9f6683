package acceptance

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/worker"
)

// User is the README's.
type User struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func readmeEmit(ctx context.Context, pool *pgxpool.Pool, user User) error {
	// example: emit
	ob := outbox.New(pgxstore.New(pool, nil))
	err := ob.InTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO users (id, name) VALUES ($1, $2)`, user.ID, user.Name); err != nil {
			return err
		}
		return ob.Emit(ctx, tx, outbox.Event{Topic: "user.created", Key: user.ID, Payload: user})
	})
	// end
	return err
}

func readmeBatch(ctx context.Context, pool *pgxpool.Pool, store *pgxstore.Store, user User) error {
	ob := outbox.New(store)
	// example: batch
	msgs, err := ob.Prepare(ctx, outbox.Event{Topic: "user.created", Key: user.ID, Payload: user})
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	batch.Queue(`INSERT INTO users (id, name) VALUES ($1, $2)`, user.ID, user.Name)
	if err := store.Queue(batch, msgs); err != nil {
		return err
	}
	return pool.SendBatch(ctx, batch).Close() // a batch is a transaction
	// end
}

func readmeRelay(ctx context.Context, store *pgxstore.Store, url string) error {
	// example: relay
	publisher, err := rabbitmq.NewPublisher(url, nil) // amqp://guest:guest@localhost/
	if err != nil {
		return err
	}
	defer publisher.Close()
	return relay.New(store, publisher, nil).Run(ctx) // until ctx ends
	// end
}

func readmeHandle(ctx context.Context, subscriber outbox.Subscriber, sendWelcome func(context.Context, User) error) error {
	// example: handle
	w := worker.New(subscriber, &worker.Config{Queue: "billing"})
	worker.Handle(w, "user.created", func(ctx context.Context, d *worker.Delivery[User]) error {
		return sendWelcome(ctx, d.Payload)
	})
	return w.Run(ctx) // until ctx ends
	// end
}

// TestReadmeExamplesAreTheCodeHere compares the README's Go with the functions
// above, which TestReadmeExamples runs.
func TestReadmeExamplesAreTheCodeHere(t *testing.T) {
	here, err := os.ReadFile("readme_test.go")
	must(t, err)
	code := map[string]string{}
	for _, m := range regexp.MustCompile(`(?s)\t// example: (\w+)\n(.*?)\t// end\n`).FindAllStringSubmatch(string(here), -1) {
		code[m[1]] = strings.ReplaceAll(strings.TrimPrefix(m[2], "\t"), "\n\t", "\n")
	}
	blocks := regexp.MustCompile("(?s)<!-- example: (\\w+) -->\n```go\n(.*?)```").FindAllStringSubmatch(readme(t), -1)
	if total := strings.Count(readme(t), "```go"); len(blocks) != total || total < 4 {
		t.Fatalf("the README has %d blocks of Go, %d of them named", total, len(blocks))
	}
	for _, block := range blocks {
		if code[block[1]] != block[2] {
			t.Errorf("the README's example %s is not the code that is tested:\n%s\n%s", block[1], block[2], code[block[1]])
		}
	}
}

func readme(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "README.md"))
	must(t, err)
	return string(text)
}

func TestReadmeExamples(t *testing.T) {
	pool := openPool(t, testenv.Postgres(t).NewDatabase(t), 10)
	url := testenv.RabbitMQ(t).NewVHost(t)
	store := pgxstore.New(pool, &pgxstore.Config{Logger: quiet()})
	must(t, store.Migrate(t.Context()))
	_, err := pool.Exec(t.Context(), `CREATE TABLE users (id text PRIMARY KEY, name text NOT NULL)`)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	handled, ended := make(chan string, 4), make(chan error, 2)
	go func() {
		ended <- readmeHandle(ctx, rabbitSubscriber(t, url, nil), func(_ context.Context, u User) error {
			handled <- u.Name
			return nil
		})
	}()
	go func() { ended <- readmeRelay(ctx, store, url) }()
	must(t, readmeEmit(ctx, pool, User{"1", "Ada"}))
	must(t, readmeBatch(ctx, pool, store, User{"2", "Bob"}))
	for range 2 {
		select {
		case name := <-handled:
			if name != "Ada" && name != "Bob" {
				t.Fatalf("handled %q", name)
			}
		case <-time.After(time.Minute):
			t.Fatal("nothing was handled within a minute")
		}
	}
	cancel()
	must(t, <-ended)
	must(t, <-ended)
	must(t, store.Close())
}

func TestReadmeSQL(t *testing.T) {
	pool := openPool(t, testenv.Postgres(t).NewDatabase(t), 4)
	must(t, pgxstore.New(pool, nil).Migrate(t.Context()))
	block := regexp.MustCompile("(?s)<!-- sql -->\n```sql\n(.*?)```").FindStringSubmatch(readme(t))
	if block == nil {
		t.Fatal("the README has no SQL")
	}
	_, err := pool.Exec(t.Context(), block[1])
	must(t, err)
	var n int
	must(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox.message
		WHERE topic = 'user.created' AND key = '123' AND convert_from(payload, 'UTF8') = '{"id": "123"}'`).Scan(&n))
	if n != 2 {
		t.Fatalf("%d messages, want 2", n)
	}
}

// TestReadmeCommands runs the README's commands, as they stand there.
func TestReadmeCommands(t *testing.T) {
	program := filepath.Dir(buildProgram(t))
	blocks := regexp.MustCompile("(?s)<!-- run -->\n```sh\n(.*?)```").FindAllStringSubmatch(readme(t), -1)
	if len(blocks) == 0 {
		t.Fatal("the README has no commands")
	}
	for _, url := range []string{testenv.Postgres(t).NewDatabase(t), "sqlite:" + filepath.Join(t.TempDir(), "app.db")} {
		for _, block := range blocks {
			cmd := exec.Command("bash", "-euc", block[1])
			cmd.Env = append(os.Environ(), "PATH="+program+":"+os.Getenv("PATH"), "DATABASE_URL="+url)
			var errors strings.Builder
			cmd.Stderr = &errors
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v\n%s%s", err, out, errors.String())
			}
			if !strings.Contains(string(out), `"topic":"user.created"`) {
				t.Errorf("the relay printed no message:\n%s%s", out, errors.String())
			}
		}
	}
}
