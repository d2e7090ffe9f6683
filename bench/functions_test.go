package bench

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox/bench/internal/report"
)

// functions runs Go benchmarks, each of them as often as there are rounds.
func (b *bed) functions(ctx context.Context, _ *testing.T, s *report.Section, m *report.Measurement) error {
	list := report.Benchmarks
	if b.size.short {
		list = []report.Benchmark{{Dir: ".", Names: []string{"MatchTopic"}, Time: "1x"}}
	}
	for _, bench := range list {
		args := []string{
			"test", "-run", "^$", "-bench", "^Benchmark(" + strings.Join(bench.Names, "|") + ")$",
			"-benchmem", "-benchtime", cmp.Or(bench.Time, "500ms"), "-count", strconv.Itoa(b.rounds(s)), ".",
		}
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = filepath.Join("..", bench.Dir)
		began := time.Now()
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", bench.Dir, err, out)
		}
		b.t.Logf("%s, %.1fs", bench.Dir, time.Since(began).Seconds())
		found := parseBenchmarks(bench.Dir, string(out))
		if len(found) == 0 {
			return fmt.Errorf("%s: there is none of %v\n%s", bench.Dir, bench.Names, out)
		}
		m.Runs = append(m.Runs, found...)
		m.Commands[found[0].System] = "cd " + bench.Dir + " && go " + strings.Join(quoted(args), " ")
	}
	return nil
}

// quoted puts in quotes what a shell would take for its own.
func quoted(args []string) []string {
	list := slices.Clone(args)
	for i, arg := range list {
		if strings.ContainsAny(arg, "^$()|") {
			list[i] = "'" + arg + "'"
		}
	}
	return list
}

// parseBenchmarks reads what go test -bench prints. The same name again is the next
// round.
func parseBenchmarks(dir, output string) []report.Run {
	const nameAndCount = 2
	rounds := map[string]int{}
	var runs []report.Run
	for line := range strings.Lines(output) {
		fields := strings.Fields(line)
		if len(fields) < nameAndCount+2 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		system := strings.TrimPrefix(dir+"/", "./") + strings.TrimPrefix(withoutProcs.ReplaceAllString(fields[0], ""), "Benchmark")
		run := report.Run{Round: rounds[system], System: system, Values: map[string]float64{}}
		rounds[system]++
		for at := nameAndCount; at+1 < len(fields); at += 2 {
			if value, err := strconv.ParseFloat(fields[at], 64); err == nil {
				run.Values[fields[at+1]] = value
			}
		}
		runs = append(runs, run)
	}
	return runs
}

// withoutProcs is the number of processors behind a benchmark's name.
var withoutProcs = regexp.MustCompile(`-\d+$`)

// TestBenchmarksAreThere keeps the report's list of functions in step with the source,
// without an hour's wait.
func TestBenchmarksAreThere(t *testing.T) {
	t.Parallel()
	for _, bench := range report.Benchmarks {
		files, err := filepath.Glob(filepath.Join("..", bench.Dir, "*_test.go"))
		must(t, err)
		var source strings.Builder
		for _, file := range files {
			text, err := os.ReadFile(file)
			must(t, err)
			source.Write(text)
		}
		for _, name := range bench.Names {
			if !strings.Contains(source.String(), "\nfunc Benchmark"+name+"(b *testing.B)") {
				t.Errorf("there is no Benchmark%s in %s", name, bench.Dir)
			}
		}
	}
}
