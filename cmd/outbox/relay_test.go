package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
)

// process is a command in a process of its own.
type process struct {
	t   *testing.T
	cmd *exec.Cmd

	mu     sync.Mutex
	stderr bytes.Buffer
	ended  chan struct{}
}

// startRelay starts a relay and waits until its log has that word.
func startRelay(t *testing.T, ready string, args ...string) *process {
	t.Helper()
	return startProgram(t, ready, append([]string{"relay"}, args...)...)
}

// startProgram starts a command and waits until its log has that word.
func startProgram(t *testing.T, ready string, args ...string) *process {
	t.Helper()
	return startCommand(t, ready, exec.Command(binary(t), args...))
}

func startCommand(t *testing.T, ready string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, ended: make(chan struct{})}
	p.cmd.Stderr = p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	await(t, ready, func() bool { return strings.Contains(p.log(), ready) })
	return p
}

// Write adds to the log.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.Write(b)
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// wantCode waits for the end of the process.
func (p *process) wantCode(code int, within time.Duration) {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(within):
		p.t.Fatalf("it has not ended within %v:\n%s", within, p.log())
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("exit code %d, want %d:\n%s", got, code, p.log())
	}
}

// stalledRelay returns a relay that has sent n messages, none of which the broker's
// answer has reached it for.
func stalledRelay(t *testing.T, n int) (p *process, path string, proxy *testenv.Proxy) {
	t.Helper()
	mq := testenv.RabbitMQ(t)
	vhost := mq.NewVHost(t)
	ch := rabbitChannel(t, vhost)
	for _, err := range []error{
		ch.ExchangeDeclare("outbox", "topic", true, false, false, false, nil),
		func() error { _, err := ch.QueueDeclare("q", true, false, false, false, nil); return err }(),
		ch.QueueBind("q", "#", "outbox", false, nil),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	path = sqliteFile(t)
	proxy = testenv.NewProxy(t, mq.Addr())
	u, err := url.Parse(vhost)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = proxy.Addr()
	p = startRelay(t, "publisher connected", "--database-url", "sqlite:"+path, "--broker-url", u.String(), "--relay-settle-batch", "7")
	const delay = time.Second
	proxy.Delay(delay)
	for i := range n {
		call(t, nil, "", "emit", "--database-url", "sqlite:"+path, "--topic", "a", "--key", fmt.Sprint(i), "--data", "1").want(t, 0)
	}
	await(t, "the messages at the broker", func() bool {
		q, err := ch.QueueDeclarePassive("q", true, false, false, false, nil)
		return err == nil && q.Messages == n
	})
	return p, path, proxy
}

func TestRelayDrainsAtSIGTERM(t *testing.T) { testDrains(t, syscall.SIGTERM) }

// TestRelayDrainsAtSIGHUP: a terminal that is closed is no reason to break off.
func TestRelayDrainsAtSIGHUP(t *testing.T) { testDrains(t, syscall.SIGHUP) }

func testDrains(t *testing.T, by syscall.Signal) {
	t.Parallel()
	const n = 20
	p, path, _ := stalledRelay(t, n)
	p.signal(by)
	p.wantCode(0, patience)
	if left := sqliteCount(t, path); left != 0 {
		t.Errorf("%d messages would be sent again, want none:\n%s", left, p.log())
	}
	for _, want := range []string{"stopped by signal: " + by.String(), fmt.Sprintf("confirmed=%d settled=%d", n, n), "broker=amqp://guest:xxxxx@"} {
		if !strings.Contains(p.log(), want) {
			t.Errorf("the log lacks %q:\n%s", want, p.log())
		}
	}
}

// TestHangupIgnoredByNohup: who is started so goes on.
func TestHangupIgnoredByNohup(t *testing.T) {
	t.Parallel()
	p := startCommand(t, "relay started", exec.Command("nohup", binary(t), "relay", "--database-url", "sqlite:"+sqliteFile(t), "--broker-url", "stdout:"))
	p.signal(syscall.SIGHUP)
	p.signal(syscall.SIGTERM)
	await(t, "the relay to stop", func() bool { return strings.Contains(p.log(), "stopped by signal") })
	if !strings.Contains(p.log(), "stopped by signal: terminated") {
		t.Errorf("SIGHUP is heeded:\n%s", p.log())
	}
}

func TestSecondSignalEndsTheRelayAtOnce(t *testing.T) {
	t.Parallel()
	p, _, proxy := stalledRelay(t, 3)
	proxy.Stall()
	p.signal(syscall.SIGINT)
	await(t, "the relay to stop", func() bool { return strings.Contains(p.log(), "relay is stopping") })
	select {
	case <-p.ended:
		t.Fatalf("it did not wait for the confirms:\n%s", p.log())
	case <-time.After(2 * sameSignal):
	}
	p.signal(syscall.SIGTERM)
	p.wantCode(exitFailure, 5*time.Second)
}

func TestRelayWithoutTablesSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	database := testenv.Postgres(t).NewDatabase(t)
	got := call(t, nil, "", "relay", "--database-url", database, "--broker-url", "stdout:")
	got.want(t, exitFailure, "table outbox.message is missing", "outbox migrate")
}

func TestRelayFromPostgresUnderConfiguredNames(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"OUTBOX_DATABASE_URL": testenv.Postgres(t).NewDatabase(t), "OUTBOX_DATABASE_SCHEMA": "messaging",
		"OUTBOX_DATABASE_TABLE_PREFIX": "ob_", "OUTBOX_BROKER_URL": "stdout:",
	}
	call(t, env, "", "migrate").want(t, 0)
	call(t, env, "", "emit", "--topic", "a.b", "--data", `{"x":1}`).want(t, 0)
	lines := relayLines(t, env, 1)
	if lines[0]["topic"] != "a.b" {
		t.Errorf("got %v", lines[0])
	}
}

// relayToStdout runs a relay until it has printed n messages of an SQLite file.
func relayToStdout(t *testing.T, path string, n int) []map[string]any {
	t.Helper()
	return relayLines(t, map[string]string{"OUTBOX_DATABASE_URL": "sqlite:" + path, "OUTBOX_BROKER_URL": "stdout:"}, n)
}

func relayLines(t *testing.T, env map[string]string, n int) []map[string]any {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	w := &lineCounter{most: n, full: func() { cancel(errors.New("enough")) }}
	stop := time.AfterFunc(patience, func() { cancel(errors.New("too late")) })
	defer stop.Stop()
	a := &app{stdin: strings.NewReader(""), stdout: w, stderr: t.Output(), env: func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}}
	if code := a.run(ctx, []string{"relay"}); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	var lines []map[string]any
	for s := bufio.NewScanner(&w.Buffer); s.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(s.Bytes(), &line); err != nil {
			t.Fatalf("%v: %s", err, s.Text())
		}
		lines = append(lines, line)
	}
	if len(lines) != n {
		t.Fatalf("%d messages, want %d", len(lines), n)
	}
	return lines
}

// lineCounter calls full when that many lines have been written.
type lineCounter struct {
	bytes.Buffer
	lines, most int
	full        func()
}

func (w *lineCounter) Write(b []byte) (int, error) {
	if w.lines += bytes.Count(b, []byte("\n")); w.lines >= w.most {
		w.full()
	}
	return w.Buffer.Write(b)
}
