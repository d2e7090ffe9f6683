package acceptance

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/broker/stomp"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/worker"
)

// protocol is a way to reach RabbitMQ.
type protocol struct {
	name string
	// plain and secure return the URL of the virtual host and user of an AMQP URL.
	plain, secure func(server *testenv.RabbitMQServer, amqpURL string) string
	publisher     func(url string, c *tls.Config, log *slog.Logger) (outbox.Publisher, error)
	subscriber    func(url string, c *tls.Config, log *slog.Logger) (outbox.Subscriber, error)
}

var protocols = []*protocol{{
	name:   "AMQP",
	plain:  func(_ *testenv.RabbitMQServer, amqpURL string) string { return amqpURL },
	secure: (*testenv.RabbitMQServer).AMQPSURL,
	publisher: func(url string, c *tls.Config, log *slog.Logger) (outbox.Publisher, error) {
		connection := rabbitConnection
		connection.TLS, connection.Logger = c, log
		return rabbitmq.NewPublisher(url, &rabbitmq.PublisherConfig{Connection: connection})
	},
	subscriber: func(url string, c *tls.Config, log *slog.Logger) (outbox.Subscriber, error) {
		connection := rabbitConnection
		connection.TLS, connection.Logger = c, log
		return rabbitmq.NewSubscriber(url, &rabbitmq.SubscriberConfig{Connection: connection})
	},
}, {
	name:   "STOMP",
	plain:  (*testenv.RabbitMQServer).STOMPURL,
	secure: (*testenv.RabbitMQServer).STOMPSURL,
	publisher: func(url string, c *tls.Config, log *slog.Logger) (outbox.Publisher, error) {
		return stomp.NewPublisher(url, &stomp.PublisherConfig{Connection: stompTo(c, log)})
	},
	subscriber: func(url string, c *tls.Config, log *slog.Logger) (outbox.Subscriber, error) {
		return stomp.NewSubscriber(url, &stomp.SubscriberConfig{Connection: stompTo(c, log)})
	},
}}

func stompTo(c *tls.Config, log *slog.Logger) stomp.Connection {
	return stomp.Connection{TLS: c, ReconnectMin: reconnectMin, ReconnectMax: reconnectMax, Logger: log}
}

// eachProtocol runs a test by AMQP and by STOMP.
func eachProtocol(t *testing.T, test func(t *testing.T, p *protocol)) {
	t.Helper()
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) { test(t, p) })
	}
}

// access is one virtual host, as a client reaches it.
type access struct {
	*protocol
	url string
	tls *tls.Config
}

func (a *access) openSubscriber(t testing.TB) outbox.Subscriber {
	t.Helper()
	s, err := a.subscriber(a.url, a.tls, quiet())
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// startRelay starts a relay from a database to p.
func (a *access) startRelay(t testing.TB, s *system) *relayRun {
	t.Helper()
	publisher, err := a.publisher(a.url, a.tls, quiet())
	must(t, err)
	return s.startRelayWith(t, publisher, relay.Config{})
}

// delivers has orders go from a database of its own by a relay and by p to a worker.
func (a *access) delivers(t *testing.T) {
	t.Helper()
	s := newSystem(newSQLite(t), elsewhere{})
	r := startWorker(t, a.openSubscriber(t), "all", "#")
	a.startRelay(t, s)
	s.placeOrders(t, "all", 10, 3)
	s.judge(t, r)
	r.stop()
}

// elsewhere is the broker of a system whose test knows better.
type elsewhere struct{ broker }

func (elsewhere) brokerURL() string { return "" }

// refuses wants both ends to say why they cannot connect, and the relay to count no
// attempt.
func (a *access) refuses(t *testing.T, want ...string) {
	t.Helper()
	var log lockedBuffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	subscriber, err := a.subscriber(a.url, a.tls, logger)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		sub := outbox.Subscription{Queue: "all", Topics: []string{"#"}, Prefetch: 1}
		if err := subscriber.Subscribe(ctx, sub, func() {}, func(*outbox.Received) {}); err != nil {
			logger.Error("subscription", "error", err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		_ = subscriber.Close()
	})
	wantTold(t, &log, want)

	var answers lockedBuffer
	s := newSystem(newSQLite(t), elsewhere{})
	publisher, err := a.publisher(a.url, a.tls, quiet())
	must(t, err)
	s.placeOrders(t, "all", 2, 1)
	run := s.startRelayWith(t, &overheard{publisher, &answers}, relay.Config{MaxAttempts: 1})
	wantTold(t, &answers, want)
	run.alive()
	run.stop()
	wantUntouched(t, s.database.(*sqlite).store, 2)
	for _, text := range []string{log.String(), answers.String()} {
		if strings.Contains(text, "s3cr3t") || strings.Contains(text, "guest:guest") {
			t.Errorf("a password is told: %s", text)
		}
	}
}

func wantTold(t *testing.T, b *lockedBuffer, want []string) {
	t.Helper()
	eventually(t, fmt.Sprintf("words of %q", want), func() (bool, string) {
		text := b.String()
		said := !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(text, w) })
		return said, text[max(0, len(text)-1000):]
	})
}

// overheard writes a publisher's answers down.
type overheard struct {
	outbox.Publisher
	answers *lockedBuffer
}

func (o *overheard) Publish(ctx context.Context, m *outbox.Message, done func(error)) {
	o.Publisher.Publish(ctx, m, func(err error) {
		_, _ = fmt.Fprintln(o.answers, err)
		done(err)
	})
}

// secured is a broker that takes TLS, with a certificate for localhost alone.
type secured struct {
	*testenv.RabbitMQServer
	authority *testenv.Authority
}

func startSecured(t *testing.T, knowsClients bool) *secured {
	t.Helper()
	s := &secured{authority: testenv.NewAuthority(t)}
	options := &testenv.TLSOptions{Identity: s.authority.Issue("broker", "localhost")}
	if knowsClients {
		options.Clients = s.authority
	}
	s.RabbitMQServer = testenv.StartRabbitMQ(t, &testenv.RabbitMQOptions{TLS: options})
	return s
}

// trusting is a client that trusts the authority, and shows the certificates.
func trusting(a *testenv.Authority, own ...*testenv.Identity) *tls.Config {
	c := &tls.Config{RootCAs: a.Pool(), MinVersion: tls.VersionTLS12}
	for _, id := range own {
		c.Certificates = append(c.Certificates, id.Pair)
	}
	return c
}

// by is the server's virtual host of an AMQP URL, with TLS.
func (s *secured) by(p *protocol, amqpURL string, c *tls.Config) *access {
	return &access{protocol: p, url: p.secure(s.RabbitMQServer, amqpURL), tls: c}
}

// host is where a is, with the port.
func (a *access) host(t testing.TB) string {
	t.Helper()
	u, err := url.Parse(a.url)
	must(t, err)
	return u.Host
}

// at is the same by other hosts.
func (a *access) at(t testing.TB, hosts ...string) *access {
	t.Helper()
	return a.with(t, func(u *url.URL) { u.Host = strings.Join(hosts, ",") })
}

func TestD24_TLS(t *testing.T) {
	t.Parallel()
	s := startSecured(t, false)
	right := trusting(s.authority)
	eachProtocol(t, func(t *testing.T, p *protocol) {
		there := s.by(p, s.NewVHost(t), right)
		there.delivers(t)
		s.by(p, s.URL(), trusting(testenv.NewAuthority(t))).refuses(t, "unknown authority")
		s.by(p, s.URL(), nil).refuses(t, "unknown authority")
		right := there.host(t)
		wrong := strings.Replace(right, "localhost", "127.0.0.1", 1)
		there.at(t, wrong).refuses(t, "certificate", "127.0.0.1")
		// Each host must have the certificate for its own name.
		there.at(t, wrong, right).delivers(t)
		there.at(t, closedAddress(t), right).delivers(t)
	})
}

// closedAddress returns an address at which nobody listens.
func closedAddress(t testing.TB) string {
	t.Helper()
	proxy := testenv.NewProxy(t, "")
	proxy.Refuse()
	return proxy.Addr()
}

func TestD24_MutualTLS(t *testing.T) {
	t.Parallel()
	s, binary := startSecured(t, true), buildProgram(t)
	known, stranger := s.authority.Issue("app"), testenv.NewAuthority(t).Issue("app")
	eachProtocol(t, func(t *testing.T, p *protocol) {
		s.by(p, s.NewVHost(t), trusting(s.authority, known)).delivers(t)
		s.by(p, s.URL(), trusting(s.authority)).refuses(t, "certificate required")
		s.by(p, s.URL(), trusting(s.authority, stranger)).refuses(t, "tls", "certificate")
		s.relaysByProgram(t, p, binary, known)
	})
}

// TestD24_VirtualHostAndCredentials uses a virtual host beside the default one, that
// of an administrator.
func TestD24_VirtualHostAndCredentials(t *testing.T) {
	t.Parallel()
	server := testenv.StartRabbitMQ(t, nil)
	eachProtocol(t, func(t *testing.T, p *protocol) {
		one := &access{protocol: p, url: p.plain(server, server.NewVHost(t))}
		standard := &access{protocol: p, url: p.plain(server, server.URL())}
		queue := "of-" + p.name
		inOne := startWorker(t, one.openSubscriber(t), queue, "#")
		inStandard := startWorker(t, standard.openSubscriber(t), queue, "#")
		s, other := newSystem(newSQLite(t), elsewhere{}), newSystem(newSQLite(t), elsewhere{})
		one.startRelay(t, s)
		s.placeOrders(t, "one", 3, 1)
		s.judge(t, inOne)
		// Had they come to the other, too, they would be there before these.
		standard.startRelay(t, other)
		other.placeOrders(t, "standard", 2, 1)
		other.judge(t, inStandard)
		if n, m := inOne.distinct(), inStandard.distinct(); n != 3 || m != 2 {
			t.Errorf("the virtual hosts have %d and %d messages, want 3 and 2", n, m)
		}
		one.with(t, func(u *url.URL) { u.Path = "/nowhere" }).refuses(t, "nowhere")
		one.with(t, func(u *url.URL) { u.User = url.UserPassword("guest", "s3cr3t") }).refuses(t, "refused")
		one.with(t, func(u *url.URL) { u.User = url.UserPassword("nobody", "s3cr3t") }).refuses(t, "refused")
	})
}

// with is the same by another URL.
func (a *access) with(t testing.TB, change func(*url.URL)) *access {
	t.Helper()
	u, err := url.Parse(a.url)
	must(t, err)
	change(u)
	other := *a
	other.url = u.String()
	return &other
}

// TestD24_SeveralHosts: the first address that answers is used, and another when it
// goes away, in the middle of the work.
func TestD24_SeveralHosts(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	eachProtocol(t, func(t *testing.T, p *protocol) {
		t.Parallel()
		there := &access{protocol: p, url: p.plain(server, server.NewVHost(t))}
		there.at(t, closedAddress(t), there.host(t)).delivers(t)
		there.at(t, there.host(t), closedAddress(t)).delivers(t)

		first, second := testenv.NewProxy(t, there.host(t)), testenv.NewProxy(t, there.host(t))
		both := there.at(t, first.Addr(), second.Addr())
		s := newSystem(newSQLite(t), elsewhere{})
		// Only such a queue keeps its order where a connection is lost.
		w := worker.New(both.openSubscriber(t), &worker.Config{Queue: "both", Logger: quiet(), InOrder: true})
		r := newRecorder(t)
		worker.Handle(w, "#", r.handle)
		r.stop = runWorker(t, w)
		theRelay := both.startRelay(t, s)
		for i, move := range []struct{ from, to *testenv.Proxy }{{first, second}, {second, first}} {
			cut := move.from.CutAfter(20_000)
			s.placeOrders(t, fmt.Sprint("until", i), 50, 5)
			select {
			case <-cut:
			case <-time.After(patience):
				t.Fatalf("move %d: the connections are with the other host", i)
			}
			move.from.Refuse()
			move.from.Cut() // who came back in between
			s.placeOrders(t, fmt.Sprint("after", i), 50, 5)
			s.judge(t, r)
			if move.to.Connections() == 0 {
				t.Error("nobody has moved")
			}
			move.from.Accept()
		}
		wantUntouched(t, s.database.(*sqlite).store, 0)
		theRelay.alive()
	})
}

// relaysByProgram has the program's own flags do it, with a key that is encrypted.
func (s *secured) relaysByProgram(t *testing.T, p *protocol, binary string, known *testenv.Identity) {
	t.Helper()
	const password = "s3cr3t"
	there, key := s.by(p, s.NewVHost(t), trusting(s.authority, known)), encryptedKey(t, known, password)
	r := startWorker(t, there.openSubscriber(t), "all", "#")
	db := newSystem(newSQLite(t), elsewhere{})
	db.placeOrders(t, "all", 10, 3)
	run := func(ca string) (string, error) {
		cmd := exec.Command(binary, "relay", "--once", "--database-url", db.databaseURL(), "--broker-url", there.url,
			"--broker-tls-ca", ca, "--broker-tls-cert", known.CertFile, "--broker-tls-key", key)
		cmd.Env = append(os.Environ(), "OUTBOX_BROKER_TLS_KEY_PASSWORD="+password)
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), password) {
			t.Errorf("the password is told: %s", out)
		}
		return string(out), err
	}
	if out, err := run(testenv.NewAuthority(t).File()); err == nil || !strings.Contains(out, "unknown authority") {
		t.Errorf("with another authority: %v\n%s", err, out)
	}
	wantUntouched(t, db.database.(*sqlite).store, 30)
	if out, err := run(s.authority.File()); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	db.judge(t, r)
}

// encryptedKey returns the path of an identity's key, as old versions of OpenSSL
// encrypt it.
func encryptedKey(t testing.TB, id *testenv.Identity, password string) string {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(id.Pair.PrivateKey.(*ecdsa.PrivateKey))
	must(t, err)
	block, err := x509.EncryptPEMBlock(rand.Reader, "EC PRIVATE KEY", der, []byte(password), x509.PEMCipherAES256) //nolint:staticcheck // such keys are in use
	must(t, err)
	path := filepath.Join(t.TempDir(), "key.pem")
	must(t, os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
	return path
}
