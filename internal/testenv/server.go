package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	startTimeout = 90 * time.Second
	stopTimeout  = 30 * time.Second
	pollInterval = 10 * time.Millisecond
)

// server is what all servers have in common: a folder, an account, and processes that are known by both.
type server struct {
	name    string
	dir     string
	account *syscall.Credential // nil for our own
	running atomic.Bool
	main    *exec.Cmd
	exited  chan struct{} // closed when main has ended
}

// newServer makes the folder of a server. Under root it belongs to the first of the accounts that exists.
func newServer(name string, accounts ...string) (*server, error) {
	root, err := workspace()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(root, name+"-")
	if err != nil {
		return nil, err
	}
	s := &server{name: name, dir: dir}
	if os.Getuid() != 0 {
		return s, nil
	}
	for _, name := range accounts {
		if s.account, err = credential(name); err == nil {
			return s, os.Chown(dir, int(s.account.Uid), int(s.account.Gid))
		}
	}
	return s, nil
}

func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// write makes a file in the server's folder.
func (s *server) write(name, text string) error {
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	if s.account == nil {
		return nil
	}
	return os.Chown(path, int(s.account.Uid), int(s.account.Gid))
}

// command returns a command that runs in the server's folder, under its account, and is marked as its own. What it
// prints goes to the server's log: the test binary's own output must not be held open by a server.
func (s *server) command(env []string, program string, args ...string) (*exec.Cmd, error) {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, args...)
	cmd.Dir = s.dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "LC_ALL=C", dirVariable + "=" + s.dir}, env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.account}
	return cmd, nil
}

// run runs a command to its end.
func (s *server) run(program string, args ...string) error {
	cmd, err := s.command(nil, program, args...)
	if err != nil {
		return err
	}
	defer closeLog(cmd)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(program), err)
	}
	return nil
}

// spawn starts the server's main process.
func (s *server) spawn(cmd *exec.Cmd) error {
	defer closeLog(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	exited := make(chan struct{})
	s.main, s.exited = cmd, exited
	s.running.Store(true)
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	return nil
}

// closeLog closes our end of the log that the command has inherited.
func closeLog(cmd *exec.Cmd) {
	if f, ok := cmd.Stdout.(*os.File); ok {
		_ = f.Close()
	}
}

// await polls until ready says yes, the main process ends, or the time for starting is over.
func (s *server) await(ready func() bool) error {
	deadline := time.After(startTimeout)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-s.exited:
			s.running.Store(false)
			return fmt.Errorf("%s ended while it started: %v\n%s", s.name, s.main.ProcessState, s.logTail())
		case <-deadline:
			return fmt.Errorf("%s not ready after %v\n%s", s.name, startTimeout, s.logTail())
		}
	}
	return nil
}

// kill ends all processes of the server at once and waits until they are gone.
func (s *server) kill() error {
	err := killAll(s.dir)
	if s.exited != nil {
		<-s.exited
	}
	s.running.Store(false)
	return err
}

// stop sends sig to the main process, waits until it has ended, and ends what it has left behind.
func (s *server) stop(sig syscall.Signal) error {
	if !s.running.Load() {
		return nil
	}
	if err := s.main.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", s.name, err)
	}
	var late error
	select {
	case <-s.exited:
	case <-time.After(stopTimeout):
		late = fmt.Errorf("%s did not stop within %v\n%s", s.name, stopTimeout, s.logTail())
	}
	return errors.Join(late, s.kill())
}

// remove removes the folder of a server that is down.
func (s *server) remove() error {
	removeSharedMemory(filepath.Join(s.dir, "data", "postmaster.pid"))
	return os.RemoveAll(s.dir)
}

func (s *server) logFile() string { return filepath.Join(s.dir, "log") }

// logTail returns the last lines of the server's log.
func (s *server) logTail() string {
	const lines = 40
	text, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// findProgram looks for a program in folders that match the patterns, the last match of a pattern first, and then in
// PATH.
func findProgram(name string, patterns ...string) (string, error) {
	for _, pattern := range patterns {
		found, _ := filepath.Glob(filepath.Join(pattern, name))
		slices.Reverse(found)
		for _, path := range found {
			if info, err := os.Stat(path); err == nil && info.Mode()&fs.FileMode(0o111) != 0 {
				return path, nil
			}
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed; run: make deps", name)
	}
	// The programs look for their relatives beside themselves, not beside a link to themselves.
	return filepath.EvalSymlinks(path)
}

// must fails the test on an error.
func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatalf("testenv: %v", err)
	}
}
