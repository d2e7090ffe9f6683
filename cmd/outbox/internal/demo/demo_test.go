package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// logger writes to the test's log.
func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// runGood runs the demo, which must keep the promise.
func runGood(t *testing.T, o Options) *Result {
	t.Helper()
	o.Logger = logger(t)
	result, err := Run(t.Context(), o)
	if err != nil {
		t.Fatalf("%v, result %+v", err, result)
	}
	t.Logf("%s: %+v", o.Title(), result)
	if err := result.Err(); err != nil {
		t.Error(err)
	}
	if result.Committed != o.Messages || result.Delivered != o.Messages || result.Duplicates != 0 {
		t.Errorf("got %+v, want %d committed and delivered, none twice", result, o.Messages)
	}
	if least, most := o.Messages/20, o.Messages/5; result.RolledBack < least || result.RolledBack > most {
		t.Errorf("%d rolled back, want about a tenth of %d", result.RolledBack, o.Messages)
	}
	return result
}

func TestSQLiteToJetStream(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	runGood(t, Options{Messages: 2000, Keys: 50, Relays: 2})
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestPostgresToRabbitMQ(t *testing.T) {
	t.Parallel()
	pg := testenv.Postgres(t)
	mq := testenv.RabbitMQ(t)
	o := Options{
		Messages: 2000, Keys: 50, Relays: 4,
		DatabaseURL: pg.NewDatabase(t), BrokerURL: mq.NewVHost(t),
	}
	runGood(t, o)
	schemas := pg.Exec(o.DatabaseURL, `SELECT nspname FROM pg_namespace WHERE nspname LIKE 'outbox%'`)
	if len(schemas) > 0 {
		t.Errorf("schemas left behind: %v", schemas)
	}
	vhost := strings.TrimPrefix(mustURL(t, o.BrokerURL).Path, "/")
	for _, what := range []string{"queue", "exchange"} {
		left := mq.Eval(fmt.Sprintf(`[element(4, element(2, X)) || X <- rabbit_%[1]s:list(<<"%[2]s">>), binary:match(element(4, element(2, X)), <<"demo">>) =/= nomatch].`,
			map[string]string{"queue": "amqqueue", "exchange": "exchange"}[what], vhost))
		if left != "[]" {
			t.Errorf("%s left behind: %s", what, left)
		}
	}
}

func TestPostgresToJetStreamOfElsewhere(t *testing.T) {
	t.Parallel()
	elsewhere, err := scratch.New("outbox_test")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = elsewhere.Remove(t.Context()) }()
	broker, err := elsewhere.Broker(config.Broker{})
	if err != nil {
		t.Fatal(err)
	}
	runGood(t, Options{
		Messages: 500, Keys: 10, Relays: 2,
		DatabaseURL: testenv.Postgres(t).NewDatabase(t), BrokerURL: broker.URL,
	})
	nc, err := nats.Connect(broker.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for name := range js.StreamNames(t.Context()).Name() {
		t.Errorf("stream %s left behind", name)
	}
}

// A broker that stops in the middle costs duplicates at most.
func TestSQLiteToRabbitMQThatLosesItsConnections(t *testing.T) {
	t.Parallel()
	mq := testenv.RabbitMQ(t)
	proxy := testenv.NewProxy(t, mq.Addr())
	u := mustURL(t, mq.NewVHost(t))
	u.Host = proxy.Addr()
	stop := make(chan struct{})
	cutting := make(chan struct{})
	go func() {
		defer close(cutting)
		for range 5 {
			select {
			case <-proxy.CutAfter(100_000):
			case <-stop:
				return
			}
		}
	}()
	result, err := Run(t.Context(), Options{Messages: 2000, Keys: 20, Relays: 2, BrokerURL: u.String(), Logger: logger(t)})
	close(stop)
	<-cutting
	if err != nil {
		t.Fatal(err)
	}
	if result.Err() != nil || result.Delivered != 2000 {
		t.Errorf("got %+v", result)
	}
}

func TestTimeoutTellsWhatIsKnown(t *testing.T) {
	t.Parallel()
	o := Options{Messages: 1_000_000, Keys: 10, Relays: 1, Timeout: 2 * time.Second, Logger: logger(t)}
	result, err := Run(t.Context(), o)
	if !errors.Is(err, ErrTimeout) {
		t.Fatalf("got %v, want a timeout", err)
	}
	if result == nil || result.Committed == 0 || result.Delivered == 0 || result.Phantom+result.OutOfOrder != 0 {
		t.Errorf("got %+v", result)
	}
}

func TestInterruptTellsWhatIsKnown(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	time.AfterFunc(5*time.Second, func() { cancel(reason) })
	result, err := Run(ctx, Options{Messages: 1_000_000, Keys: 10, Relays: 2, Logger: logger(t)})
	if !errors.Is(err, reason) || result == nil || result.Committed == 0 {
		t.Errorf("got %+v, %v, want a result and the reason", result, err)
	}
}

func TestBrokerThatIsNotThereIsNamed(t *testing.T) {
	t.Parallel()
	o := Options{Messages: 10, Keys: 1, Relays: 1, BrokerURL: "amqp://guest:geheim@127.0.0.1:1/", Timeout: time.Second, Logger: slog.New(slog.DiscardHandler)}
	_, err := Run(t.Context(), o)
	if !errors.Is(err, ErrTimeout) || strings.Contains(err.Error(), "geheim") {
		t.Errorf("got %v, want a timeout, and no password", err)
	}
}

func TestDatabaseOfSomebodyElseIsLeftAlone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "shop.db")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := Options{Messages: 10, Keys: 1, Relays: 1, DatabaseURL: "sqlite:" + path, Logger: logger(t)}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("got %v, want that the file exists", err)
	}
	if data, err := os.ReadFile(path); string(data) != "precious" {
		t.Errorf("the file is %q, %v", data, err)
	}
}

func TestSQLiteFileOfOnesOwnIsRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	runGood(t, Options{Messages: 100, Keys: 3, Relays: 1, DatabaseURL: "sqlite:" + filepath.Join(dir, "demo.db")})
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func mustURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
