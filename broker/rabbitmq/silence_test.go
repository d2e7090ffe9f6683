package rabbitmq

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
)

// listener is a log that waits for a record.
type listener struct {
	slog.Handler
	want  string
	heard chan struct{}
}

func listen(want string) *listener {
	return &listener{slog.DiscardHandler, want, make(chan struct{}, 1)}
}

func (l *listener) Enabled(context.Context, slog.Level) bool { return true }

func (l *listener) Handle(_ context.Context, r slog.Record) error {
	if r.Message == l.want {
		select {
		case l.heard <- struct{}{}:
		default:
		}
	}
	return nil
}

// TestSilentBrokerIsFoundDead, although the library is told by us that the broker
// lives while that has much to say.
func TestSilentBrokerIsFoundDead(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	proxy := testenv.NewProxy(t, server.Addr())
	address := via(t, server.NewVHost(t), proxy)
	subscriber, publisher := listen("subscription lost"), listen("publisher not connected")
	with := func(l *listener) Connection {
		c := quick
		c.Heartbeat, c.Logger = time.Second, slog.New(l)
		return c
	}
	in := subscribe(t, address, &SubscriberConfig{Connection: with(subscriber)}, all(1000))
	in.waitReady()
	msgs := testMessages("a", 1000)
	if failed := publishAgain(t, newPublisher(t, address, &PublisherConfig{Connection: with(publisher)}), msgs); failed != nil {
		t.Fatal(failed)
	}
	for range msgs {
		mustSettle(t, in.next(), outbox.Settlement{Outcome: outbox.Ack})
	}
	proxy.Stall()
	for _, l := range []*listener{subscriber, publisher} {
		select {
		case <-l.heard:
		case <-time.After(patience):
			t.Errorf("nobody says %q", l.want)
		}
	}
	proxy.Resume()
}
