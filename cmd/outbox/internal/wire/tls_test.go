package wire

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/youmark/pkcs8"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/internal/testenv"
)

const keyPassword = "geheim, geheim"

func pemFile(t *testing.T, blocks ...*pem.Block) string {
	t.Helper()
	var text []byte
	for _, b := range blocks {
		text = append(text, pem.EncodeToMemory(b)...)
	}
	path := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func legacyBlock(t *testing.T, kind string, der []byte) *pem.Block {
	t.Helper()
	b, err := x509.EncryptPEMBlock(rand.Reader, kind, der, []byte(keyPassword), x509.PEMCipherAES256) //nolint:staticcheck // what we are to read
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestKeysAreReadInTheirForms(t *testing.T) {
	t.Parallel()
	authority := testenv.NewAuthority(t)
	id := authority.Issue("app")
	key := id.Pair.PrivateKey.(*ecdsa.PrivateKey)
	ec, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := pkcs8.MarshalPrivateKey(key, []byte(keyPassword), nil)
	if err != nil {
		t.Fatal(err)
	}
	certificate := &pem.Block{Type: "CERTIFICATE", Bytes: id.Pair.Certificate[0]}
	for name, tc := range map[string]struct{ path, password string }{
		"PKCS #8":             {id.KeyFile, ""},
		"a password too many": {id.KeyFile, keyPassword},
		"EC":                  {pemFile(t, &pem.Block{Type: "EC PARAMETERS"}, &pem.Block{Type: "EC PRIVATE KEY", Bytes: ec}), ""},
		"behind certificate":  {pemFile(t, certificate, &pem.Block{Type: "EC PRIVATE KEY", Bytes: ec}), ""},
		"encrypted PKCS #8":   {pemFile(t, &pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: encrypted}), keyPassword},
		"encrypted PEM":       {pemFile(t, legacyBlock(t, "EC PRIVATE KEY", ec)), keyPassword},
	} {
		got, err := brokerTLS(config.TLS{CA: authority.File(), Cert: id.CertFile, Key: tc.path, KeyPassword: tc.password, ServerName: "mq.example"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !key.Equal(got.Certificates[0].PrivateKey) || !got.RootCAs.Equal(authority.Pool()) || got.ServerName != "mq.example" || got.MinVersion != tls.VersionTLS12 {
			t.Errorf("%s: got another configuration: %+v", name, got)
		}
	}
	if got, err := brokerTLS(config.TLS{}); got != nil || err != nil {
		t.Errorf("no keys: got %+v, %v, want the driver's default", got, err)
	}
}

func TestTLSFaultsNameTheirKeys(t *testing.T) {
	t.Parallel()
	id := testenv.NewAuthority(t).Issue("app")
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	encrypted, err := pkcs8.MarshalPrivateKey(other, []byte(keyPassword), nil)
	if err != nil {
		t.Fatal(err)
	}
	protected := pemFile(t, &pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: encrypted})
	legacy := pemFile(t, legacyBlock(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(other)))
	broken := pemFile(t, &pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})
	none := filepath.Join(t.TempDir(), "none.pem")
	for _, tc := range []struct {
		url   string
		flags map[string]string
		want  []string
	}{
		{"amqps://h/", map[string]string{"ca": none, "cert": none, "key": none}, []string{
			`broker.tls.ca "` + none + `" (flag --broker-tls-ca): cannot be read: no such file`, "broker.tls.cert \"", "broker.tls.key \""}},
		{"amqps://h/", map[string]string{"ca": id.KeyFile}, []string{"broker.tls.ca", "no certificate in it", "BEGIN CERTIFICATE"}},
		{"amqps://h/", map[string]string{"ca": broken}, []string{"broker.tls.ca", "number 1"}},
		{"amqps://h/", map[string]string{"cert": id.CertFile}, []string{"broker.tls.cert", "by tls.key"}},
		{"amqps://h/", map[string]string{"key": id.KeyFile}, []string{"broker.tls.key", "by tls.cert"}},
		{"amqps://h/", map[string]string{"cert": id.CertFile, "key": id.CertFile}, []string{"broker.tls.key", "no private key in it"}},
		{"amqps://h/", map[string]string{"cert": id.CertFile, "key": protected}, []string{"broker.tls.key", "is encrypted", "tls.key_password"}},
		{"amqps://h/", map[string]string{"cert": id.CertFile, "key": legacy}, []string{"broker.tls.key", "is encrypted", "tls.key_password"}},
		{"amqps://h/", map[string]string{"cert": id.CertFile, "key": protected, "key_password": "geheime"}, []string{
			`broker.tls.key_password "xxxxx" (flag --broker-tls-key-password): does not open the private key`}},
		{"amqps://h/", map[string]string{"cert": id.CertFile, "key": legacy, "key_password": "geheime"}, []string{"broker.tls.key_password", "does not open"}},
		{"nats://h", map[string]string{"cert": id.CertFile, "key": protected, "key_password": keyPassword}, []string{"broker.tls.key", "does not go with the certificate"}},
		{"amqp://h/", map[string]string{"ca": id.CertFile}, []string{"broker.url", "is not encrypted", "amqps://"}},
	} {
		s := config.Sources{Flags: map[string][]string{"broker.url": {tc.url}}}
		for name, value := range tc.flags {
			s.Flags["broker.tls."+name] = []string{value}
		}
		l := config.Load(s)
		CheckBroker(l)
		wantProblem(t, l, tc.want)
	}
}

func wantProblem(t *testing.T, l *config.Loaded, texts []string) {
	t.Helper()
	err := l.Err()
	if err == nil {
		t.Fatalf("nothing is wrong, want %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("problems\n%v\ndo not say %q", err, text)
		}
	}
	if strings.Contains(err.Error(), "geheim") {
		t.Errorf("problems\n%v\nshow a password", err)
	}
}

func TestTLSOfRoutesIsChecked(t *testing.T) {
	t.Parallel()
	id := testenv.NewAuthority(t).Issue("app")
	for text, want := range map[string][]string{
		// Of its own, all of it.
		"broker: {tls: {cert: " + id.CertFile + ", key: " + id.KeyFile + "}}\nroutes:\n  a: {topics: a, broker_url: 'amqps://h/', tls_cert: none.pem}": {
			`routes.a.tls_cert "none.pem"`, "outbox.yaml:3)", "by tls.key"},
		"routes:\n  a: {topics: a, broker_url: 'amqps://h/', tls_cert: " + id.CertFile + ", tls_key: none, tls_key_password: geheim}": {`routes.a.tls_key "none"`, "cannot be read"},
		"routes:\n  a: {topics: a, broker_url: 'amqp://h/', tls_ca: " + id.CertFile + "}":                                             {`routes.a.broker_url "amqp://h/"`, "is not encrypted"},
		// That of all.
		"broker: {tls: {ca: none}}\nroutes:\n  a: {topics: a, broker_url: 'amqps://h/'}": {`broker.tls.ca "none"`, "cannot be read"},
	} {
		l := loadRoutes(t, text)
		CheckRoutes(l)
		wantProblem(t, l, want)
	}
	l := loadRoutes(t, "broker: {url: 'amqp://h/', tls: {ca: "+id.CertFile+"}}\nroutes:\n  a: {topics: a}\n  b: {topics: b, broker_url: 'amqps://h/'}")
	if CheckRoutes(l); l.Err() != nil {
		t.Errorf("TLS for the one of two brokers that has it: %v", l.Err())
	}
}

func loadRoutes(t *testing.T, text string) *config.Loaded {
	t.Helper()
	path := filepath.Join(t.TempDir(), "outbox.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load(config.Sources{File: path})
}

// TestNATSWithTLS publishes to a server that wants to know its clients.
func TestNATSWithTLS(t *testing.T) {
	t.Parallel()
	authority := testenv.NewAuthority(t)
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		TLS: true, TLSVerify: true, TLSConfig: serverTLS(authority),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server does not come up")
	}
	wantKnownOnly(t, authority, config.Broker{URL: fmt.Sprintf("nats://localhost:%d", s.Addr().(interface{ AddrPort() netip.AddrPort }).AddrPort().Port()), Stream: "s", SubjectPrefix: "s."})
}

// TestHTTPSWithTLS posts to a server that wants to know its clients.
func TestHTTPSWithTLS(t *testing.T) {
	t.Parallel()
	authority := testenv.NewAuthority(t)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	s.TLS = serverTLS(authority)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	wantKnownOnly(t, authority, config.Broker{URL: strings.Replace(s.URL, "127.0.0.1", "localhost", 1)})
}

func serverTLS(authority *testenv.Authority) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{authority.Issue("broker", "localhost").Pair},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: authority.Pool(), MinVersion: tls.VersionTLS12,
	}
}

// wantKnownOnly wants a message to be taken by a server that wants certificates of
// the authority, if both ends know one another.
func wantKnownOnly(t *testing.T, authority *testenv.Authority, c config.Broker) {
	t.Helper()
	client := authority.Issue("app")
	for name, tc := range map[string]struct {
		tls  config.TLS
		want string
	}{
		"known":                  {config.TLS{CA: authority.File(), Cert: client.CertFile, Key: client.KeyFile}, ""},
		"without certificate":    {config.TLS{CA: authority.File()}, "tls"}, // the client does not always get to see the alert
		"trusts nobody":          {config.TLS{Cert: client.CertFile, Key: client.KeyFile}, "unknown authority"},
		"asks for somebody else": {config.TLS{CA: authority.File(), Cert: client.CertFile, Key: client.KeyFile, ServerName: "other"}, "other"},
	} {
		c.TLS = tc.tls
		err := publishOne(t, c)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, tc.want)
		}
	}
}

func publishOne(t *testing.T, c config.Broker) error {
	t.Helper()
	p, err := OpenPublisher(c, io.Discard, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	answer := make(chan error, 1)
	p.Publish(t.Context(), &outbox.Message{ID: "1", Topic: "a", Payload: []byte("x"), ContentType: outbox.ContentTypeBytes}, func(err error) { answer <- err })
	return <-answer
}
