package rabbitmq

import (
	"context"
	"fmt"
	"testing"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/memstore"
)

// A relay publishes by three connections, one of which is cut again and again and then
// has no broker for a while: nothing is lost, and each key comes in its order, apart
// from what is repeated.
func TestSpreadSurvivesTheLossOfAConnection(t *testing.T) {
	t.Parallel()
	const n, keys, cuts = 6000, 30, 3
	server := testenv.RabbitMQ(t)
	address := server.NewVHost(t)
	proxy := testenv.NewProxy(t, server.Addr())
	in := subscribe(t, address, nil, all(1000))
	in.waitReady()
	config := &PublisherConfig{Connection: quick}
	p := outbox.Spread(newPublisher(t, via(t, address, proxy), config), newPublisher(t, address, config), newPublisher(t, address, config))
	store := memstore.New(nil)
	emitNumbered(t, store, n, keys)
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	cut := proxy.CutAfter(10_000)
	go func() { ended <- relay.New(store, p, &relay.Config{Pipelined: []string{"#"}}).Run(ctx) }()
	go func() {
		for range cuts {
			<-cut
			cut = proxy.CutAfter(20_000)
		}
		proxy.Refuse()
		proxy.Cut()
		for range 3 {
			sleep(ctx, quick.ReconnectMax)
		}
		proxy.Accept()
	}()
	next := map[string]int{}
	for arrived := 0; arrived < n; {
		r := in.next()
		mustSettle(t, r, outbox.Settlement{Outcome: outbox.Ack})
		var number int
		if _, err := fmt.Sscan(string(r.Payload), &number); err != nil {
			t.Fatal(err)
		}
		switch {
		case number > next[r.Key]:
			t.Fatalf("message %d of key %s came when %d was to be next", number, r.Key, next[r.Key])
		case number == next[r.Key]:
			next[r.Key]++
			arrived++
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// emitNumbered emits n messages, those of each key numbered from 0.
func emitNumbered(t *testing.T, store *memstore.Store, n, keys int) {
	t.Helper()
	ob := outbox.New(store)
	var events []outbox.Event
	for i := range n {
		events = append(events, outbox.Event{Topic: "a.b", Key: fmt.Sprint(i % keys), Payload: []byte(fmt.Sprint(i / keys))})
	}
	if err := ob.InTx(t.Context(), func(tx *memstore.Tx) error { return ob.Emit(t.Context(), tx, events...) }); err != nil {
		t.Fatal(err)
	}
}
