package work

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/internal/measure"
	"github.com/outbox-go/outbox/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var errRelay = errors.New("the relay is broken")

// broken is a system whose relay ends by itself: when it is ready, or with emits when the
// run goes on from there.
type broken struct{ emits chan struct{} }

func (broken) SetUp(context.Context) error              { return nil }
func (broken) Fill(context.Context, measure.Load) error { return nil }
func (broken) Describe() Description                    { return Description{Name: "broken"} }
func (broken) Close()                                   {}

func (b broken) Emitter(context.Context) (Emitter, error) {
	close(b.emits)
	return silent{}, nil
}

func (b broken) Relay(_ context.Context, ready func()) error {
	ready()
	if b.emits != nil {
		<-b.emits
	}
	return errRelay
}

// silent emits nothing.
type silent struct{}

func (silent) Emit(_ context.Context, _ Event, end func() error) error { return end() }
func (silent) Close()                                                  {}

// TestRunEndsWithItsRelay has a relay that ends early: the run says why, and does not wait
// for it for ever.
func TestRunEndsWithItsRelay(t *testing.T) {
	t.Parallel()
	database, broker := testenv.Postgres(t).NewDatabase(t), testenv.RabbitMQ(t).NewVHost(t)
	for name, steady := range map[string]bool{"drain": false, "steady": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &Settings{
				DatabaseURL: database, BrokerURL: broker, Name: NewName(), QueueType: rabbitmq.Classic, Window: 1, Topics: 1,
				Messages: 1, Payload: 100, Rate: 1000, Duration: 10 * time.Millisecond, Emitters: 1, Timeout: time.Minute,
			}
			if err := s.Validate(steady); err != nil {
				t.Fatal(err)
			}
			var system broken
			if steady {
				system.emits = make(chan struct{})
			}
			if _, err := Run(t.Context(), system, s, steady); !errors.Is(err, errRelay) {
				t.Errorf("got %v, want the relay's error", err)
			}
		})
	}
}
