package testenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// lockName is the file in a run's folder that the run holds locked for as long as it lives.
const lockName = "lock"

// workspace returns the folder for this process's servers. It makes it on the first call, after it has cleared
// away what runs that were killed have left, and starts the watchdog.
var workspace = sync.OnceValues(openWorkspace)

func openWorkspace() (string, error) {
	if !supported {
		return "", fmt.Errorf("servers can be started on Linux only; set OUTBOX_TEST_POSTGRES_URL and OUTBOX_TEST_RABBITMQ_URL")
	}
	base := filepath.Join(os.TempDir(), "outbox-testenv-"+strconv.Itoa(os.Getuid()))
	if err := makeDir(base, 0o755); err != nil {
		return "", err
	}
	// Nobody sweeps while a run's folder has no locked file in it yet.
	guard, err := lockFile(filepath.Join(base, lockName), true)
	if err != nil {
		return "", err
	}
	defer func() { _ = guard.Close() }()
	sweep(base)
	dir, err := os.MkdirTemp(base, "run-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the servers run as other users
		return "", err
	}
	lock, err := lockFile(filepath.Join(dir, lockName), true)
	if err != nil {
		return "", err
	}
	leash, err := startWatchdog(dir)
	if err != nil {
		return "", err
	}
	atExit(func() {
		reap(dir)
		_ = lock.Close()
		_ = leash.Close()
	})
	return dir, nil
}

// sweep reaps the runs in base that nobody holds any more.
func sweep(base string) {
	runs, _ := filepath.Glob(filepath.Join(base, "run-*"))
	for _, dir := range runs {
		lock, err := lockFile(filepath.Join(dir, lockName), false)
		if err != nil {
			continue
		}
		reap(dir)
		_ = lock.Close()
	}
}

// reap kills all processes of the servers under dir and removes it with everything in it.
func reap(dir string) {
	_ = killAll(dir)
	files, _ := filepath.Glob(filepath.Join(dir, "*", "data", "postmaster.pid"))
	for _, file := range files {
		removeSharedMemory(file)
	}
	_ = os.RemoveAll(dir)
}

// lockFile opens the file of that path and locks it against all other processes until it is closed. It waits for
// the lock if it shall; otherwise a held lock is an error.
func lockFile(path string, wait bool) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// makeDir makes a folder with exactly that mode, unless it is there.
func makeDir(path string, mode os.FileMode) error {
	err := os.Mkdir(path, mode.Perm())
	if os.IsExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(path, mode) // the umask has narrowed it
}
