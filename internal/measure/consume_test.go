package measure

import (
	"context"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
)

// reconnecting is a subscriber that loses its connection once.
type reconnecting struct{ outbox.Subscriber }

func (reconnecting) Subscribe(ctx context.Context, _ outbox.Subscription, ready func(), deliver func(*outbox.Received)) error {
	ready()
	ready()
	load := Load{Messages: 1}
	deliver(&outbox.Received{Message: outbox.Message{Payload: load.Body(0)}, Settle: func(outbox.Settlement) error { return nil }})
	<-ctx.Done()
	return nil
}

func TestConsumerOutlivesALostConnection(t *testing.T) {
	t.Parallel()
	tally := NewTally(Load{Messages: 1})
	tally.Start()
	c, err := Consume(t.Context(), reconnecting{}, "q", 1, tally)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-tally.Done():
	case <-time.After(10 * time.Second):
		t.Error("nothing has arrived after the connection was lost")
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}
