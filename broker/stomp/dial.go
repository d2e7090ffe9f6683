package stomp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

// closeTimeout bounds the orderly end of a connection.
const closeTimeout = 2 * time.Second

// endpoint is a broker that can be connected to.
type endpoint struct {
	*address
	config Connection
}

// newEndpoint validates rawURL and takes it apart; errs are the faults found
// before, which it reports with its own.
func newEndpoint(rawURL string, c Connection, errs []error) (*endpoint, error) {
	a, err := parseAddress(rawURL)
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("stomp: %w", err)
	}
	return &endpoint{address: a, config: c}, nil
}

// connectError is why none of the hosts could be connected to.
type connectError []error

func (e connectError) Error() string   { return errors.Join(e...).Error() }
func (e connectError) Unwrap() []error { return e }

// connect tries the hosts in their order. The end of ctx breaks it off; later it has
// no influence.
func (e *endpoint) connect(ctx context.Context) (*stomp.Conn, error) {
	var errs connectError
	for _, host := range e.hosts {
		conn, err := stomp.Dial(ctx, e.dialConfig(host))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("connect to %s, vhost %q: %w", host, e.vhost, err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errs
}

func (e *endpoint) dialConfig(host string) *stomp.Config {
	c := &stomp.Config{
		Addr: host, Host: e.vhost, Login: e.login, Passcode: e.pass,
		Send: e.config.SendHeartbeat, Receive: e.config.ReceiveHeartbeat, Timeout: e.config.DialTimeout,
		Limits: stomp.Limits{Headers: 1 << 15}, // others may give messages more than we do
	}
	if e.scheme == "stomps" {
		c.TLS = e.config.TLS
		if c.TLS == nil {
			c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	}
	return c
}

// hopeless reports whether connecting again, with the same configuration, cannot
// help: each host has refused the credentials or has a certificate that is not
// trusted.
func hopeless(err error) bool {
	var hosts connectError
	if !errors.As(err, &hosts) {
		return false
	}
	for _, err := range hosts {
		var certificate *tls.CertificateVerificationError
		var server *stomp.ServerError
		if !errors.As(err, &certificate) && (!errors.As(err, &server) || !server.CredentialsRefused()) {
			return false
		}
	}
	return true
}

// part ends a connection in order, so that the broker has taken all that was
// written, or abruptly if that takes too long. Somebody else reads.
func part(conn *stomp.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.Disconnect(ctx) // lost or not, it is closed
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
