package testenv

import (
	"os"
	"sync"
	"testing"
)

// Main runs the tests of m, ends the servers that they started, and exits. TestMain calls it.
//
// Without it the watchdog ends the servers, after the process.
func Main(m *testing.M) {
	code := m.Run()
	closeShared()
	os.Exit(code)
}

var (
	sharedMu sync.Mutex
	closers  []func()
)

// atExit has Main call f, the last one first.
func atExit(f func()) {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	closers = append(closers, f)
}

func closeShared() {
	sharedMu.Lock()
	defer sharedMu.Unlock()
	for i := len(closers) - 1; i >= 0; i-- {
		closers[i]()
	}
	closers = nil
}
