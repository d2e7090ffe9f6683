package stomp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTLSToRabbitMQ(t *testing.T) {
	t.Parallel()
	config := rabbit(t)
	certs := newCertificates(t)
	target := config.Addr
	config.Addr = certs.serve(t, &tls.Config{}, func(p *peer) { join(p.Conn, target) })
	config.TLS = &tls.Config{RootCAs: certs.pool, MinVersion: tls.VersionTLS12}
	c := dial(t, config)
	frame := &Frame{Command: Send, Body: make([]byte, 1<<20), Headers: []Header{{"destination", "/queue/a"}, {"receipt", "1"}}}
	write(t, c, frame)
	if f, err := c.Read(); err != nil || f.Command != Receipt {
		t.Errorf("got %v, %v, want a receipt", f, err)
	}
	if config.TLS.ServerName != "" {
		t.Error("the caller's TLS configuration was changed")
	}
}

func TestServerIsVerified(t *testing.T) {
	t.Parallel()
	certs, others := newCertificates(t), newCertificates(t)
	addr := certs.serve(t, &tls.Config{}, func(p *peer) { p.greet("") })
	for name, test := range map[string]struct {
		config *tls.Config
		want   string
	}{
		"unknown authority": {&tls.Config{}, "certificate"},
		"other authority":   {&tls.Config{RootCAs: others.pool}, "certificate"},
		"other name":        {&tls.Config{RootCAs: certs.pool, ServerName: "other.example"}, "not other.example"},
		"its second name":   {&tls.Config{RootCAs: certs.pool, ServerName: "broker.example"}, ""},
	} {
		test.config.MinVersion = tls.VersionTLS12
		c, err := Dial(testContext(t), &Config{Addr: addr, TLS: test.config})
		if err == nil {
			_ = c.Close()
		}
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		certs := newCertificates(t)
		demanding := &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: certs.pool, MaxVersion: version}
		addr := certs.serve(t, demanding, func(p *peer) { p.greet("session:for " + subject(p) + "\n") })
		config := &tls.Config{RootCAs: certs.pool, MinVersion: version}
		if _, err := Dial(testContext(t), &Config{Addr: addr, TLS: config}); err == nil || !strings.Contains(err.Error(), "tls: ") {
			t.Errorf("without a certificate: %v", err)
		}
		config.Certificates = []tls.Certificate{certs.issue(t, "service")}
		if c := dial(t, &Config{Addr: addr, TLS: config}); c.Session() != "for service" {
			t.Errorf("the server took us for %q", c.Session())
		}
	}
}

// subject returns the name in the certificate of the client, or "".
func subject(p *peer) string {
	conn := p.Conn.(*tls.Conn)
	if conn.Handshake() != nil {
		return ""
	}
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func TestTLSWithAServerThatSpeaksNone(t *testing.T) {
	t.Parallel()
	addr := serve(t, func(p *peer) { p.say("ERROR\nmessage:what?\n\n\x00") })
	_, err := Dial(testContext(t), &Config{Addr: addr, TLS: &tls.Config{MinVersion: tls.VersionTLS12}})
	if err == nil || !strings.Contains(err.Error(), "does not look like a TLS handshake") {
		t.Errorf("got %v", err)
	}
}

func TestNoTLSWithAServerThatWantsIt(t *testing.T) {
	t.Parallel()
	addr := newCertificates(t).serve(t, &tls.Config{}, func(p *peer) { p.greet("") })
	if _, err := Dial(testContext(t), &Config{Addr: addr}); err == nil {
		t.Error("connected without TLS")
	}
}

func TestTimeoutBoundsTLS(t *testing.T) {
	t.Parallel()
	addr := serve(t, func(p *peer) { p.wait() })
	config := &Config{Addr: addr, Timeout: 50 * time.Millisecond, TLS: &tls.Config{MinVersion: tls.VersionTLS12}}
	if _, err := Dial(testContext(t), config); err == nil || !strings.Contains(err.Error(), "within 50ms") {
		t.Errorf("got %v", err)
	}
}

// A server that takes no bytes must not hold up the end of a connection, for which
// TLS has a message of its own.
func TestCloseWithTLSDoesNotWaitForTheServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		certs := newCertificates(t)
		ours, theirs := net.Pipe()
		go newPeer(tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{certs.issue(t, "broker")}})).greet("")
		config := &tls.Config{RootCAs: certs.pool, MinVersion: tls.VersionTLS12}
		c, err := openWithin(t, ours, &Config{Addr: "127.0.0.1:61614", TLS: config})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_ = c.Close()
		if passed := time.Since(began); passed != 0 {
			t.Errorf("Close took %v", passed)
		}
		_ = theirs.Close()
	})
}

// certificates issues certificates.
type certificates struct {
	authority *x509.Certificate
	key       *ecdsa.PrivateKey
	pool      *x509.CertPool
}

func newCertificates(t *testing.T) *certificates {
	t.Helper()
	c := &certificates{key: newKey(t), pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &c.key.PublicKey, c.key)
	if err != nil {
		t.Fatal(err)
	}
	if c.authority, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	c.pool.AddCert(c.authority)
	return c
}

// issue returns a certificate of that name, for 127.0.0.1 and broker.example.
func (c *certificates) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"broker.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.authority, &key.PublicKey, c.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// serve is the function serve behind TLS.
func (c *certificates) serve(t *testing.T, config *tls.Config, script func(p *peer)) string {
	t.Helper()
	config.Certificates = []tls.Certificate{c.issue(t, "broker")}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, script)
}

// join copies between client and target until the client ends.
func join(client net.Conn, target string) {
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(client, server)
		_ = client.Close()
	}()
	_, _ = io.Copy(server, client)
	_ = server.Close()
	<-done
}
