package natsjs

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/outbox-go/outbox"
)

// TestEndLeavesConnection: a question that the end breaks off says nothing about
// the connection, which settles what is unsettled.
func TestEndLeavesConnection(t *testing.T) {
	t.Parallel()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	defer s.Shutdown()
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not come up")
	}
	b, err := New(s.ClientURL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := newConsumption(b, outbox.Subscription{Queue: "q", Topics: []string{"#.created"}, Prefetch: 1})
	l, err := c.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.attach(l)
	defer c.detach(l)
	ended, end := context.WithCancel(t.Context())
	end()
	c.mu.Lock()
	renewed := c.renewMatcher(ended)
	c.mu.Unlock()
	if renewed || l.failed.Load() {
		t.Errorf("renewed is %v, and the connection has failed: %v; want neither", renewed, l.failed.Load())
	}
}
