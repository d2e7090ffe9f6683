package acceptance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/outbox-go/outbox/relay"
)

// childVariable makes the test binary another program: what a test kills must be a
// process of its own.
const childVariable = "OUTBOX_TEST_CHILD"

// childConfig says what a child process is to be: a relay, a worker, a NATS server,
// or what kills itself.
type childConfig struct {
	Database string         // of a relay
	Broker   string         // of a relay
	Relay    *relayConfig   // of a relay
	Declined string         // of a relay: topics that begin so are refused
	Worker   *workerChild   // of a worker
	Receiver *receiverChild // of a worker that gets its messages by HTTP
	Suicide  *suicideChild  // of a relay, or who redrives, that kills itself
	Store    string         // of a NATS server: the folder
	Port     int            // of a NATS server
}

// relayConfig is a relay.Config that can be handed to a child process, as JSON: what
// cannot be written is hidden.
type relayConfig struct {
	relay.Config
	Logger, Hooks, Transform struct{}
}

// childMain reports whether this process is a child, when it has done its work.
func childMain() bool {
	if callbackMain() {
		return true
	}
	text := os.Getenv(childVariable)
	if text == "" {
		return false
	}
	var c childConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent, or as told
		cancel()
	}()
	run := c.runRelay
	switch {
	case c.Store != "":
		run = c.runNATS
	case c.Worker != nil:
		run = c.runWorker
	case c.Receiver != nil:
		run = c.runReceiver
	case c.Suicide != nil:
		run = c.runSuicide
	}
	if err := run(ctx); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func (c *childConfig) runRelay(ctx context.Context) (err error) {
	s, closeStore, err := openStore(c.Database)
	if err != nil {
		return err
	}
	defer closeStore()
	p, err := openPublisher(c.Broker)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if c.Declined != "" {
		p = &decliner{p, c.Declined}
	}
	c.Relay.Config.Logger = quiet()
	r := relay.New(s, p, &c.Relay.Config)
	fmt.Println("started")
	return r.Run(ctx)
}

func (c *childConfig) runNATS(ctx context.Context) error {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: c.Port, JetStream: true, StoreDir: c.Store, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		return errors.New("the NATS server does not come up")
	}
	fmt.Println(s.Addr().(*net.TCPAddr).Port)
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// child is a process of ours. It ends with its parent, or with the test.
type child struct {
	cmd   *exec.Cmd
	line  string        // the first that it printed: it is ready
	lines chan string   // the others
	ended chan struct{} // closed when the process is gone
	once  sync.Once
}

func startChild(t testing.TB, c *childConfig) *child {
	t.Helper()
	text, err := json.Marshal(c)
	must(t, err)
	program, err := os.Executable()
	must(t, err)
	p := &child{cmd: exec.Command(program), lines: make(chan string, 1000), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	p.cmd.Stderr = os.Stderr
	_, err = p.cmd.StdinPipe() // held open by cmd; its end is the child's
	must(t, err)
	out, err := p.cmd.StdoutPipe()
	must(t, err)
	must(t, p.cmd.Start())
	t.Cleanup(p.kill)
	scanner := bufio.NewScanner(out)
	if !scanner.Scan() {
		err := p.cmd.Wait()
		close(p.ended)
		t.Fatalf("the child process ended while it started: %v", err)
	}
	p.line = scanner.Text()
	go func() {
		for scanner.Scan() {
			p.lines <- scanner.Text()
		}
		_ = p.cmd.Wait() // after the last line
		close(p.ended)
	}()
	return p
}

// await waits for a line of the process's.
func (p *child) await(t testing.TB, line string) {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case got := <-p.lines:
			if got == line {
				return
			}
		case <-p.ended:
			t.Fatalf("the child process has ended before %q", line)
		case <-late:
			t.Fatalf("waited %v for %q of the child process in vain", patience, line)
		}
	}
}

// awaitEnd waits until the process has ended by itself, and returns its last
// lines.
func (p *child) awaitEnd(t testing.TB) []string {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatalf("the child process has not ended within %v", patience)
	}
	var rest []string
	for len(p.lines) > 0 {
		rest = append(rest, <-p.lines)
	}
	return rest
}

// kill ends the process by SIGKILL and waits until it is gone.
func (p *child) kill() {
	p.once.Do(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
}
