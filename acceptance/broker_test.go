package acceptance

import (
	"context"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/natsjs"
	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/broker/stomp"
	"github.com/outbox-go/outbox/internal/testenv"
)

// broker is a server, or a place of one's own on a shared one.
type broker interface {
	brokerURL() string // for openPublisher
	subscriber(t testing.TB) outbox.Subscriber
	// shortHeartBeat is subscriber, but the broker waits for a sign of life for a
	// second or two only.
	shortHeartBeat(t testing.TB) outbox.Subscriber
	// hasDeadLetters tells, without our code, whether there is a place for the
	// dead letters of a queue.
	hasDeadLetters(t testing.TB, queue string) bool
	// Only a private server can be killed, all its processes by SIGKILL, and
	// started again.
	kill()
	start()
}

const (
	reconnectMin = 50 * time.Millisecond
	reconnectMax = 400 * time.Millisecond
)

// openPublisher opens a publisher to the broker at a URL: amqp, nats or stomp.
func openPublisher(url string) (outbox.Publisher, error) {
	if strings.HasPrefix(url, "nats:") {
		b, err := natsjs.New(url, &natsjs.Config{ReconnectMaxWait: reconnectMax})
		if err != nil {
			return nil, err
		}
		return b.Publisher(), nil
	}
	if strings.HasPrefix(url, "stomp:") {
		return stomp.NewPublisher(url, &stomp.PublisherConfig{Connection: stompConnection})
	}
	return rabbitmq.NewPublisher(url, &rabbitmq.PublisherConfig{Connection: rabbitConnection})
}

var rabbitConnection = rabbitmq.Connection{ReconnectMin: reconnectMin, ReconnectMax: reconnectMax}

// rabbit is a virtual host.
type rabbit struct {
	server  *testenv.RabbitMQServer
	address string
}

func newRabbit(t testing.TB, private bool) *rabbit {
	t.Helper()
	if private {
		server := testenv.StartRabbitMQ(t, nil)
		return &rabbit{server, server.URL()}
	}
	server := testenv.RabbitMQ(t)
	return &rabbit{server, server.NewVHost(t)}
}

func (b *rabbit) brokerURL() string { return b.address }
func (b *rabbit) kill()             { b.server.Kill() }
func (b *rabbit) start()            { b.server.Start() }

func (b *rabbit) subscriber(t testing.TB) outbox.Subscriber {
	t.Helper()
	return rabbitSubscriber(t, b.address, &rabbitmq.SubscriberConfig{Connection: rabbitConnection})
}

func (b *rabbit) shortHeartBeat(t testing.TB) outbox.Subscriber {
	t.Helper()
	connection := rabbitConnection
	connection.Heartbeat = time.Second
	return rabbitSubscriber(t, b.address, &rabbitmq.SubscriberConfig{Connection: connection})
}

func (b *rabbit) hasDeadLetters(t testing.TB, queue string) bool {
	t.Helper()
	return queueLength(t, b.address, queue+".dlq") >= 0
}

// queueLength returns the number of messages that wait in a queue, -1 if there is
// no such queue.
func queueLength(t testing.TB, url, queue string) int {
	t.Helper()
	conn, err := amqp.Dial(url)
	must(t, err)
	defer conn.Close()
	ch, err := conn.Channel()
	must(t, err)
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		return -1
	}
	return q.Messages
}

// jetStream is a NATS server in a process of its own, with its files.
type jetStream struct {
	t       testing.TB
	store   string
	port    int
	process *child
}

func newJetStream(t testing.TB) *jetStream {
	t.Helper()
	b := &jetStream{t: t, store: t.TempDir(), port: -1} // -1: any
	b.start()
	return b
}

func (b *jetStream) kill() { b.process.kill() }

func (b *jetStream) start() {
	b.t.Helper()
	b.process = startChild(b.t, &childConfig{Store: b.store, Port: b.port})
	port, err := strconv.Atoi(b.process.line)
	must(b.t, err)
	b.port = port
}

func (b *jetStream) brokerURL() string { return "nats://127.0.0.1:" + strconv.Itoa(b.port) }

func (b *jetStream) subscriber(t testing.TB) outbox.Subscriber {
	t.Helper()
	return b.subscriberWith(t, 2*time.Second)
}

func (b *jetStream) shortHeartBeat(t testing.TB) outbox.Subscriber {
	t.Helper()
	return b.subscriberWith(t, time.Second)
}

func (b *jetStream) subscriberWith(t testing.TB, ackWait time.Duration) outbox.Subscriber {
	t.Helper()
	broker, err := natsjs.New(b.brokerURL(), &natsjs.Config{ReconnectMaxWait: reconnectMax, AckWait: ackWait})
	must(t, err)
	s := broker.Subscriber()
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// client looks at the server without our code.
func (b *jetStream) client(t testing.TB) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(b.brokerURL())
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	return js
}

func (b *jetStream) hasDeadLetters(t testing.TB, _ string) bool {
	t.Helper()
	_, err := b.client(t).Stream(context.Background(), "outbox-dead")
	return err == nil
}

// setStream makes the stream, or changes it, to be as the broker's own but for
// what change does.
func (b *jetStream) setStream(t testing.TB, change func(c *jetstream.StreamConfig)) {
	t.Helper()
	c := jetstream.StreamConfig{Name: "outbox", Subjects: []string{"outbox.>"}, Discard: jetstream.DiscardNew, Storage: jetstream.FileStorage}
	change(&c)
	_, err := b.client(t).CreateOrUpdateStream(context.Background(), c)
	must(t, err)
}

// newLink puts a proxy before the broker and returns the URL through it.
func newLink(t testing.TB, address string) (*testenv.Proxy, string) {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	p := testenv.NewProxy(t, u.Host)
	u.Host = p.Addr()
	return p, u.String()
}

// deafLink passes on all that goes to the server and, once told, nothing that
// comes from it: the broker gets the messages, and its confirms do not arrive.
type deafLink struct {
	listener net.Listener
	target   string
	held     chan struct{} // closed when answers are held back
	hold     func()
	ended    chan struct{}
	running  sync.WaitGroup
}

func newDeafLink(t testing.TB, address string) (*deafLink, string) {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	d := &deafLink{listener: listener, target: u.Host, held: make(chan struct{}), ended: make(chan struct{})}
	d.hold = sync.OnceFunc(func() { close(d.held) })
	d.running.Go(d.serve)
	t.Cleanup(func() {
		close(d.ended)
		_ = listener.Close()
		d.running.Wait()
	})
	u.Host = listener.Addr().String()
	return d, u.String()
}

func (d *deafLink) serve() {
	for {
		client, err := d.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", d.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		both := func() { _, _ = client.Close(), server.Close() }
		stop := make(chan struct{})
		d.running.Go(func() {
			select {
			case <-d.ended:
			case <-stop:
			}
			both()
		})
		d.running.Go(func() {
			_, _ = io.Copy(server, client)
			close(stop)
		})
		d.running.Go(func() { d.answers(client, server) })
	}
}

// answers carries what comes from the server, and swallows it once told.
func (d *deafLink) answers(client io.Writer, server io.Reader) {
	buf := make([]byte, 16<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-d.held:
			continue
		default:
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}
