package rabbitmq

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
)

// meter measures what messages cost: rates depend on what else the machine does,
// processor time hardly.
type meter struct {
	b      *testing.B
	broker int // its process
	begin  cost
}

// cost is what this process and the broker have used so far.
type cost struct {
	own, broker   time.Duration
	reads, writes int
}

// startMeter resets the benchmark's timer, too.
func startMeter(b *testing.B) *meter {
	b.Helper()
	pid, err := strconv.Atoi(strings.Trim(testenv.RabbitMQ(b).Eval("os:getpid()."), "\"\n "))
	if err != nil {
		b.Fatal(err)
	}
	m := &meter{b: b, broker: pid}
	m.begin = m.read()
	b.ReportAllocs()
	b.ResetTimer()
	return m
}

func (m *meter) read() cost {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		m.b.Fatal(err)
	}
	c := cost{own: time.Duration(usage.Utime.Nano() + usage.Stime.Nano())}
	// Behind the name, which may have spaces, the 12th and 13th field are hundredths of seconds in user and kernel.
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.broker))
	if _, rest, ok := strings.Cut(string(stat), ") "); ok {
		fields := strings.Fields(rest)
		user, _ := strconv.Atoi(fields[11])
		system, _ := strconv.Atoi(fields[12])
		c.broker = time.Duration(user+system) * 10 * time.Millisecond
	}
	io, _ := os.ReadFile("/proc/self/io")
	for line := range strings.Lines(string(io)) {
		_, _ = fmt.Sscanf(line, "syscr: %d", &c.reads)
		_, _ = fmt.Sscanf(line, "syscw: %d", &c.writes)
	}
	return c
}

// stop reports the rate, and for each message the processor time of this process
// and of the broker, and the system calls that read and write.
func (m *meter) stop() {
	m.b.StopTimer()
	end, n := m.read(), float64(m.b.N)
	m.b.ReportMetric(n/m.b.Elapsed().Seconds(), "msgs/s")
	m.b.ReportMetric(float64((end.own-m.begin.own).Nanoseconds())/1000/n, "cpu-us/msg")
	m.b.ReportMetric(float64((end.broker-m.begin.broker).Nanoseconds())/1000/n, "broker-us/msg")
	m.b.ReportMetric(float64(end.reads-m.begin.reads)/n, "reads/msg")
	m.b.ReportMetric(float64(end.writes-m.begin.writes)/n, "writes/msg")
}
