package relay_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
)

// TestMessageThatFindsTheBrokerAwayIsNotTheOnlyProbe has one message at which the broker
// always seems to be away: an endpoint that hangs on it, for example.
func TestMessageThatFindsTheBrokerAwayIsNotTheOnlyProbe(t *testing.T) {
	for _, key := range []string{"", "poison"} {
		t.Run(fmt.Sprintf("key %q", key), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				good := b.broker.Publisher()
				_, stop := b.startWith(outbox.PublishFunc(func(ctx context.Context, m *outbox.Message) error {
					if m.Topic == "poison" {
						return outbox.Unavailable(errors.New("no answer"))
					}
					return relay.Wait(good)(ctx, m)
				}), nil)
				b.emitKeys("poison", key)
				time.Sleep(10 * time.Second)
				b.emit(100, 10)
				time.Sleep(3 * time.Minute)
				if n := b.count(); n != 100 {
					t.Errorf("%d of 100 messages were delivered", n)
				}
				b.stopped(stop)
			})
		})
	}
}
