// Package bench measures this outbox beside its peers and beside what the broker can
// take, and writes docs/benchmarks.md: see TestReport.
package bench

import (
	"os"
	"testing"

	"github.com/outbox-go/outbox/internal/testenv"
)

func TestMain(m *testing.M) {
	if os.Getenv(natsVariable) != "" {
		os.Exit(natsMain())
	}
	testenv.Main(m)
}
