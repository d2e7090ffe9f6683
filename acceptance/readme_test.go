package acceptance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/codec/msgpack"
	"github.com/outbox-go/outbox/codec/protobuf"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/outboxtest"
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

// readmeSignals is in the worker's process of TestD20_SecondSignalEndsAtOnce.
func readmeSignals(ctx context.Context) (context.Context, func()) {
	// example: signals
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // so a second signal ends the process at once
	// end
	return ctx, stop
}

// Order is the README's.
type Order struct {
	Customer string `json:"customer"`
	Cents    int    `json:"cents"`
}

func readmeOnce(w *worker.Worker, store *pgxstore.Store) {
	ob := outbox.New(store)
	// example: once
	worker.HandleTx(w, store, "order.placed", func(ctx context.Context, tx pgx.Tx, d *worker.Delivery[Order]) error {
		if _, err := tx.Exec(ctx, `UPDATE balance SET cents = cents - $2 WHERE customer = $1`, d.Payload.Customer, d.Payload.Cents); err != nil {
			return err
		}
		return ob.Emit(ctx, tx, outbox.Event{Topic: "balance.changed", Key: d.Payload.Customer, Payload: d.Payload})
	})
	// end
}

var (
	errExpired = errors.New("the card has expired")
	errBusy    = errors.New("too many requests")
)

func readmeRetries(ctx context.Context, subscriber outbox.Subscriber, charge func(context.Context, Order) error) error {
	// example: retries
	w := worker.New(subscriber, &worker.Config{
		Queue:   "billing",
		Retries: worker.Retries{Delays: worker.Exponential(time.Second, time.Minute, 8), Jitter: 0.2},
	})
	worker.Handle(w, "order.*", func(ctx context.Context, d *worker.Delivery[Order]) error {
		err := charge(ctx, d.Payload)
		switch {
		case errors.Is(err, errExpired):
			return worker.Abort(err) // to the dead letters
		case errors.Is(err, errBusy):
			return worker.RetryAfter(30*time.Second, err)
		}
		return err // tried again, and in the end to the dead letters
	}, worker.WithTimeout(10*time.Second), worker.WithConcurrency(2))
	// end
	return w.Run(ctx)
}

func readmeDeadLetters(ctx context.Context, subscriber outbox.Subscriber, tell func(format string, args ...any)) error {
	// example: dead
	w := worker.New(subscriber, &worker.Config{Queue: "billing", DeadLetters: true})
	worker.Handle(w, "#", func(_ context.Context, d *worker.Delivery[[]byte]) error {
		tell("%s %s: %d attempts since %s: %s", d.Topic, d.ID, d.Failure.Attempts, d.Failure.FirstAt, d.Failure.Reason)
		return nil // removes it
	})
	// end
	return w.Run(ctx)
}

func readmeCodecs(store *pgxstore.Store, subscriber outbox.Subscriber) (*outbox.Outbox[pgx.Tx], *worker.Worker) {
	// example: codecs
	ob := outbox.New(store, outbox.WithDefaultCodec(msgpack.Codec))
	w := worker.New(subscriber, &worker.Config{Queue: "billing", Codecs: []outbox.Codec{msgpack.Codec, protobuf.Codec}})
	// end
	return ob, w
}

func welcome(_ context.Context, d *worker.Delivery[User]) error {
	if d.Payload.Name == "" {
		return worker.Abort(errors.New("nobody to greet"))
	}
	return nil
}

func TestReadmeHandlerTest(t *testing.T) {
	// example: test
	nobody := outbox.Event{Topic: "user.created", Payload: User{ID: "7"}}
	result := outboxtest.Deliver(t, nobody, func(w *worker.Worker) {
		worker.Handle(w, "user.*", welcome)
	})
	if result.Outcome != outbox.DeadLetter {
		t.Error(result)
	}
	// end
}

func TestReadmeConsumers(t *testing.T) {
	pool := openPool(t, testenv.Postgres(t).NewDatabase(t), 10)
	url := testenv.RabbitMQ(t).NewVHost(t)
	store := pgxstore.New(pool, &pgxstore.Config{Logger: quiet()})
	defer store.Close()
	must(t, store.Migrate(t.Context()))
	_, err := pool.Exec(t.Context(), `CREATE TABLE balance (customer text PRIMARY KEY, cents integer); INSERT INTO balance VALUES ('ada', 100)`)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ob, w := readmeCodecs(store, rabbitSubscriber(t, url, nil))
	readmeOnce(w, store)
	told, ended := make(chan string, 10), make(chan error, 3)
	go func() { ended <- w.Run(ctx) }()
	go func() {
		ended <- readmeDeadLetters(ctx, rabbitSubscriber(t, url, nil), func(format string, args ...any) { told <- fmt.Sprintf(format, args...) })
	}()
	<-w.Ready()
	go func() { ended <- readmeRelay(ctx, store, url) }()
	must(t, ob.InTx(ctx, func(tx pgx.Tx) error {
		return ob.Emit(ctx, tx,
			outbox.Event{Topic: "order.placed", Payload: map[string]any{"customer": "ada", "cents": 30}},
			outbox.Event{Topic: "order.placed", Payload: "no order"})
	}))
	if text := <-told; !strings.HasPrefix(text, "order.placed ") || !strings.Contains(text, "1 attempts") {
		t.Errorf("told %q", text)
	}
	eventually(t, "the balance", func() (bool, string) {
		var cents int
		err := pool.QueryRow(ctx, `SELECT cents FROM balance`).Scan(&cents)
		return cents == 70, fmt.Sprintf("%d cents, %v", cents, err)
	})
	cancel()
	for range 3 {
		must(t, <-ended)
	}
}

func TestReadmeRetries(t *testing.T) {
	s := newSystem(newPostgres(t), newRabbit(t, false))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	outcomes := map[int]error{1: nil, 2: errExpired, 3: errBusy}
	go func() {
		ended <- readmeRetries(ctx, s.subscriber(t), func(_ context.Context, o Order) error { return outcomes[o.Cents] })
	}()
	dead := s.deadLetters(t, "billing")
	eventually(t, "the queue", func() (bool, string) { return queueLength(t, s.brokerURL(), "billing.retry.16s") == 0, "none" })
	s.startRelay(t, relay.Config{})
	s.emit(t, outbox.Event{Topic: "order.a", Payload: Order{Cents: 1}}, outbox.Event{Topic: "order.b", Payload: Order{Cents: 2}},
		outbox.Event{Topic: "order.c", Payload: Order{Cents: 3}})
	if letter := awaitDead(t, dead, 1)[0]; letter.Topic != "order.b" || letter.Failure.Attempts != 1 {
		t.Errorf("dead is %s after %d attempts, want order.b after 1", letter.Topic, letter.Failure.Attempts)
	}
	eventually(t, "order.c to wait", func() (bool, string) {
		n := queueLength(t, s.brokerURL(), "billing.retry.16s")
		return n == 1, fmt.Sprint(n, " messages")
	})
	cancel()
	must(t, <-ended)
}

// TestReadmeExamplesAreTheCodeHere compares the README's Go with the functions
// above, which TestReadmeExamples runs.
func TestReadmeExamplesAreTheCodeHere(t *testing.T) {
	code := map[string]string{}
	for _, file := range []string{"readme_test.go", "readme_more_test.go"} {
		here, err := os.ReadFile(file)
		must(t, err)
		for _, m := range regexp.MustCompile(`(?s)\t// example: (\w+)\n(.*?)\t// end\n`).FindAllStringSubmatch(string(here), -1) {
			code[m[1]] = strings.ReplaceAll(strings.TrimPrefix(m[2], "\t"), "\n\t", "\n")
		}
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
	for _, d := range []database{newPostgres(t), newSQLite(t)} {
		execute(t, d, `CREATE TABLE users (id text PRIMARY KEY, name text NOT NULL)`)
		for _, block := range blocks {
			out := runBlock(t, program, block[1], "DATABASE_URL="+d.databaseURL())
			if strings.Contains(block[1], "stdout:") && !strings.Contains(out, `"topic":"user.created"`) {
				t.Errorf("the relay printed no message:\n%s", out)
			}
		}
	}
}

// runBlock runs commands of the README by the shell, where the program and whatever is
// in its folder can be found.
func runBlock(t *testing.T, folder, commands string, env ...string) (output string) {
	t.Helper()
	cmd := exec.Command("bash", "-euc", commands)
	cmd.Dir = folder
	cmd.Env = append(append(os.Environ(), "PATH="+folder+":"+os.Getenv("PATH")), env...)
	var faults strings.Builder
	cmd.Stderr = &faults
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, faults.String())
	}
	return string(out)
}
