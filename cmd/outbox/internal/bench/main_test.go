package bench

import (
	"testing"

	"github.com/outbox-go/outbox/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }
