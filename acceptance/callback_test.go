package acceptance

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox/internal/testenv"
)

// callbackVariable makes the test binary a program that handles messages, with the
// database at that URL. The variables of children do not reach it: they begin as those
// of the program do.
const callbackVariable = "ACCEPTANCE_CALLBACK"

// callbackMain reports whether this process is a callback, when it has done its work:
// with OUTBOX_ID set for one message, else for lines.
func callbackMain() bool {
	url := os.Getenv(callbackVariable)
	if url == "" {
		return false
	}
	c := &callback{url: url}
	var err error
	if id, ok := os.LookupEnv("OUTBOX_ID"); ok {
		attempt, _ := strconv.Atoi(os.Getenv("OUTBOX_ATTEMPT"))
		payload, readErr := io.ReadAll(os.Stdin)
		if err = readErr; err == nil {
			err = c.handle(id, attempt, string(payload))
		}
	} else {
		err = c.handleLines()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

// callback is a program with a database of its own effects.
type callback struct {
	url  string
	conn *pgx.Conn
}

// What a callback does beside its work, by chance.
const (
	luckFail       = 150 // of 1000
	luckKill       = 30
	luckKillLate   = 30 // after the commit, before it has told of it
	luckHang       = 10
	luckHangLate   = 10
	callbackPlayer = "effects" // consumer of its own in the inbox
)

// handle makes the effect of a message once. What else happens depends on the message
// and the attempt, so that no attempt is like the one before.
func (c *callback) handle(id string, attempt int, payload string) error {
	h := fnv.New32a()
	_, _ = fmt.Fprint(h, id, attempt)
	luck := int(h.Sum32() % 1000)
	took := func(share int) bool { luck -= share; return luck < 0 && luck >= -share }
	switch {
	case took(luckFail):
		return fmt.Errorf("no luck with %s", id)
	case took(luckKill):
		killSelf()
	case took(luckHang):
		select {}
	}
	if err := c.effect(id, payload); err != nil {
		return err
	}
	switch {
	case took(luckKillLate):
		killSelf()
	case took(luckHangLate):
		select {}
	}
	return nil
}

// effect is the statement of the command's help, with the effect behind it, in one
// transaction.
func (c *callback) effect(id, payload string) (err error) {
	ctx := context.Background()
	if c.conn == nil {
		if c.conn, err = pgx.Connect(ctx, c.url); err != nil {
			return err
		}
	}
	return pgx.BeginFunc(ctx, c.conn, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO outbox.inbox (consumer, message_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`, callbackPlayer, id)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO effects (id, payload) VALUES ($1, $2)`, id, payload)
		return err
	})
}

// handleLines answers each line, with a retry where there was no luck.
func (c *callback) handleLines() error {
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return nil // the end of the input
		}
		var m struct {
			ID      string
			Attempt int
			Payload json.RawMessage
		}
		if err := json.Unmarshal(line, &m); err != nil {
			return err
		}
		answer := map[string]any{"id": m.ID, "ack": true}
		if err := c.handle(m.ID, m.Attempt, string(m.Payload)); err != nil {
			answer = map[string]any{"id": m.ID, "retry": true, "reason": err.Error()}
		}
		text, err := json.Marshal(answer)
		if err != nil {
			return err
		}
		fmt.Println(string(text))
	}
}

// awaitRows waits until a query counts n rows at least, as long as there are more and
// more of them.
func awaitRows(t testing.TB, url, query string, n int) {
	t.Helper()
	most := -1
	for deadline := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		have := countRows(t, url, query)
		switch {
		case have >= n:
			return
		case have > most:
			most, deadline = have, time.Now().Add(patience)
		case time.Now().After(deadline):
			t.Fatalf("%s: %d, and no more within %v, want %d", query, have, patience, n)
		}
	}
}

// TestD26_ProgramUnderFire has a program handle 1,000 messages that fails, is killed
// before and behind its commit, and hangs until it is killed for it, all by chance;
// and the worker is killed once, too. No message is lost, and each has its effect
// once.
func TestD26_ProgramUnderFire(t *testing.T) {
	const n = 1000
	t.Parallel()
	program := buildProgram(t)
	self, err := os.Executable()
	must(t, err)
	for name, flags := range map[string][]string{
		"a process for each message": {"--concurrency", "8"},
		"lines of JSON":              {"--concurrency", "8", "--lines", "--processes", "4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, mq := testenv.Postgres(t).NewDatabase(t), testenv.RabbitMQ(t).NewVHost(t)
			c := &commands{t, program, []string{
				"OUTBOX_DATABASE_URL=" + url, "OUTBOX_BROKER_URL=" + mq, callbackVariable + "=" + url,
				"OUTBOX_SUBSCRIBE_TIMEOUT=2s", "OUTBOX_SUBSCRIBE_RETRIES=100ms", "OUTBOX_SUBSCRIBE_MAX_ATTEMPTS=1000",
			}}
			c.run("", "migrate")
			testenv.Postgres(t).Exec(url, `CREATE TABLE effects (id text NOT NULL, payload text NOT NULL)`)
			subscribe := append([]string{"subscribe", "--queue", "q", "--topic", "order.#"}, append(flags, "--exec", self)...)
			worker := c.start("worker ready", subscribe...)
			relay := c.start("relay started", "relay")
			var lines strings.Builder
			for i := range n {
				fmt.Fprintf(&lines, `{"topic":"order.placed","key":"%d","payload":%d}`+"\n", i%50, i)
			}
			c.run(lines.String(), "emit", "--lines")
			awaitRows(t, url, "SELECT count(*) FROM effects", n/3)
			must(t, worker.cmd.Process.Kill())
			<-worker.ended
			said := worker.log.String()
			worker = c.start("worker ready", subscribe...)
			awaitRows(t, url, "SELECT count(*) FROM outbox.inbox WHERE consumer = 'q'", n)
			relay.stop()
			worker.stop()
			said += worker.log.String()
			if rows := testenv.Postgres(t).Exec(url, "SELECT count(*), count(DISTINCT id), count(DISTINCT payload) FROM effects"); fmt.Sprint(rows) != "[[1000 1000 1000]]" {
				t.Errorf("there are %v effects, of messages, of payloads, want 1000 of each", rows)
			}
			if queue, dead := queueLength(t, mq, "q"), queueLength(t, mq, "q.dlq"); queue != 0 || dead != 0 {
				t.Errorf("%d messages are left, and %d are dead letters", queue, dead)
			}
			// Otherwise the test has shown nothing.
			for _, want := range []string{"no luck with", "signal: killed", "its time-out", "signal: terminated"} {
				if !strings.Contains(said, want) {
					t.Errorf("the log has no %q", want)
				}
			}
			if t.Failed() {
				t.Logf("the end of the log:\n%s", said[max(0, len(said)-4000):])
			}
		})
	}
}
