package acceptance

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
)

// command is the program, in a process of its own.
type command struct {
	t     testing.TB
	cmd   *exec.Cmd
	log   lockedBuffer
	ended chan struct{}
}

// commands are what is needed to run the program: its file, and its settings as
// variables.
type commands struct {
	t       testing.TB
	program string
	env     []string
}

// start starts a command and waits until its log has a word.
func (c *commands) start(ready string, args ...string) *command {
	c.t.Helper()
	p := &command{t: c.t, cmd: exec.Command(c.program, args...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), c.env...)
	p.cmd.Stderr = &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(c.t, p.cmd.Start())
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	c.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	p.await(ready)
	return p
}

// await waits until the log has a word.
func (p *command) await(word string) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(p.log.String(), word); time.Sleep(10 * time.Millisecond) {
		select {
		case <-p.ended:
			p.t.Fatalf("%v has ended before its log had %q:\n%s", p.cmd.Args[1:], word, p.log.String())
		default:
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("waited %v for %q in the log of %v:\n%s", patience, word, p.cmd.Args[1:], p.log.String())
		}
	}
}

// stop sends SIGTERM, after which it must end in order.
func (p *command) stop() {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("%v has not ended:\n%s", p.cmd.Args[1:], p.log.String())
	}
	if !p.cmd.ProcessState.Success() {
		p.t.Fatalf("%v: %v:\n%s", p.cmd.Args[1:], p.cmd.ProcessState, p.log.String())
	}
}

// run runs a command to its end, with that on standard input, and returns what it
// prints.
func (c *commands) run(stdin string, args ...string) string {
	c.t.Helper()
	cmd := exec.Command(c.program, args...)
	cmd.Env, cmd.Stdin = append(os.Environ(), c.env...), strings.NewReader(stdin)
	var faults strings.Builder
	cmd.Stderr = &faults
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("%v: %v\n%s%s", args, err, out, faults.String())
	}
	return string(out)
}

// transport is a way for messages from a relay to a worker.
type transport struct {
	name string
	open func(t testing.TB) (url string)
}

var transports = []transport{
	{"RabbitMQ by AMQP", func(t testing.TB) string { return testenv.RabbitMQ(t).NewVHost(t) }},
	{"RabbitMQ by STOMP", func(t testing.TB) string { mq := testenv.RabbitMQ(t); return mq.STOMPURL(mq.NewVHost(t)) }},
	{"JetStream", func(t testing.TB) string { return newJetStream(t).brokerURL() }},
}

// eventSink is an HTTP address that takes CloudEvents. It refuses the first attempt of
// each.
type eventSink struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]int
	data map[string]string // by id, of what it has taken
}

func newEventSink(t testing.TB) *eventSink {
	s := &eventSink{seen: map[string]int{}, data: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var event struct {
			ID, Type string
			Data     json.RawMessage
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(body, &event) != nil || r.Header.Get("Content-Type") != "application/cloudevents+json" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.seen[event.ID]++; s.seen[event.ID] == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		s.data[event.ID] = event.Type + " " + string(event.Data)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *eventSink) taken() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := map[string]string{}
	for id, data := range s.data {
		taken[id] = data
	}
	return taken
}

// files returns the files of a folder, their contents by their names.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	all := map[string]string{}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			must(t, err)
			all[e.Name()] = string(text)
		}
	}
	return all
}

// handleByShell writes a message into a file of the folder that is its argument; the
// first attempt fails, and what is rejected is never tried again.
const handleByShell = `
payload=$(cat)
case "$OUTBOX_TOPIC" in *.rejected) echo "no such user" >&2; exit 65;; esac
[ "$OUTBOX_ATTEMPT" = 1 ] && exit 75
printf '%s %s' "$OUTBOX_TOPIC" "$payload" > "$0/.$OUTBOX_ID" && mv "$0/.$OUTBOX_ID" "$0/$OUTBOX_ID"`

// TestD26_PublishAndSubscribeCommands brings messages from the table to a program and
// to an HTTP address, without a line of Go.
func TestD26_PublishAndSubscribeCommands(t *testing.T) {
	t.Parallel()
	program := buildProgram(t)
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			dir, sink := t.TempDir(), newEventSink(t)
			url := testenv.Postgres(t).NewDatabase(t)
			c := &commands{t, program, []string{"OUTBOX_DATABASE_URL=" + url, "OUTBOX_BROKER_URL=" + tr.open(t), "OUTBOX_SUBSCRIBE_RETRIES=50ms"}}
			c.run("", "migrate")
			shell := []string{"--exec", "/bin/sh", "--", "-c", handleByShell, dir}
			byProgram := c.start("worker ready", append([]string{"subscribe", "--queue", "programs", "--topic", "user.*"}, shell...)...)
			byAddress := c.start("worker ready", "subscribe", "--queue", "addresses", "--topic", "user.created", "--forward", sink.URL)
			publish := c.start("relay started", "relay")
			ids := strings.Fields(c.run(`{"topic":"user.created","key":"1","payload":{"n":1}}`+"\n"+`{"topic":"user.created","key":"2","payload":{"n":2}}`, "emit", "--lines"))
			rejected := strings.TrimSpace(c.run("", "emit", "--topic", "user.rejected", "--data", "{}"))
			want := map[string]string{ids[0]: `user.created {"n":1}`, ids[1]: `user.created {"n":2}`}
			eventually(t, "the messages at the program and at the address", func() (bool, string) {
				byShell, byHTTP := files(t, dir), sink.taken()
				return fmt.Sprint(byShell) == fmt.Sprint(want) && fmt.Sprint(byHTTP) == fmt.Sprint(want), fmt.Sprint(byShell, byHTTP)
			})
			byProgram.await(`error="exit status 65: no such user" outcome="dead letter"`)
			byProgram.stop()
			byAddress.stop()
			publish.stop()
			dead := t.TempDir()
			letters := c.start("worker ready", "subscribe", "--queue", "programs", "--dead-letters", "yes",
				"--exec", "/bin/sh", "--", "-c", `printf %s "$OUTBOX_REASON" > "$0/.x" && mv "$0/.x" "$0/$OUTBOX_ID"`, dead)
			eventually(t, "the dead letter", func() (bool, string) {
				got := files(t, dead)
				return fmt.Sprint(got) == fmt.Sprint(map[string]string{rejected: "exit status 65: no such user"}), fmt.Sprint(got)
			})
			letters.stop()
			if n := countRows(t, url, "SELECT count(*) FROM outbox.inbox WHERE consumer = 'programs'"); n != 3 {
				t.Errorf("the inbox has %d rows of the program's queue, want two messages and the dead letter", n)
			}
		})
	}
}

func countRows(t testing.TB, url, query string) (n int) {
	t.Helper()
	rows := testenv.Postgres(t).Exec(url, query)
	_, err := fmt.Sscan(rows[0][0], &n)
	must(t, err)
	return n
}

// TestD26_MessageIsKnownAgain: what is delivered twice, the inbox keeps from the
// program.
func TestD26_MessageIsKnownAgain(t *testing.T) {
	t.Parallel()
	dir, mq := t.TempDir(), testenv.RabbitMQ(t).NewVHost(t)
	c := &commands{t, buildProgram(t), []string{"OUTBOX_DATABASE_URL=" + testenv.Postgres(t).NewDatabase(t), "OUTBOX_BROKER_URL=" + mq}}
	c.run("", "migrate")
	worker := c.start("worker ready", "subscribe", "--queue", "q", "--topic", "a", "--concurrency", "1",
		"--exec", "/bin/sh", "--", "-c", `echo run >> "$0/$OUTBOX_ID"`, dir)
	line := `{"id":"0190a5a0-0000-7000-8000-000000000001","topic":"a","payload":1}` + "\n"
	c.run(strings.Repeat(line, 5)+`{"id":"0190a5a0-0000-7000-8000-000000000002","topic":"a","payload":1}`, "send", "--lines")
	want := map[string]string{"0190a5a0-0000-7000-8000-000000000001": "run\n", "0190a5a0-0000-7000-8000-000000000002": "run\n"}
	eventually(t, "both messages", func() (bool, string) { got := files(t, dir); return len(got) == 2, fmt.Sprint(got) })
	worker.stop()
	if got := files(t, dir); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the program ran %v, want once for each id", got)
	}
	if n := queueLength(t, mq, "q"); n != 0 {
		t.Errorf("%d messages are left", n)
	}
}

// TestD16_ProgramThatSettlesNothing: it is silent, ends, has closed its standard
// output, or answers for what it does not have. Each time the message fails, and the
// log says so.
func TestD16_ProgramThatSettlesNothing(t *testing.T) {
	t.Parallel()
	program := buildProgram(t)
	for name, tc := range map[string]struct{ script, reason, warning string }{
		"silent":     {"sleep 1000", "its time-out, the handler returned: the program ended without an answer: signal: terminated", "ending a program that has not answered"},
		"ends":       {"read line; exit 0", "the program ended without an answer: it ended by itself", "program ended without answers"},
		"closed":     {"read line; exec >&-; sleep 1000", "the program ended without an answer: signal: terminated", "ending a program that has closed its standard output"},
		"unknown id": {`read line; echo '{"id":"x","ack":true}'; sleep 1000`, "its time-out", "is for a message that it does not have"},
		"no answer":  {`read line; id=${line#*\"id\":\"}; echo "{\"id\":\"${id%%\"*}\"}"; sleep 1000`, "is no object with", "answer of the program not understood"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := testenv.RabbitMQ(t).NewVHost(t)
			c := &commands{t, program, []string{"OUTBOX_BROKER_URL=" + mq}}
			worker := c.start("worker ready", "subscribe", "--queue", "q", "--topic", "a", "--max-attempts", "1", "--timeout", "2s",
				"--lines", "--exec", "/bin/sh", "--", "-c", tc.script)
			c.run("", "send", "--topic", "a", "--data", "1")
			worker.await(`outcome="dead letter"`)
			for _, want := range []string{tc.reason, tc.warning} {
				if !strings.Contains(worker.log.String(), want) {
					t.Errorf("the log lacks %q:\n%s", want, worker.log.String())
				}
			}
			eventually(t, "the dead letter", func() (bool, string) {
				n := queueLength(t, mq, "q.dlq")
				return n == 1, fmt.Sprint(n, " messages")
			})
			worker.stop()
		})
	}
}

// TestD19_ProgramsQueueIsNamedByTheDestination gives the command what the seed's has:
// a callback and a destination.
func TestD19_ProgramsQueueIsNamedByTheDestination(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	mq := server.NewVHost(t)
	dir := t.TempDir()
	c := &commands{t, buildProgram(t), []string{"OUTBOX_BROKER_URL=" + server.STOMPURL(mq)}}
	worker := c.start("worker ready", "subscribe", "--topic", "/topic/my_route_key", "--exec", "/bin/sh", "--", "-c", `cat > "$0/.x" && mv "$0/.x" "$0/$OUTBOX_TOPIC"`, dir)
	if queue, dead := queueLength(t, mq, "my_route_key"), queueLength(t, mq, "DLQ.my_route_key"); queue < 0 || dead < 0 {
		t.Errorf("the queues my_route_key and DLQ.my_route_key have %d and %d messages, want them to be there", queue, dead)
	}
	c.run("", "send", "--topic", "my_route_key", "--data", `{"id": 1}`)
	eventually(t, "the message", func() (bool, string) {
		got := files(t, dir)
		return got["my_route_key"] == `{"id": 1}`, fmt.Sprint(got)
	})
	worker.stop()
}

// TestD05_DirectSendByTheProgram: the message is at the broker, confirmed, when the
// command ends, and no table has it.
func TestD05_DirectSendByTheProgram(t *testing.T) {
	t.Parallel()
	program := buildProgram(t)
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			dir, url := t.TempDir(), testenv.Postgres(t).NewDatabase(t)
			c := &commands{t, program, []string{"OUTBOX_DATABASE_URL=" + url, "OUTBOX_BROKER_URL=" + tr.open(t)}}
			c.run("", "migrate")
			worker := c.start("worker ready", "subscribe", "--queue", "q", "--topic", "#", "--exec", "/bin/sh", "--", "-c",
				`printf '%s %s %s' "$OUTBOX_TOPIC" "$OUTBOX_KEY" "$(cat)" > "$0/.$OUTBOX_ID" && mv "$0/.$OUTBOX_ID" "$0/$OUTBOX_ID"`, dir)
			ids := strings.Fields(c.run("", "send", "--topic", "user.created", "--key", "7", "--header", "a=b", "--data", `{"n":1}`) +
				c.run(`{"topic":"user.created","payload":"x"}`+"\n"+`{"topic":"note","content_type":"text/plain","payload":"hello"}`, "send", "--lines"))
			want := map[string]string{ids[0]: `user.created 7 {"n":1}`, ids[1]: `user.created  "x"`, ids[2]: "note  hello"}
			eventually(t, "the messages", func() (bool, string) {
				got := files(t, dir)
				return fmt.Sprint(got) == fmt.Sprint(want), fmt.Sprint(got)
			})
			worker.stop()
			if n := countRows(t, url, "SELECT (SELECT count(*) FROM outbox.message) + (SELECT count(*) FROM outbox.scheduled) + (SELECT count(*) FROM outbox.sent)"); n != 0 {
				t.Errorf("%d rows are in the tables, want none", n)
			}
			if !slices.IsSorted(ids) {
				t.Errorf("the ids %q are not in the order of the messages", ids)
			}
		})
	}
}
