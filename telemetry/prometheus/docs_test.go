package promoutbox_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	promoutbox "github.com/outbox-go/outbox/telemetry/prometheus"
)

// described returns the names of all metrics of a collector with their helps.
func described(c prometheus.Collector) (names []string, rows string) {
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		c.Describe(descs)
	}()
	form := regexp.MustCompile(`fqName: "(\w+)", help: "(.*?)", (?:unit|const)`)
	for d := range descs {
		m := form.FindStringSubmatch(d.String())
		names = append(names, m[1])
		rows += fmt.Sprintf("| `%s` | %s |\n", m[1], m[2])
	}
	return names, rows
}

// TestOperationsNameAllMetrics compares docs/operations.md with the metrics: its
// tables are those printed here, and its alerts name nothing else.
func TestOperationsNameAllMetrics(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	all, _ = described(promoutbox.New(&promoutbox.Config{Router: true}))
	for _, c := range []prometheus.Collector{promoutbox.New(nil), promoutbox.NewStore(&fakeCounter{}, nil)} {
		names, rows := described(c)
		if all = append(all, names...); !strings.Contains(string(text), "\n|---|---|\n"+rows) {
			t.Errorf("docs/operations.md does not have the table\n%s", rows)
		}
	}
	for _, name := range regexp.MustCompile(`\boutbox_\w+_(total|seconds|messages|keys|up|ready|pauses)\b`).FindAllString(string(text), -1) {
		if !slices.Contains(all, name) {
			t.Errorf("docs/operations.md names %s, which is no metric", name)
		}
	}
}
