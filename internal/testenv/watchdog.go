package testenv

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// watchdogVariable holds the folder to watch over, in the environment of the watchdog.
const watchdogVariable = "OUTBOX_TESTENV_WATCHDOG"

// The watchdog is the test binary itself, started once more: so it is always there, and needs no shell.
func init() {
	if dir := os.Getenv(watchdogVariable); dir != "" {
		watch(dir)
		os.Exit(0)
	}
}

// watch waits until the process that holds the other end of the standard input is gone, then reaps its folder.
func watch(dir string) {
	_, _ = io.Copy(io.Discard, os.Stdin)
	lock, err := lockFile(filepath.Join(dir, lockName), true)
	if err != nil {
		return // the folder is gone: all was cleaned up
	}
	defer func() { _ = lock.Close() }()
	reap(dir)
}

// startWatchdog starts a process that reaps dir when the file it returns is closed: when this process ends, however it
// ends.
func startWatchdog(dir string) (*os.File, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the watchdog's program: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	cmd := exec.Command(exe)
	cmd.Env = []string{watchdogVariable + "=" + dir}
	cmd.Dir = "/"
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // an interrupt from the terminal is not for it
	if err := cmd.Start(); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("start watchdog: %w", err)
	}
	go awaitWatchdog(cmd)
	return w, nil
}

// Watchdog names the goroutine that remains when all servers have ended, for checks that look for others.
const Watchdog = "github.com/outbox-go/outbox/internal/testenv.awaitWatchdog"

func awaitWatchdog(cmd *exec.Cmd) { _ = cmd.Wait() }
