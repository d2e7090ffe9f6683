package program

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/outboxtest"
	"github.com/outbox-go/outbox/worker"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// buffer collects output of several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
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

// shell returns a configuration that runs a script, and what it writes.
func shell(script string) (c *Config, stdout, stderr *buffer) {
	stdout, stderr = &buffer{}, &buffer{}
	return &Config{
		Path: "/bin/sh", Args: []string{"-c", script}, Env: os.Environ(), Children: &Children{},
		Stdout: stdout, Stderr: stderr, Logger: slog.New(slog.NewTextHandler(stderr, nil)),
	}, stdout, stderr
}

func delivery(id, payload string) *worker.Delivery[[]byte] {
	return &worker.Delivery[[]byte]{
		Metadata: worker.Metadata{ID: id, Topic: "user.created", ContentType: outbox.ContentTypeJSON, Attempt: 1, Queue: "q"},
		Payload:  []byte(payload),
	}
}

// judge returns what a worker does when its handler returns err.
func judge(t *testing.T, err error) outboxtest.Result {
	t.Helper()
	return outboxtest.Deliver(t, outbox.Event{Topic: "a", Payload: 1}, func(w *worker.Worker) {
		worker.Handle(w, "a", func(context.Context, *worker.Delivery[[]byte]) error { return err })
	}, outboxtest.WithConfig(worker.Config{Logger: slog.New(slog.DiscardHandler)}))
}

func TestMessageReachesTheProgram(t *testing.T) {
	t.Parallel()
	c, stdout, stderr := shell(`cat; echo; env | grep ^OUTBOX_ | sort; echo "$HOME_OF_TEST" >&2; echo "$1" >&2`)
	c.Args = append(c.Args, "sh", "an argument")
	c.Env = Environ(append(os.Environ(), "OUTBOX_DATABASE_URL=postgres://u:geheim@h/d", "HOME_OF_TEST=here"))
	d := &worker.Delivery[[]byte]{Payload: []byte("{\"n\": 1}\x00"), Metadata: worker.Metadata{
		ID: "7", Topic: "user.created", Key: "k\x00=", Tenant: "t", Type: "User", Version: "2", ContentType: "application/json", Attempt: 3,
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), CorrelationID: "c", Queue: "q",
		Headers: map[string]string{"a": "b\"c"}, Failure: &outbox.Failure{Attempts: 2, Reason: "busy"},
	}}
	if err := c.Handle(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	want := "{\"n\": 1}\x00\n" + `OUTBOX_ATTEMPT=3
OUTBOX_CONTENT_TYPE=application/json
OUTBOX_CORRELATION_ID=c
OUTBOX_CREATED_AT=2026-01-02T03:04:05.000006Z
OUTBOX_HEADERS={"a":"b\"c"}
OUTBOX_ID=7
OUTBOX_KEY=k=
OUTBOX_QUEUE=q
OUTBOX_REASON=busy
OUTBOX_TENANT=t
OUTBOX_TOPIC=user.created
OUTBOX_TYPE=User
OUTBOX_VERSION=2
`
	if got := stdout.String(); got != want {
		t.Errorf("the program got\n%s\nwant\n%s", got, want)
	}
	if got := stderr.String(); got != "here\nan argument\n" {
		t.Errorf("on standard error is %q", got)
	}
}

func TestExitCodeSaysWhatBecomesOfTheMessage(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		script  string
		outcome outbox.Outcome
		reason  string
	}{
		{"exit 0", outbox.Ack, ""},
		{"echo x >&2", outbox.Ack, ""},
		{"echo first >&2; echo; echo ' no such user ' >&2; echo >&2; exit 65", outbox.DeadLetter, "exit status 65: no such user"},
		{"printf busy >&2; exit 75", outbox.Retry, "exit status 75: busy"},
		{"exit 1", outbox.Retry, "exit status 1"},
		{"echo dying >&2; kill -9 $$", outbox.Retry, "signal: killed: dying"},
		{"head -c 3000 /dev/zero | tr '\\0' x >&2; exit 3", outbox.Retry, "exit status 3: " + strings.Repeat("x", maxReason)},
		{"cat >/dev/null; exit 2", outbox.Retry, "exit status 2"},
	} {
		c, _, stderr := shell(tc.script)
		err := c.Handle(t.Context(), delivery("1", strings.Repeat("p", 1<<20)))
		got := judge(t, err)
		if got.Outcome != tc.outcome || (err != nil && got.Failure.Reason != tc.reason) {
			t.Errorf("%s: %v, want %v %q", tc.script, got, tc.outcome, tc.reason)
		}
		if strings.Contains(tc.script, ">&2") && stderr.String() == "" {
			t.Errorf("%s: standard error is not passed on", tc.script)
		}
	}
	c, _, _ := shell("")
	c.Path = "/does/not/exist"
	if err := c.Handle(t.Context(), delivery("1", "")); err == nil || judge(t, err).Outcome != outbox.Retry {
		t.Errorf("a program that is not there: %v", err)
	}
}

// TestBackgroundChildIsNotWaitedFor: nor ended, though it has our standard error open.
func TestBackgroundChildIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pids")
	c, _, _ := shell(`sleep 1000 >/dev/null & echo $! > ` + file)
	ended := make(chan error, 1)
	go func() { ended <- c.Handle(t.Context(), delivery("1", "")) }()
	pid := pidsIn(t, file, 1)[0]
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	select {
	case err := <-ended:
		if err != nil || gone(pid) {
			t.Errorf("got %v, and the child is gone: %t", err, gone(pid))
		}
	case <-time.After(patience):
		t.Error("it is waited for")
	}
}

// gone reports whether no process has that id, or it is not yet buried.
func gone(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(stat), ") Z ") || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// pidsIn returns the process ids that a script has written into a file, n of them.
func pidsIn(t *testing.T, file string, n int) (pids []int) {
	t.Helper()
	await(t, "the process ids", func() bool {
		text, _ := os.ReadFile(file)
		pids = nil
		for _, word := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				return false
			}
			pids = append(pids, pid)
		}
		return len(pids) == n
	})
	return pids
}

// TestEndIsForTheWholeGroup: neither who heeds SIGTERM nor who does not is left, nor
// what it has started.
func TestEndIsForTheWholeGroup(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"heeds SIGTERM":         `sleep 1000 & echo $$ $! > FILE; wait`,
		"ignores SIGTERM":       `trap '' TERM; sleep 1000 & echo $$ $! > FILE; wait; wait; sleep 1000`,
		"leaves who ignores it": `(trap '' TERM; sleep 1000; sleep 1000) & echo $$ $! > FILE; wait`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "pids")
			c, _, _ := shell(strings.ReplaceAll(script, "FILE", file))
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- c.Handle(ctx, delivery("1", "")) }()
			pids := pidsIn(t, file, 2)
			cancel()
			select {
			case err := <-ended:
				if err == nil || !strings.HasPrefix(err.Error(), "signal: ") {
					t.Errorf("got %v, want the signal", err)
				}
			case <-time.After(patience):
				t.Fatal("it has not ended")
			}
			await(t, "all to be gone", func() bool { return gone(pids[0]) && gone(pids[1]) })
		})
	}
}

func TestKillEndsAllAtOnceAndForEver(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pids")
	c, _, _ := shell(`trap '' TERM; sleep 1000 & echo $$ $! > ` + file + `; wait; sleep 1000`)
	ended := make(chan error, 1)
	go func() { ended <- c.Handle(t.Context(), delivery("1", "")) }()
	pids := pidsIn(t, file, 2)
	c.Children.Kill()
	if err := <-ended; err == nil || err.Error() != "signal: killed" {
		t.Errorf("got %v", err)
	}
	await(t, "all to be gone", func() bool { return gone(pids[0]) && gone(pids[1]) })
	if err := c.Handle(t.Context(), delivery("1", "")); !errors.Is(err, errKilled) {
		t.Errorf("another one is started: %v", err)
	}
}
