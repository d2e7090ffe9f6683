package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/outbox-go/outbox/internal/testenv"
)

func TestBenchEmitCommand(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "profile")
	args := []string{"bench", "emit", "--rounds", "1", "--slice", "10ms", "--profile", folder}
	got := call(t, nil, "", append(args, "--json")...)
	got.want(t, 0)
	var result struct {
		Variants []struct {
			Name  string
			Ratio struct{ Median float64 }
		}
		Committed int
		Cost      any `json:"wake_up_cost"`
	}
	if err := json.Unmarshal([]byte(got.stdout), &result); err != nil {
		t.Fatalf("%v: %s", err, got.stdout)
	}
	if len(result.Variants) != 4 || result.Variants[0].Name != "none" || result.Variants[0].Ratio.Median != 1 || result.Committed == 0 || result.Cost != nil {
		t.Errorf("got %s", got.stdout)
	}
	for _, name := range []string{"cpu.pprof", "heap.pprof", "allocs.pprof"} {
		if info, err := os.Stat(filepath.Join(folder, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	url := testenv.Postgres(t).NewDatabase(t)
	call(t, nil, "", "bench", "emit", "--rounds", "1", "--slice", "10ms", "--connections", "2", "--database-url", url).
		want(t, 0, "on PostgreSQL", "none-one-batch", "intx-armed", "Wake takes", "by InTx", "lost 0, phantom 0")
}

func TestBenchEmitReportsAllBadFlags(t *testing.T) {
	t.Parallel()
	call(t, nil, "", "bench", "emit", "--connections", "2", "--rounds", "0", "--slice", "0s", "--payload", "7").
		want(t, exitUsage, "4 problems", "--connections", "SQLite has one writer", "--rounds", "--slice", "--payload")
	call(t, nil, "", "bench", "emit", "--connections", "0", "--database-url", "postgres://localhost/x").want(t, exitUsage, "--connections", "1 to 1000")
}
