package main

import (
	"bytes"
	"context"
	"database/sql"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outbox-go/outbox/internal/testenv"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

func TestMain(m *testing.M) { testenv.Main(m) }

// answer is what the program said.
type answer struct {
	code           int
	stdout, stderr string
}

// call runs the program inside the test.
func call(t *testing.T, env map[string]string, stdin string, args ...string) answer {
	t.Helper()
	return callContext(t.Context(), env, stdin, args...)
}

func callContext(ctx context.Context, env map[string]string, stdin string, args ...string) answer {
	var stdout, stderr bytes.Buffer
	a := &app{stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr, env: func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}}
	code := a.run(ctx, args)
	return answer{code, stdout.String(), stderr.String()}
}

// want fails the test unless the program ended with code and said each of words,
// on standard output or standard error.
func (a answer) want(t *testing.T, code int, words ...string) {
	t.Helper()
	if a.code != code {
		t.Errorf("exit code %d, want %d", a.code, code)
	}
	for _, word := range words {
		if !strings.Contains(a.stdout+a.stderr, word) {
			t.Errorf("nothing is said of %q", word)
		}
	}
	if t.Failed() {
		t.Fatalf("standard output:\n%s\nstandard error:\n%s", a.stdout, a.stderr)
	}
}

// binary builds the program and returns its path.
func binary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "outbox")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// sqliteFile returns the path of a database with the outbox's tables.
func sqliteFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "shop.db")
	call(t, nil, "", "migrate", "--database-url", "sqlite:"+path).want(t, 0)
	return path
}

// sqliteCount returns the number of messages that are in the outbox.
func sqliteCount(t *testing.T, path string) int {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var n int
	if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM outbox_message`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// sqliteExec runs SQL.
func sqliteExec(t *testing.T, path, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

// rabbitChannel returns a channel to look at the broker with.
func rabbitChannel(t *testing.T, url string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// await waits until done reports true.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// closedPort returns the URL of a broker that nobody answers for.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "amqp://guest:guest@" + l.Addr().String() + "/"
}
