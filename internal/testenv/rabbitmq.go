package testenv

import (
	"fmt"
	"net/url"
	"os"
	"path"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// RabbitMQOptions say how a private RabbitMQ differs from the shared one.
type RabbitMQOptions struct {
	// Config is added to rabbitmq.conf, in its own syntax.
	Config string

	// TLS, unless nil, has the server take connections with TLS, too, by AMQP and by STOMP, on ports of their own.
	TLS *TLSOptions
}

// RabbitMQServer is a RabbitMQ server for one test or, shared, for all tests of the process. Its methods belong to
// the goroutine of the test that asked for it and fail that test.
type RabbitMQServer struct {
	tb   testing.TB
	core *rabbitmq
}

var (
	sharedRabbitMQ = sync.OnceValues(openSharedRabbitMQ)
	vhosts         atomic.Int64
)

// RabbitMQ returns the server that all tests of this process share. The first call starts it.
func RabbitMQ(tb testing.TB) *RabbitMQServer {
	tb.Helper()
	r, err := sharedRabbitMQ()
	must(tb, err)
	return &RabbitMQServer{tb: tb, core: r}
}

// StartRabbitMQ starts a server of the test's own, which may kill and pause it, and ends it with the test. The
// options may be nil.
func StartRabbitMQ(tb testing.TB, opts *RabbitMQOptions) *RabbitMQServer {
	tb.Helper()
	if opts == nil {
		opts = &RabbitMQOptions{}
	}
	r, err := newRabbitMQ(opts)
	must(tb, err)
	tb.Cleanup(func() {
		if err := r.close(); err != nil {
			tb.Errorf("testenv: %v", err)
		}
	})
	return &RabbitMQServer{tb: tb, core: r}
}

func openSharedRabbitMQ() (*rabbitmq, error) {
	if rawURL := os.Getenv("OUTBOX_TEST_RABBITMQ_URL"); rawURL != "" {
		return &rabbitmq{url: rawURL, stompAddr: os.Getenv("OUTBOX_TEST_STOMP_ADDR"), shared: true}, nil
	}
	r, err := newRabbitMQ(&RabbitMQOptions{})
	if err != nil {
		return nil, err
	}
	r.shared = true
	atExit(func() { _ = r.close() })
	return r, nil
}

// URL returns the administrator's URL of the default virtual host.
func (r *RabbitMQServer) URL() string { return r.core.url }

// Addr returns the server's AMQP address, for a proxy before it.
func (r *RabbitMQServer) Addr() string {
	r.tb.Helper()
	u, err := url.Parse(r.core.url)
	must(r.tb, err)
	return u.Host
}

// STOMPAddr returns the server's STOMP address, for a proxy before it.
func (r *RabbitMQServer) STOMPAddr() string {
	r.tb.Helper()
	if r.core.stompAddr == "" {
		r.tb.Fatal("testenv: OUTBOX_TEST_RABBITMQ_URL is set and OUTBOX_TEST_STOMP_ADDR is not: name the STOMP address of that server")
	}
	return r.core.stompAddr
}

// STOMPURL returns the STOMP URL of the virtual host and user of an AMQP URL of this server.
func (r *RabbitMQServer) STOMPURL(amqpURL string) string {
	r.tb.Helper()
	u, err := url.Parse(amqpURL)
	must(r.tb, err)
	u.Scheme, u.Host = "stomp", r.STOMPAddr()
	return u.String()
}

// Eval has the server evaluate an Erlang expression, as rabbitmqctl eval does, and returns the printed value. It is
// for what AMQP cannot do, and takes a millisecond.
func (r *RabbitMQServer) Eval(expression string) string {
	r.tb.Helper()
	value, err := r.core.eval(expression)
	must(r.tb, err)
	return value
}

// NewVHost creates a virtual host and returns its URL. It is deleted with the test, with everything in it, if the
// server runs by then.
func (r *RabbitMQServer) NewVHost(tb testing.TB) string {
	tb.Helper()
	u, err := url.Parse(r.core.url)
	must(tb, err)
	name := fmt.Sprintf("test-%d-%d", os.Getpid(), vhosts.Add(1))
	const create = `ok = rabbit_vhost:add(<<"%[1]s">>, <<"testenv">>),` +
		`ok = rabbit_auth_backend_internal:set_permissions(<<"%[2]s">>, <<"%[1]s">>, <<".*">>, <<".*">>, <<".*">>, <<"testenv">>).`
	_, err = r.core.eval(fmt.Sprintf(create, name, u.User.Username()))
	must(tb, err)
	tb.Cleanup(func() {
		if r.core.s != nil && !r.core.s.running.Load() {
			return
		}
		if _, err := r.core.eval(fmt.Sprintf(`rabbit_vhost:delete(<<"%s">>, <<"testenv">>).`, name)); err != nil {
			tb.Logf("testenv: delete virtual host %s: %v", name, err)
		}
	})
	u.Path = path.Join("/", name)
	return u.String()
}

// Kill ends the server with all its processes by SIGKILL and waits until they are gone. Quorum queues that it has just
// declared are made durable before, which the broker itself does too late.
func (r *RabbitMQServer) Kill() {
	r.tb.Helper()
	r.private()
	must(r.tb, r.core.kill())
}

// Stop shuts the server down in order: it closes its clients' connections with code 320.
func (r *RabbitMQServer) Stop() {
	r.tb.Helper()
	must(r.tb, r.private().stop(syscall.SIGTERM))
}

// Start starts the server again, on the same port and data, and waits until it takes connections.
func (r *RabbitMQServer) Start() {
	r.tb.Helper()
	r.private()
	must(r.tb, r.core.start())
}

// Pause stops all processes of the server by SIGSTOP: connections remain open and nothing answers.
func (r *RabbitMQServer) Pause() {
	r.tb.Helper()
	signalAll(r.private().dir, syscall.SIGSTOP)
}

// Resume lets a paused server go on.
func (r *RabbitMQServer) Resume() {
	r.tb.Helper()
	signalAll(r.private().dir, syscall.SIGCONT)
}

// private returns the server if it is the test's own.
func (r *RabbitMQServer) private() *server {
	r.tb.Helper()
	if r.core.shared {
		r.tb.Fatal("testenv: other tests share this server; take a private one by StartRabbitMQ")
	}
	return r.core.s
}
