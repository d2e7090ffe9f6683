package acceptance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/brokertest"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/memstore"
	"github.com/outbox-go/outbox/storetest"
)

// The Go of docs/adding-a-store-or-broker.md stands here, where it is compiled and run.

func addingFunction(client *http.Client, url string) outbox.PublishFunc {
	// example: function
	var publish outbox.PublishFunc = func(ctx context.Context, m *outbox.Message) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(string(m.Payload)))
		if err != nil {
			return outbox.Invalid(err) // never to be sent
		}
		request.Header.Set("Idempotency-Key", m.ID)
		response, err := client.Do(request)
		if err != nil {
			return outbox.Unavailable(err) // no answer: nobody knows
		}
		defer response.Body.Close()
		if response.StatusCode/100 != 2 {
			return outbox.Refused(errors.New(response.Status)) // not now
		}
		return nil // it is safe there
	}
	// end
	return publish
}

func addingBrokerSuite(t *testing.T) {
	// example: brokersuite
	brokertest.Run(t, func(*testing.T) brokertest.Broker {
		b := membroker.New() // yours
		return brokertest.Broker{
			Publisher:  func(*testing.T) outbox.Publisher { return b.Publisher() },
			Subscriber: func(*testing.T) outbox.Subscriber { return b.Subscriber() },
			Features:   brokertest.Features{Redelivered: true},
		}
	})
	// end
}

func addingStoreSuite(t *testing.T, harness func(t *testing.T) storetest.Harness[*memstore.Tx]) {
	// example: storesuite
	storetest.Run(t, func(t *testing.T) storetest.Harness[*memstore.Tx] { // your transaction's type
		return harness(t) // an empty store of yours, and what the suite needs around it
	})
	// end
}

// Both suites run where the drivers are.
var _, _ = addingBrokerSuite, addingStoreSuite

func addingTable(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `
-- example: table
CREATE TABLE mail (
    n        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id       uuid NOT NULL DEFAULT gen_random_uuid(),
    address  text NOT NULL,
    status   text NOT NULL DEFAULT 'waiting',
    attempts integer NOT NULL DEFAULT 0,
    error    text,
    due_at   timestamptz NOT NULL DEFAULT now()
);
-- end
`)
	return err
}

// example: source
type mail struct {
	N           int64
	ID, Address string
}

type mails struct{ pool *pgxpool.Pool }

// Fetch keeps what it takes from the other producers for a while.
func (s mails) Fetch(ctx context.Context, limit int) ([]mail, error) {
	rows, err := s.pool.Query(ctx, `
		WITH taken AS (
			UPDATE mail SET due_at = now() + interval '5 min' WHERE n IN (
				SELECT n FROM mail WHERE status = 'waiting' AND due_at <= now() ORDER BY n LIMIT $1 FOR UPDATE SKIP LOCKED)
			RETURNING n, id::text, address)
		SELECT * FROM taken ORDER BY n`, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[mail])
}

func (s mails) Sent(ctx context.Context, m mail) error {
	_, err := s.pool.Exec(ctx, `UPDATE mail SET status = 'sent' WHERE n = $1`, m.N)
	return err
}

func (s mails) Failed(ctx context.Context, m mail, cause error) error {
	attempt := 1
	if errors.Is(cause, outbox.ErrUnavailable) {
		attempt = 0 // not the mail's fault
	}
	_, err := s.pool.Exec(ctx, `
		UPDATE mail SET attempts = attempts + $2, error = $3, due_at = now() + interval '1 s' * attempts,
			status = CASE WHEN attempts + $2 >= 3 THEN 'failed' ELSE 'waiting' END
		WHERE n = $1`, m.N, attempt, cause.Error())
	return err
}

// toMessage is the mapper. The id is the row's, the same at each attempt.
func toMessage(_ context.Context, m mail) (*outbox.Message, error) {
	return &outbox.Message{ID: m.ID, Topic: "mail.requested", Key: m.Address, Payload: []byte(m.Address)}, nil
}

// end

func addingRunner(ctx context.Context, pool *pgxpool.Pool, publisher outbox.Publisher) {
	// example: runner
	producer := relay.NewProducer(mails{pool}, toMessage, relay.Wait(publisher), &relay.ProducerConfig{Limit: 50})
	relay.Every(ctx, 3*time.Second, func(ctx context.Context) error { // until ctx ends
		_, err := producer.Produce(ctx)
		return err
	}, nil)
	// end
}

// TestAddingOwnTable drains a table of the user's own to a function of the user's own,
// by two producers at once.
func TestAddingOwnTable(t *testing.T) {
	pool := openPool(t, testenv.Postgres(t).NewDatabase(t), 10)
	must(t, addingTable(t.Context(), pool))
	_, err := pool.Exec(t.Context(), `INSERT INTO mail (address) SELECT CASE WHEN i = 3 THEN 'nobody' ELSE 'user' || i END FROM generate_series(1, 40) i`)
	must(t, err)
	var mu sync.Mutex
	sent, failures := map[string]int{}, 0
	publish := outbox.PublishFunc(func(_ context.Context, m *outbox.Message) error {
		mu.Lock()
		defer mu.Unlock()
		if m.Key == "nobody" {
			failures++
			return errNoLuck
		}
		sent[string(m.Payload)]++
		return nil
	})
	producer := relay.NewProducer(mails{pool}, toMessage, publish, &relay.ProducerConfig{Limit: 10})
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			for result := (relay.Result{Taken: 1}); result.Taken > 0; {
				var err error
				if result, err = producer.Produce(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	both.Wait()
	eventually(t, "three attempts", func() (bool, string) {
		_, err := producer.Produce(t.Context())
		return failures == 3, fmt.Sprint(failures, " so far, ", err)
	})
	if len(sent) != 39 {
		t.Errorf("%d were sent, want 39", len(sent))
	}
	for address, n := range sent {
		if n != 1 {
			t.Errorf("%s was sent %d times", address, n)
		}
	}
	var failed, reason string
	must(t, pool.QueryRow(t.Context(), `SELECT address, error FROM mail WHERE status <> 'sent'`).Scan(&failed, &reason))
	if failed != "nobody" || reason != errNoLuck.Error() {
		t.Errorf("failed %s for %q", failed, reason)
	}
	ctx, cancel := context.WithCancel(t.Context())
	b := membroker.New()
	b.Declare("all", "#")
	_, err = pool.Exec(ctx, `INSERT INTO mail (address) VALUES ('last')`)
	must(t, err)
	ended := make(chan struct{})
	go func() { defer close(ended); addingRunner(ctx, pool, b.Publisher()) }()
	eventually(t, "the runner's message", func() (bool, string) { return len(b.Messages("all")) == 1, "none" })
	cancel()
	<-ended
}

// TestAddingFunction sends by the function of the document, and looks at the classes
// of its errors.
func TestAddingFunction(t *testing.T) {
	statuses := []int{200, 503}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Idempotency-Key") == "" {
			t.Error("no id")
		}
		w.WriteHeader(statuses[0])
		statuses = statuses[1:]
	})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = server.Serve(listener) }()
	publish := addingFunction(&http.Client{}, "http://"+listener.Addr().String())
	for _, want := range []error{nil, outbox.ErrRefused, outbox.ErrUnavailable} {
		if want == outbox.ErrUnavailable { //nolint:errorlint // the very value
			must(t, server.Close())
		}
		if err := publish(t.Context(), &outbox.Message{ID: "1", Topic: "t"}); !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
	}
	if err := addingFunction(&http.Client{}, "\n")(t.Context(), &outbox.Message{}); !errors.Is(err, outbox.ErrInvalid) {
		t.Errorf("error %v, want invalid", err)
	}
}

// TestAddingExamplesAreTheCodeHere compares the document's Go and SQL with what stands
// above.
func TestAddingExamplesAreTheCodeHere(t *testing.T) {
	here, err := os.ReadFile("adding_test.go")
	must(t, err)
	document, err := os.ReadFile(filepath.Join("..", "docs", "adding-a-store-or-broker.md"))
	must(t, err)
	code := map[string]string{}
	for _, m := range regexp.MustCompile(`(?ms)^(\t?)(?://|--) example: (\w+)\n(.*?)^\t?(?://|--) end\n`).FindAllStringSubmatch(string(here), -1) {
		text := m[3]
		if m[1] != "" {
			text = strings.ReplaceAll(strings.TrimPrefix(text, "\t"), "\n\t", "\n")
		}
		code[m[2]] = strings.TrimSpace(text)
	}
	blocks := regexp.MustCompile("(?s)<!-- example: (\\w+) -->\n```(?:go|sql)\n(.*?)```").FindAllStringSubmatch(string(document), -1)
	var names []string
	for _, block := range blocks {
		names = append(names, block[1])
		if text := strings.TrimSpace(block[2]); code[block[1]] != text {
			t.Errorf("the example %s is not the code that is tested:\n%s\n%s", block[1], text, code[block[1]])
		}
	}
	slices.Sort(names)
	total := strings.Count(string(document), "```go") + strings.Count(string(document), "```sql")
	if want := []string{"brokersuite", "function", "runner", "source", "storesuite", "table"}; !slices.Equal(names, want) || total != len(names) {
		t.Errorf("the document has the examples %q of %d blocks, want %q", names, total, want)
	}
}
