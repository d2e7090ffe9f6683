package testenv

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

// Main runs the tests of m, ends the servers that they started, and exits. TestMain calls it. The checks are made at the
// end, unless tests have failed: for goroutines that are left, say, among which [Watchdog] is to be expected.
//
// Without it the watchdog ends the servers, after the process.
func Main(m *testing.M, checks ...func() error) {
	code := m.Run()
	closeShared()
	for _, check := range checks {
		if code != 0 {
			break
		}
		if err := check(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
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
