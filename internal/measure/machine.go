package measure

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Machine is what a benchmark runs on.
type Machine struct {
	CPU         string `json:"cpu"` // model, empty where it is not known
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memory_bytes"` // 0 where it is not known
	OS          string `json:"os"`
	Arch        string `json:"arch"`
	Go          string `json:"go"`
}

// ThisMachine returns this one.
func ThisMachine() Machine {
	return Machine{
		CPU: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), MemoryBytes: kilobytes("/proc/meminfo", "MemTotal"),
		OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version(),
	}
}

// String is the machine in a line, without what is not known.
func (m Machine) String() string {
	parts := []string{m.CPU, fmt.Sprintf("%d cores", m.Cores), "", m.OS + "/" + m.Arch, m.Go}
	if m.MemoryBytes > 0 {
		parts[2] = fmt.Sprintf("%.1f GiB", float64(m.MemoryBytes)/(1<<30))
	}
	known := parts[:0]
	for _, part := range parts {
		if part != "" {
			known = append(known, part)
		}
	}
	return strings.Join(known, ", ")
}

// Usage is what a process has used so far, zero where the system does not tell: by
// /proc it does.
type Usage struct {
	CPU     time.Duration // user and system
	PeakRSS int64         // bytes: the most that was resident
}

// UsageOf returns the usage of a process that runs; of this one, if pid is 0.
func UsageOf(pid int) Usage {
	folder := "/proc/self"
	if pid != 0 {
		folder = "/proc/" + strconv.Itoa(pid)
	}
	return Usage{CPU: cpuTime(folder + "/stat"), PeakRSS: kilobytes(folder+"/status", "VmHWM")}
}

// ResetPeak has the PeakRSS of this process count from now on, where the system can.
func ResetPeak() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// cpuTime returns the times of proc_pid_stat(5).
func cpuTime(path string) time.Duration {
	text, _ := os.ReadFile(path)
	behind := text[bytes.LastIndexByte(text, ')')+1:] // of the name, which may have anything in it
	const utime, stime = 11, 12
	fields := strings.Fields(string(behind))
	if len(fields) <= stime {
		return 0
	}
	var ticks int64
	for _, place := range []int{utime, stime} {
		n, _ := strconv.ParseInt(fields[place], 10, 64)
		ticks += n
	}
	const tick = time.Second / 100 // what Linux tells, whatever the kernel's own
	return time.Duration(ticks) * tick
}

// kilobytes returns a field of a file below /proc in bytes, 0 if there is none.
func kilobytes(path, name string) int64 {
	number, _, _ := strings.Cut(field(path, name), " ")
	n, _ := strconv.ParseInt(number, 10, 64)
	return n << 10
}

// field returns a field of a file below /proc, empty if there is none.
func field(path, name string) string {
	text, _ := os.ReadFile(path)
	for line := range strings.Lines(string(text)) {
		if before, after, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(before) == name {
			return strings.TrimSpace(after)
		}
	}
	return ""
}
