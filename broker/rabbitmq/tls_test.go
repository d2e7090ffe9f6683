package rabbitmq

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"maps"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
)

func TestTLS(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	address, roots := encrypted(t, server.NewVHost(t))
	trusting := Connection{TLS: &tls.Config{RootCAs: roots, ServerName: "example.com", MinVersion: tls.VersionTLS12}}
	in := subscribe(t, address, &SubscriberConfig{Connection: trusting}, all(100))
	in.waitReady()
	p := newPublisher(t, address, &PublisherConfig{Connection: trusting})
	msgs := testMessages("a", 1000)
	if failed := publishAgain(t, p, msgs); failed != nil {
		t.Fatal(failed)
	}
	for _, m := range msgs {
		if r := in.next(); r.ID != m.ID || r.Settle(outbox.Settlement{Outcome: outbox.Ack}) != nil {
			t.Fatalf("got message %s, want %s", r.ID, m.ID)
		}
	}
}

func TestUntrustedCertificateIsReported(t *testing.T) {
	t.Parallel()
	address, _ := encrypted(t, testenv.RabbitMQ(t).NewVHost(t))
	if err := subscribe(t, address, nil, all(1)).waitEnd(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Subscribe returned %v, want what is wrong with the certificate", err)
	}
	wantErr(t, publishOne(t, newPublisher(t, address, nil), testMessages("a", 1)[0]), outbox.ErrUnavailable, "certificate")
}

// TestTLSByTheURL: the URL's parameters say whom to trust, whom to expect and what to
// show.
func TestTLSByTheURL(t *testing.T) {
	t.Parallel()
	vhost := testenv.RabbitMQ(t).NewVHost(t)
	web := httptest.NewUnstartedServer(nil) // its certificate is for example.com and 127.0.0.1
	web.StartTLS()
	web.Close()
	web.TLS.ClientAuth = tls.RequireAnyClientCert
	address := encryptedBy(t, vhost, web.TLS)
	key, err := x509.MarshalPKCS8PrivateKey(web.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	ca := pemFile(t, "CERTIFICATE", web.Certificate().Raw)
	shown := url.Values{"certfile": {ca}, "keyfile": {pemFile(t, "PRIVATE KEY", key)}}
	trusted := url.Values{"cacertfile": {ca}}
	for name, c := range map[string]struct {
		host       string
		parameters []url.Values
		fault      string
	}{
		"all":            {"127.0.0.1", []url.Values{trusted, shown}, ""},
		"another name":   {"127.0.0.1", []url.Values{trusted, shown, {"server_name_indication": {"example.com"}}}, ""},
		"not its name":   {"127.0.0.1", []url.Values{trusted, shown, {"server_name_indication": {"example.org"}}}, "not example.org"},
		"not the host":   {"localhost", []url.Values{trusted, shown}, "not localhost"},
		"not trusted":    {"127.0.0.1", []url.Values{shown}, "unknown authority"},
		"nothing shown":  {"127.0.0.1", []url.Values{trusted}, "connect to amqps"}, // the alert may come behind the end
		"no file":        {"127.0.0.1", []url.Values{{"cacertfile": {ca + "x"}}}, ca + "x"},
		"no certificate": {"127.0.0.1", []url.Values{{"cacertfile": {shown.Get("keyfile")}}}, shown.Get("keyfile") + " has no certificate"},
		"no key":         {"127.0.0.1", []url.Values{trusted, {"certfile": {ca}, "keyfile": {ca}}}, "load client certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			u.Host = net.JoinHostPort(c.host, u.Port())
			query := url.Values{}
			for _, p := range c.parameters {
				maps.Copy(query, p)
			}
			u.RawQuery = query.Encode()
			p := newPublisher(t, u.String(), &PublisherConfig{Connection: quick, Unroutable: Accept})
			err = publishOne(t, p, testMessages("a", 1)[0])
			if c.fault == "" && err != nil {
				t.Fatal(err)
			}
			if c.fault != "" {
				wantErr(t, err, outbox.ErrUnavailable, c.fault)
			}
		})
	}
}

func pemFile(t *testing.T, kind string, der []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "pem")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// encrypted puts TLS before the broker at address, and returns the address of that,
// with the certificates to trust.
func encrypted(t *testing.T, address string) (string, *x509.CertPool) {
	t.Helper()
	// It has a certificate for example.com.
	web := httptest.NewUnstartedServer(nil)
	web.StartTLS()
	web.Close()
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	return encryptedBy(t, address, web.TLS), roots
}

// encryptedBy puts TLS of that configuration before the broker at address, and
// returns the address of that.
func encryptedBy(t *testing.T, address string, config *tls.Config) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	target := u.Host
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { join(client, target) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	u.Scheme, u.Host = "amqps", l.Addr().String()
	return u.String()
}

// join copies between client and target until either ends.
func join(client net.Conn, target string) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(server, client)
		_ = server.Close()
	}()
	_, _ = io.Copy(client, server)
	_ = client.Close()
	<-done
}
