package rabbitmq

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// closeTimeout bounds the orderly end of a connection.
const closeTimeout = 2 * time.Second

// endpoint is a broker that can be connected to, by the first of its addresses
// that answers.
type endpoint struct {
	addresses []address // at least one
	sasl      []amqp.Authentication
	config    Connection
}

// connection is an open connection and the socket below it.
type connection struct {
	*amqp.Connection
	address *address
	socket  *socket
	closed  chan *amqp.Error
}

// connect opens a connection and calls setup with it; where either fails it goes
// on to the next address. The end of ctx breaks both off; later it has no
// influence.
func (e *endpoint) connect(ctx context.Context, setup func(*connection) error) error {
	var failed failures
	for i := range e.addresses {
		err := e.connectTo(ctx, &e.addresses[i], setup)
		if err == nil {
			for _, err := range failed {
				e.config.Logger.Warn("connected to another broker", "error", err)
			}
			return nil
		}
		failed = append(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(failed) == 1 {
		return failed[0]
	}
	return failed
}

func (e *endpoint) connectTo(ctx context.Context, a *address, setup func(*connection) error) error {
	var s *socket
	stop := func() bool { return true }
	defer func() { stop() }()
	dial := func(string, string) (net.Conn, error) {
		dialer := net.Dialer{Deadline: time.Now().Add(e.config.DialTimeout)}
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(a.uri.Host, strconv.Itoa(a.uri.Port)))
		if err != nil {
			return nil, err
		}
		// It bounds the handshakes, too; the library lifts it afterwards.
		_ = conn.SetDeadline(dialer.Deadline)
		if conn, err = e.encrypted(ctx, a, conn); err != nil {
			return nil, err
		}
		s = newSocket(conn)
		stop = context.AfterFunc(ctx, s.breakOff)
		return s, nil
	}
	conn, err := amqp.DialConfig(a.plain(), e.amqpConfig(dial))
	if err != nil {
		if s != nil {
			s.abort()
		}
		return fmt.Errorf("connect to %v: %w", a, handshakeError(err))
	}
	c := &connection{Connection: conn, address: a, socket: s, closed: conn.NotifyClose(make(chan *amqp.Error, 1))}
	if err := setup(c); err != nil {
		c.close()
		return err
	}
	return nil
}

// encrypted returns conn with TLS, if the address wants that. The library, which
// could do it, too, would put it above the socket, and no frame could be seen.
func (e *endpoint) encrypted(ctx context.Context, a *address, conn net.Conn) (net.Conn, error) {
	if a.uri.Scheme != "amqps" {
		return conn, nil
	}
	config, err := tlsConfig(e.config.TLS, a.uri)
	if err == nil {
		client := tls.Client(conn, config)
		if err = client.HandshakeContext(ctx); err == nil {
			return client, nil
		}
	}
	_ = conn.Close()
	return nil, err
}

// tlsConfig returns the configuration for a host, from that of all or, if it is nil,
// from the URL's parameters.
func tlsConfig(all *tls.Config, uri amqp.URI) (*tls.Config, error) {
	config := all.Clone()
	if config == nil {
		config = &tls.Config{ServerName: uri.ServerName, MinVersion: tls.VersionTLS12}
		if uri.CACertFile != "" {
			data, err := os.ReadFile(uri.CACertFile)
			if err != nil {
				return nil, fmt.Errorf("read CA certificate: %w", err)
			}
			config.RootCAs = x509.NewCertPool()
			if !config.RootCAs.AppendCertsFromPEM(data) {
				return nil, fmt.Errorf("read CA certificate: %s has no certificate in PEM", uri.CACertFile)
			}
		}
		if uri.CertFile != "" && uri.KeyFile != "" {
			certificate, err := tls.LoadX509KeyPair(uri.CertFile, uri.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("load client certificate: %w", err)
			}
			config.Certificates = []tls.Certificate{certificate}
		}
	}
	config.ServerName = cmp.Or(config.ServerName, uri.Host)
	return config, nil
}

func (e *endpoint) amqpConfig(dial func(network, addr string) (net.Conn, error)) amqp.Config {
	properties := amqp.NewConnectionProperties()
	properties["product"] = "outbox"
	properties.SetClientConnectionName(e.config.Name)
	return amqp.Config{
		SASL:       announce(e.sasl, properties),
		Heartbeat:  e.config.Heartbeat,
		Properties: properties,
		Dial:       dial,
	}
}

// abort ends the connection without asking the broker, and unblocks who writes
// to it.
func (c *connection) abort() {
	c.socket.abort()
	c.wait()
}

// close ends the connection in order, or abruptly if that takes too long.
func (c *connection) close() {
	_ = c.CloseDeadline(time.Now().Add(closeTimeout))
	c.abort()
}

// wait returns when the library has torn the connection down.
func (c *connection) wait() {
	for range c.closed {
		continue // it is closed at the end
	}
}

// handshakeError replaces the guesses that the library makes when a connection
// ends during the handshake: as it announces that it wants to be told of refused
// credentials, silence means that the connection was lost.
func handshakeError(err error) error {
	if errors.Is(err, amqp.ErrCredentials) || errors.Is(err, amqp.ErrVhost) {
		return errors.New("connection lost during the handshake")
	}
	return err
}

// hopeless reports whether connecting again, with the same configuration, cannot
// help: wrong credentials, no such vhost or no right to it, an untrusted
// certificate.
func hopeless(err error) bool {
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) || errors.Is(err, amqp.ErrSASL) {
		return true
	}
	var reply *amqp.Error
	if !errors.As(err, &reply) || !reply.Server {
		return false
	}
	switch reply.Code {
	case amqp.AccessRefused:
		return true
	case amqp.NotAllowed:
		// Limits of connections per user and vhost have this code, too.
		return !strings.Contains(reply.Reason, "limit")
	}
	return false
}

// backoff returns how long to wait before attempt n, from 0: with full jitter, so
// that the clients of a broker that returns do not arrive together.
func (c *Connection) backoff(n int) time.Duration {
	ceiling := c.ReconnectMax
	if n < 30 && c.ReconnectMin<<n < c.ReconnectMax && c.ReconnectMin<<n > 0 {
		ceiling = c.ReconnectMin << n
	}
	return rand.N(ceiling + 1)
}

// sleep waits for d and reports whether ctx has not ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// mechanisms returns the ways to authenticate that the URL asks for.
func mechanisms(uri amqp.URI) ([]amqp.Authentication, error) {
	var list []amqp.Authentication
	for _, name := range uri.AuthMechanism {
		switch strings.ToUpper(name) {
		case "PLAIN":
			list = append(list, uri.PlainAuth())
		case "AMQPLAIN":
			list = append(list, uri.AMQPlainAuth())
		case "EXTERNAL":
			list = append(list, &amqp.ExternalAuth{})
		default:
			return nil, fmt.Errorf("the URL's auth_mechanism %q is unknown: want plain, amqplain or external", name)
		}
	}
	if list == nil {
		list = append(list, uri.PlainAuth())
	}
	return list, nil
}

// announcing adds a capability to the properties that go out with the response.
// With authentication_failure_close RabbitMQ answers wrong credentials by a
// connection.close that says so, instead of closing the socket, which cannot be
// told from a broker that died. The library sets the capabilities itself, just
// before it asks for the response.
// See https://www.rabbitmq.com/docs/auth-notification.
type announcing struct {
	amqp.Authentication
	properties amqp.Table
}

func announce(list []amqp.Authentication, properties amqp.Table) []amqp.Authentication {
	wrapped := make([]amqp.Authentication, len(list))
	for i, auth := range list {
		wrapped[i] = announcing{auth, properties}
	}
	return wrapped
}

func (a announcing) Response() string {
	if capabilities, ok := a.properties["capabilities"].(amqp.Table); ok {
		capabilities["authentication_failure_close"] = true
	}
	return a.Authentication.Response()
}
