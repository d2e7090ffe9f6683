package rabbitmq

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http/httptest"
	"net/url"
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

// encrypted puts TLS before the broker at address, and returns the address of that,
// with the certificates to trust.
func encrypted(t *testing.T, address string) (string, *x509.CertPool) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	target := u.Host
	// It has a certificate for example.com.
	web := httptest.NewUnstartedServer(nil)
	web.StartTLS()
	web.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", web.TLS)
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
	roots := x509.NewCertPool()
	roots.AddCert(web.Certificate())
	return u.String(), roots
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
