package testenv

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// TLSOptions say how a server shows its clients who it is, and they it.
type TLSOptions struct {
	// Identity is the server's. URLs of the server name the host "localhost", and its address is 127.0.0.1: an
	// identity for one of them alone is the wrong one for who uses the other.
	Identity *Identity

	// Clients, unless nil, is who must have signed the certificate that each client must have.
	Clients *Authority
}

// encryption is the TLS of a RabbitMQ server, with the ports for clients by two protocols.
type encryption struct {
	*TLSOptions
	amqp, stomp *port
}

// The names of the files in the server's folder: it may not read those of the test.
const (
	tlsCert    = "tls-cert.pem"
	tlsKey     = "tls-key.pem"
	tlsClients = "tls-clients.pem"
)

// write copies the files into the folder of the server.
func (e *encryption) write(s *server) error {
	files := map[string]string{tlsCert: e.Identity.CertFile, tlsKey: e.Identity.KeyFile}
	if e.Clients != nil {
		files[tlsClients] = e.Clients.File()
	}
	for name, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := s.write(name, string(text)); err != nil {
			return err
		}
	}
	return nil
}

// config returns the lines of rabbitmq.conf.
func (e *encryption) config(dir string) string {
	var b strings.Builder
	set := func(key, value string) { fmt.Fprintf(&b, "%s = %s\n", key, value) }
	set("listeners.ssl.1", e.amqp.addr())
	set("stomp.listeners.ssl.1", e.stomp.addr())
	set("ssl_options.certfile", filepath.Join(dir, tlsCert))
	set("ssl_options.keyfile", filepath.Join(dir, tlsKey))
	if e.Clients != nil {
		set("ssl_options.cacertfile", filepath.Join(dir, tlsClients))
		set("ssl_options.verify", "verify_peer")
		set("ssl_options.fail_if_no_peer_cert", "true")
	}
	return b.String()
}

// AMQPSURL returns the URL by which an AMQP URL of this server is used with TLS. The server was started with it.
func (r *RabbitMQServer) AMQPSURL(amqpURL string) string {
	r.tb.Helper()
	return r.secure(amqpURL, "amqps", r.encryption().amqp)
}

// STOMPSURL returns the STOMP URL, with TLS, of the virtual host and user of an AMQP URL of this server.
func (r *RabbitMQServer) STOMPSURL(amqpURL string) string {
	r.tb.Helper()
	return r.secure(amqpURL, "stomps", r.encryption().stomp)
}

func (r *RabbitMQServer) encryption() *encryption {
	r.tb.Helper()
	if r.core.tls == nil {
		r.tb.Fatal("testenv: this server has no TLS: start one by StartRabbitMQ with RabbitMQOptions.TLS")
	}
	return r.core.tls
}

func (r *RabbitMQServer) secure(rawURL, scheme string, p *port) string {
	r.tb.Helper()
	u, err := url.Parse(rawURL)
	must(r.tb, err)
	u.Scheme, u.Host = scheme, net.JoinHostPort("localhost", strconv.Itoa(p.number))
	return u.String()
}
