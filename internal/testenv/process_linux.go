package testenv

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const supported = true

// dirVariable marks the processes of a server, in their environment, with the server's folder.
const dirVariable = "OUTBOX_TESTENV_DIR"

// processesIn returns the ids of all processes that belong to a server under dir: those that work in a folder there,
// and those whose environment says so. The one alone is not enough: a backend of PostgreSQL writes over its
// environment, and a daemon leaves its folder.
func processesIn(dir string) []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if cwd, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd")); within(dir, cwd) || marked(dir, pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func within(dir, path string) bool {
	path = strings.TrimSuffix(path, " (deleted)")
	return path == dir || strings.HasPrefix(path, dir+"/")
}

func marked(dir string, pid int) bool {
	environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		if value, ok := strings.CutPrefix(string(entry), dirVariable+"="); ok {
			return within(dir, value)
		}
	}
	return false
}

// signalAll sends sig to all processes of the servers under dir and returns how many there were.
func signalAll(dir string, sig syscall.Signal) int {
	pids := processesIn(dir)
	for _, pid := range pids {
		_ = syscall.Kill(pid, sig)
	}
	return len(pids)
}

// killAll kills all processes of the servers under dir, again and again until none is left: one that was just forked
// may have been missed.
func killAll(dir string) error {
	deadline := time.Now().Add(10 * time.Second)
	for signalAll(dir, syscall.SIGKILL) > 0 {
		if time.Now().After(deadline) {
			return fmt.Errorf("processes in %s survive SIGKILL: %v", dir, processesIn(dir))
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

// removeSharedMemory removes the System V segment that a killed PostgreSQL has left; file is its postmaster.pid.
func removeSharedMemory(file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		return
	}
	const segmentLine = 6 // key and id
	lines := strings.Split(string(text), "\n")
	if len(lines) <= segmentLine {
		return
	}
	fields := strings.Fields(lines[segmentLine])
	if len(fields) != 2 {
		return
	}
	if id, err := strconv.Atoi(fields[1]); err == nil {
		const ipcRemove = 0
		_, _, _ = syscall.Syscall(syscall.SYS_SHMCTL, uintptr(id), ipcRemove, 0)
	}
}
