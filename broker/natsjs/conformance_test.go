package natsjs_test

import (
	"testing"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/brokertest"
	"github.com/outbox-go/outbox/internal/testenv"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	brokertest.Run(t, func(t *testing.T) brokertest.Broker {
		proxy := testenv.NewProxy(t, server.addr())
		config := place()
		b := connect(t, "nats://"+proxy.Addr(), config)
		return brokertest.Broker{
			Publisher:  func(*testing.T) outbox.Publisher { return b.Publisher() },
			Subscriber: func(*testing.T) outbox.Subscriber { return b.Subscriber() },
			Features: brokertest.Features{
				Redelivered: true,
				Dedup:       true,
				MaxPayload:  1<<20 - 4096, // the server counts the headers too
				AckWait:     config.AckWait,
				Cut:         proxy.Cut,
				Stall:       proxy.Stall,
				Resume:      proxy.Resume,
			},
		}
	})
}
