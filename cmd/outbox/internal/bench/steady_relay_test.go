package bench

import (
	"context"
	"io"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/relay"
)

// someRelay makes the tables of an outbox and drains it until stop.
func someRelay(t *testing.T, d config.Database, b config.Broker) (stop func()) {
	t.Helper()
	store, err := wire.OpenStore(t.Context(), d, testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	publisher, err := wire.OpenPublisher(b, io.Discard, testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- relay.New(store, publisher, &relay.Config{Logger: testLogger(t)}).Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		for _, err := range []error{<-ended, publisher.Close(), store.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(stop)
	return stop
}

// consumersOf returns the names of all consumers of a stream.
func consumersOf(t *testing.T, c config.Broker) (names []string) {
	t.Helper()
	nc, err := nats.Connect(c.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), c.Stream)
	if err != nil {
		t.Fatal(err)
	}
	list := stream.ConsumerNames(t.Context())
	for name := range list.Name() {
		names = append(names, name)
	}
	if list.Err() != nil {
		t.Fatal(list.Err())
	}
	return names
}
