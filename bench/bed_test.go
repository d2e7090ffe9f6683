package bench

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/outbox-go/outbox/bench/internal/report"
	"github.com/outbox-go/outbox/internal/measure"
	"github.com/outbox-go/outbox/internal/testenv"
)

// size is how much is measured.
type size struct {
	rounds   int
	messages int           // of each system; 0 for what the report has
	patience time.Duration // with each run
	rest     time.Duration // before each run
	settle   time.Duration // until an idle relay has nothing left to do
	watch    time.Duration // how long it is watched then
	flags    map[string]string
	short    bool     // of Go benchmarks one operation of the cheapest
	repeats  []string // sections that show nothing which another one does not, and are left out
}

// full is the size of the report, small that of a test of it, which only shows that
// everything runs.
var (
	full  = size{rounds: 5, patience: 20 * time.Minute, rest: time.Second, settle: 20 * time.Second, watch: 40 * time.Second}
	small = size{
		rounds: 1, messages: 300, patience: time.Minute, settle: 100 * time.Millisecond, watch: time.Second, short: true,
		repeats: []string{"drain-classic", "latency-1000"},
		flags:   map[string]string{"--duration": "500ms", "--warm-up": "100ms", "--rounds": "1", "--slice": "10ms", "--idle-outboxes": "2", "--payload": "2000", "--connections": "4", "--rate": "100"},
	}
)

// bed is what the report is measured on: servers that nothing else uses, and the
// programs.
type bed struct {
	t         *testing.T
	size      size
	pg        *testenv.PostgresServer
	addresses map[string]string // by what stands for them in commands
	programs  map[string]string // by name
	commit    string
	machine   []report.Condition
}

func openBed(t *testing.T, s size) *bed {
	t.Helper()
	b := &bed{t: t, size: s, programs: map[string]string{"outbox": build(t, "../cmd/outbox", "outbox"), "peer": build(t, "peer", "peer")}}
	b.pg = testenv.StartPostgres(t, &testenv.PostgresOptions{Settings: map[string]string{"max_connections": "500"}})
	rabbit := testenv.RabbitMQ(t)
	b.addresses = map[string]string{
		"DATABASE_URL": b.pg.NewDatabase(t), "RABBITMQ_URL": rabbit.NewVHost(t), "NATS_URL": startNATS(t),
		"SLICES": fmt.Sprint(s.rounds * report.SlicesPerRound),
	}
	b.commit = commit(t)
	b.machine = b.conditions(rabbit)
	return b
}

// build builds a program of the repository and returns its path.
func build(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}

// commit returns the commit that is measured, and says if there is more in the source.
func commit(t *testing.T) string {
	t.Helper()
	git := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = ".."
		out, err := cmd.Output()
		if err != nil {
			return "unknown" // an archive of the source has none
		}
		return strings.TrimSpace(string(out))
	}
	head := git("rev-parse", "--short=10", "HEAD")
	if git("status", "--porcelain", "--untracked-files=no", "--", "*.go", "*.sql", "*go.mod") != "" {
		head += ", changed"
	}
	return head
}

// conditions returns what all figures depend on.
func (b *bed) conditions(rabbit *testenv.RabbitMQServer) []report.Condition {
	m := measure.ThisMachine()
	list := []report.Condition{
		{Name: "processor", Value: fmt.Sprintf("%s, %d cores", m.CPU, m.Cores)},
		{Name: "memory", Value: fmt.Sprintf("%.1f GiB", float64(m.MemoryBytes)/(1<<30))},
		{Name: "system", Value: strings.TrimSpace(m.OS + "/" + m.Arch + " " + firstLine("/proc/sys/kernel/osrelease"))},
		{Name: "Go", Value: m.Go},
		{Name: "PostgreSQL", Value: b.postgres("SHOW server_version") + b.settings("fsync", "synchronous_commit", "shared_buffers")},
		{Name: "RabbitMQ", Value: regexp.MustCompile(`[0-9.]+[0-9]`).FindString(rabbit.Eval(`rabbit_misc:version().`))},
		{Name: "nats-server", Value: server.VERSION},
		{Name: "file system of the data", Value: b.fileSystems(rabbit)},
	}
	info, err := buildinfo.ReadFile(b.programs["peer"])
	must(b.t, err)
	names := map[string]string{
		"github.com/riverqueue/river": "River", "github.com/ThreeDotsLabs/watermill-sql/v3": "watermill-sql",
		"github.com/ThreeDotsLabs/watermill-amqp/v3": "watermill-amqp", "github.com/rabbitmq/amqp091-go": "amqp091-go", "github.com/nats-io/nats.go": "nats.go",
	}
	for _, dep := range info.Deps {
		if name, ok := names[dep.Path]; ok {
			list = append(list, report.Condition{Name: name, Value: dep.Version})
		}
	}
	return list
}

// fileSystems tells what the servers write to.
func (b *bed) fileSystems(rabbit *testenv.RabbitMQServer) string {
	b.t.Helper()
	var kinds []string
	for _, data := range []struct{ server, dir string }{
		{"PostgreSQL", b.postgres("SHOW data_directory")},
		{"RabbitMQ", strings.Trim(strings.TrimSpace(rabbit.Eval(`rabbit_mnesia:dir().`)), `"`)},
		{"nats-server", os.TempDir()},
	} {
		out, err := exec.CommandContext(b.t.Context(), "df", "--output=fstype", data.dir).Output()
		fields := strings.Fields(string(out)) // under a heading
		if err != nil || len(fields) == 0 {
			fields = []string{"unknown"} // no GNU df, or a server in a container
		}
		kinds = append(kinds, data.server+" "+fields[len(fields)-1])
	}
	return strings.Join(kinds, ", ")
}

func (b *bed) postgres(sql string) string {
	b.t.Helper()
	return b.pg.Exec(b.pg.URL(), sql)[0][0]
}

func (b *bed) settings(names ...string) string {
	b.t.Helper()
	var text strings.Builder
	for _, name := range names {
		text.WriteString(", " + name + " " + b.postgres("SHOW "+name))
	}
	return text.String()
}

func firstLine(path string) string {
	text, _ := os.ReadFile(path)
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}
