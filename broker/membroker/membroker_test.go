package membroker_test

import (
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/brokertest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	brokertest.Run(t, func(*testing.T) brokertest.Broker {
		b := membroker.New()
		return brokertest.Broker{
			Publisher:  func(*testing.T) outbox.Publisher { return b.Publisher() },
			Subscriber: func(*testing.T) outbox.Subscriber { return b.Subscriber() },
			Features: brokertest.Features{
				Redelivered: true,
				AckWait:     20 * time.Millisecond, // it waits for ever: the suite need not look for long
				Cut:         b.Cut,
				Stall:       b.Hold,
				Resume:      b.Release,
			},
		}
	})
}
