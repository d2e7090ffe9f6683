package natsjs_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox/broker/natsjs"
)

// patience is how long tests wait for what must happen.
const patience = 60 * time.Second

// natsServer is a server in this process, which can be stopped and started again
// on its port and with its files.
type natsServer struct {
	tb     testing.TB
	opts   server.Options
	server *server.Server
}

func startServer(tb testing.TB, change ...func(*server.Options)) *natsServer {
	tb.Helper()
	s := &natsServer{tb: tb, opts: server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: tb.TempDir(), NoSigs: true, NoLog: true,
	}}
	for _, f := range change {
		f(&s.opts)
	}
	s.start()
	s.opts.Port = s.server.Addr().(*net.TCPAddr).Port
	tb.Cleanup(s.stop)
	return s
}

func (s *natsServer) start() {
	s.tb.Helper()
	opts := s.opts
	started, err := server.NewServer(&opts)
	if err != nil {
		s.tb.Fatal(err)
	}
	started.Start()
	if !started.ReadyForConnections(patience) {
		s.tb.Fatal("the server does not come up")
	}
	s.server = started
}

func (s *natsServer) stop() {
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

func (s *natsServer) addr() string { return fmt.Sprintf("127.0.0.1:%d", s.opts.Port) }
func (s *natsServer) url() string  { return "nats://" + s.addr() }

// jetStream returns a client of its own, for looking at the server from outside.
func (s *natsServer) jetStream(tb testing.TB) jetstream.JetStream {
	tb.Helper()
	url := s.url()
	if len(s.opts.Users) > 0 {
		url = s.as("full")
	}
	nc, err := nats.Connect(url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		tb.Fatal(err)
	}
	return js
}

// users gives the server a user "full" and a user "limited" that may not publish to
// some subjects, both without a password of note.
func users(deny ...string) func(*server.Options) {
	return func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "full", Password: "x"},
			{Username: "limited", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: deny}}},
		}
	}
}

// as returns the URL for a user.
func (s *natsServer) as(user string) string { return "nats://" + user + ":x@" + s.addr() }

var places atomic.Int64

// place returns a configuration with a stream of its own.
func place() *natsjs.Config {
	name := fmt.Sprintf("test-%d", places.Add(1))
	return &natsjs.Config{
		Stream: name, SubjectPrefix: name + ".", AckWait: time.Second,
		ConfirmTimeout: patience, ReconnectMaxWait: 100 * time.Millisecond,
	}
}

func connect(tb testing.TB, url string, c *natsjs.Config) *natsjs.Broker {
	tb.Helper()
	b, err := natsjs.Connect(context.Background(), url, c)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// consumerInfo asks the server about a consumer.
func consumerInfo(tb testing.TB, js jetstream.JetStream, stream, name string) *jetstream.ConsumerInfo {
	tb.Helper()
	c, err := js.Consumer(context.Background(), stream, name)
	if err != nil {
		tb.Fatal(err)
	}
	info, err := c.Info(context.Background())
	if err != nil {
		tb.Fatal(err)
	}
	return info
}

func wantError(tb testing.TB, err error, parts ...string) {
	tb.Helper()
	if err == nil {
		tb.Errorf("no error, want one that says %q", parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			tb.Errorf("error %q does not say %q", err, part)
		}
	}
}

// await waits for ch, and says what there is instead if that takes too long.
func await(tb testing.TB, ch <-chan struct{}, instead func() string) {
	tb.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		tb.Fatalf("waited %s in vain: %s", patience, instead())
	}
}
