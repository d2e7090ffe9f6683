package main

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/outbox-go/outbox/internal/testenv"
)

func TestBenchSteadyCommand(t *testing.T) {
	t.Parallel()
	args := []string{"bench", "steady", "--rate", "100", "--duration", "300ms", "--warm-up", "100ms", "--keys", "7"}
	got := call(t, nil, "", append(args, "--json")...)
	got.want(t, 0)
	var result struct {
		Benchmark           string
		Committed, Lost     int
		Offered             float64 `json:"offered_per_second"`
		LatencyP50          float64 `json:"latency_p50_ms"`
		Histogram, Settings any
	}
	if err := json.Unmarshal([]byte(got.stdout), &result); err != nil {
		t.Fatalf("%v: %s", err, got.stdout)
	}
	if result.Benchmark != "steady" || result.Committed != 40 || result.Lost != 0 || result.Offered != 100 || result.LatencyP50 <= 0 {
		t.Errorf("got %s", got.stdout)
	}
	call(t, nil, "", args...).want(t, 0, "steady: 100/s", "on SQLite", "on JetStream", "latency, 99 %", "up to ", "out of order")
}

// The relay's process gets the URLs, which may have passwords, where others cannot see
// them.
func TestBenchSteadyRunsTheRelayInAProcess(t *testing.T) {
	t.Parallel()
	database, broker := testenv.Postgres(t).NewDatabase(t), testenv.RabbitMQ(t).NewVHost(t)
	cmd := exec.CommandContext(t.Context(), binary(t), "bench", "steady", "--rate", "100", "--duration", "1s", "--relay", "process", "--json",
		"--database-url", database, "--broker-url", broker, "--queue-type", "classic")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, &stderr)
	}
	var result struct {
		Committed, Delivered int
		CPU                  float64 `json:"relay_cpu_seconds"`
		Settings             struct {
			Relay     string
			QueueType string `json:"queue_type"`
		}
	}
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatal(err)
	}
	if result.Committed != 200 || result.Delivered != 200 || result.CPU == 0 || result.Settings.Relay != "process" || result.Settings.QueueType != "classic" {
		t.Errorf("got %s", out)
	}
}

func TestBenchSteadyReportsAllBadFlags(t *testing.T) {
	t.Parallel()
	call(t, nil, "", "bench", "steady", "--rate", "0", "--warm-up", "-1s", "--emitters", "0", "--keys", "-1", "--payload", "7", "--hold", "2h",
		"--hold-share", "1.5", "--prefetch", "0", "--timeout", "-1s", "--relay", "near", "--database-url", "x:", "--broker-url", "stdout:").
		want(t, exitUsage, "12 problems", "--rate", "--warm-up", "--emitters", "--keys", "--payload", "--hold ", "--hold-share", "--prefetch", "--timeout",
			`--relay "near"`, "database.url", "broker.url")
	call(t, nil, "", "bench", "steady", "--rate", "1", "--duration", "0.5s", "--emitters", "4", "--keys", "3", "--database-schema", "x").
		want(t, exitUsage, "3 problems", "--duration", "at least as many as --emitters", "--database-schema", "--relay=none alone")
	call(t, nil, "", "bench", "steady", "--relay", "none").want(t, exitUsage, "needs --database-url of PostgreSQL and --broker-url")
}
