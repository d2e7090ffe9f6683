package stomp

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/outbox-go/outbox/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.Main(m, func() error { return goleak.Find(goleak.IgnoreAnyFunction(testenv.Watchdog)) })
}
