package testenv_test

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
)

// endVariable has TestVictim end its process in that way.
const endVariable = "OUTBOX_TESTENV_END"

// TestVictim is the process whose end the next test watches. On its own it does nothing.
func TestVictim(t *testing.T) {
	end := os.Getenv(endVariable)
	if end == "" {
		return
	}
	if _, err := os.Stdout.WriteString("ADDR " + testenv.StartPostgres(t, nil).Addr() + "\n"); err != nil {
		t.Fatal(err)
	}
	if end == "panic" {
		panic("as told")
	}
	select {} // until killed, or timed out
}

func TestServersEndWithTheTestBinary(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"panic", "timeout", "kill"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			temp := openTemp(t)
			cmd := exec.Command(os.Args[0], "-test.run=^TestVictim$", "-test.timeout=5s")
			cmd.Env = append(os.Environ(), endVariable+"="+end, "TMPDIR="+temp)
			addr := startVictim(t, cmd)
			if end == "kill" {
				_ = cmd.Process.Kill()
			}
			_ = cmd.Wait()
			awaitGone(t, addr, temp)
		})
	}
}

// openTemp returns a temporary folder that the servers' accounts may enter.
func openTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "outbox-victim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// startVictim returns the address of the server that the victim has started.
func startVictim(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if addr, ok := strings.CutPrefix(lines.Text(), "ADDR "); ok {
			return addr
		}
		t.Log(lines.Text())
	}
	t.Fatal("the victim has started no server")
	return ""
}

// awaitGone waits until nobody listens at addr and the run's folder is removed.
func awaitGone(t *testing.T, addr, temp string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		runs, _ := filepath.Glob(filepath.Join(temp, "*", "run-*"))
		if err != nil && len(runs) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the process: dial %v, runs %v", err, runs)
		}
	}
}
