package natsjs_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// processDir and processPort, in the environment, make the test program a server.
const (
	processDir  = "NATSJS_TEST_SERVER_DIR"
	processPort = "NATSJS_TEST_SERVER_PORT"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(processDir); dir != "" {
		serve(dir)
	}
	os.Exit(m.Run())
}

// serve runs a server until its standard input ends or the process is killed.
func serve(dir string) {
	port, err := strconv.Atoi(os.Getenv(processPort))
	if err != nil {
		panic(err)
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		panic(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		panic("the server does not come up")
	}
	fmt.Println(s.Addr())
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}

// process is a server in a process of its own, which can be killed.
type process struct {
	tb   testing.TB
	dir  string
	addr string
	cmd  *exec.Cmd
}

func startProcess(tb testing.TB) *process {
	tb.Helper()
	p := &process{tb: tb, dir: tb.TempDir(), addr: "127.0.0.1:-1"}
	p.start()
	tb.Cleanup(p.kill)
	return p
}

func (p *process) start() {
	p.tb.Helper()
	program, err := os.Executable()
	if err != nil {
		p.tb.Fatal(err)
	}
	p.cmd = exec.Command(program)
	p.cmd.Env = append(os.Environ(), processDir+"="+p.dir, processPort+"="+p.addr[strings.LastIndex(p.addr, ":")+1:])
	if _, err := p.cmd.StdinPipe(); err != nil { // ends with this process
		p.tb.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.tb.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.tb.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		p.tb.Fatalf("the server does not come up: %v", err)
	}
	p.addr = strings.TrimSpace(line)
}

func (p *process) url() string { return "nats://" + p.addr }

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
