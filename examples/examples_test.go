package examples

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store/pgxstore"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const guide = "../docs/coming-from-python.md"

// TestTheGuideShowsTheseExamples compares the guide's Go with the programs here, which
// the other tests run.
func TestTheGuideShowsTheseExamples(t *testing.T) {
	text, err := os.ReadFile(guide)
	must(t, err)
	blocks := regexp.MustCompile("(?s)<!-- from: examples/(\\S+) -->\n+```go\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if total := strings.Count(string(text), "```go"); len(blocks) != total || total < 5 {
		t.Fatalf("the guide has %d blocks of Go, %d of them with their file", total, len(blocks))
	}
	for _, block := range blocks {
		code, err := os.ReadFile(block[1])
		must(t, err)
		if !bytes.Contains(code, []byte(block[2])) {
			t.Errorf("this is not a part of %s:\n%s", block[1], block[2])
		}
	}
}

// TestUsers runs the application, the relay and the worker as programs.
func TestUsers(t *testing.T) {
	t.Parallel()
	database, broker := testenv.Postgres(t).NewDatabase(t), testenv.RabbitMQ(t).NewVHost(t)
	pool, err := pgxpool.New(t.Context(), database)
	must(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), `CREATE TABLE users (id integer PRIMARY KEY, name text NOT NULL)`)
	must(t, err)
	env := []string{"DATABASE_URL=" + database, "BROKER_URL=" + broker}
	start(t, "./users/app", env...).end(t)
	start(t, "./users/relay", env...)
	handled := start(t, "./users/worker", env...)
	handled.await(t, "welcome, Ada")

	ob := outbox.New(pgxstore.New(pool, nil))
	tx, err := pool.Begin(t.Context())
	must(t, err)
	user := func(id int, name string) map[string]any { return map[string]any{"id": id, "name": name} }
	must(t, ob.Emit(t.Context(), tx,
		outbox.Event{Topic: "user.renamed", Payload: user(7, "Ada L.")},
		outbox.Event{Topic: "user.deleted", Payload: user(7, "Ada L.")},
		outbox.Event{Topic: "user.billed", Payload: user(8, "Bob")},
		outbox.Event{Topic: "user.billed", Payload: user(9, "Eve")},
		outbox.Event{Topic: "user.billed", Payload: user(10, "Cem")}))
	must(t, tx.Commit(t.Context()))
	ob.Wake()
	handled.await(t, "user.renamed map[id:7 name:Ada L.]")
	handled.await(t, "charged Cem")
	handled.await(t, "user 7 has orders")
	handled.await(t, "the bank is busy")
	handled.await(t, "the card has expired")
}

// TestInvoices runs the loop, and looks at what its function got.
func TestInvoices(t *testing.T) {
	t.Parallel()
	p := start(t, "./invoices", "DATABASE_FILE="+filepath.Join(t.TempDir(), "invoices.db"))
	p.await(t, `InvoicePaid invoice-1 {"cents":900}`)
	p.await(t, "1 sent, 0 failed")
	if text := p.output(); strings.Contains(text, "InvoiceCreated") {
		t.Errorf("what the filter holds back was sent:\n%s", text)
	}
}

// program is a running example.
type program struct {
	cmd *exec.Cmd

	mu   sync.Mutex
	text bytes.Buffer
}

// start builds the program in a folder and runs it with the arguments behind that,
// until the test ends at the latest.
func start(t *testing.T, command string, env ...string) *program {
	t.Helper()
	dir, args, _ := strings.Cut(command, " ")
	path := filepath.Join(t.TempDir(), filepath.Base(dir))
	if out, err := exec.Command("go", "build", "-o", path, dir).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", dir, err, out)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{cmd: exec.CommandContext(ctx, path, strings.Fields(args)...)}
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = patience
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	must(t, p.cmd.Start())
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			cancel()
			_ = p.cmd.Wait()
		}
		cancel()
		if !p.cmd.ProcessState.Success() {
			t.Errorf("%s: %v\n%s", command, p.cmd.ProcessState, p.output())
		}
	})
	return p
}

// Write collects what the program prints.
func (p *program) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(text)
}

func (p *program) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// await waits until the program has printed text.
func (p *program) await(t *testing.T, text string) {
	t.Helper()
	eventually(t, func() (bool, string) {
		return strings.Contains(p.output(), text), fmt.Sprintf("no %q in\n%s", text, p.output())
	})
}

// end waits for a program that ends by itself.
func (p *program) end(t *testing.T) {
	t.Helper()
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, p.output())
	}
}

const patience = 60 * time.Second

// eventually polls until done says yes; state says what there is instead.
func eventually(t *testing.T, done func() (ok bool, state string)) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		ok, state := done()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(state)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
