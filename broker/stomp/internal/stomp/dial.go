package stomp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// version is the one that is spoken.
const version = "1.2"

// Config says how to connect.
type Config struct {
	// Addr is the address of the server, host:port.
	Addr string
	// TLS asks for TLS. Its ServerName is the host of Addr where it is empty; with
	// certificates of its own it is mutual TLS. Nil means none.
	TLS *tls.Config
	// Host is the virtual host. Defaults to "/".
	Host string
	// Login and Passcode are not sent where both are empty.
	Login, Passcode string
	// Send is the interval of our heart-beats that is offered, 0 for none. The
	// server may ask for less.
	Send time.Duration
	// Receive is the interval of the server's heart-beats that is asked for, 0 for
	// none. Without them a server that is gone may not be noticed.
	Receive time.Duration
	// Timeout bounds connecting, TLS and CONNECTED together. Defaults to 10 s.
	Timeout time.Duration
	// WriteTimeout is how long the server may take no bytes of us before the
	// connection counts as broken. Defaults to 30 s.
	WriteTimeout time.Duration
	// Limits bound what the server may send.
	Limits Limits
}

// Validate returns all that is wrong with c, before anything is connected. Dial calls
// it, too.
func (c *Config) Validate() error {
	var errs []error
	if host, port, err := net.SplitHostPort(c.Addr); err != nil || host == "" || port == "" {
		errs = append(errs, fmt.Errorf("Addr is %q: want host:port", c.Addr))
	}
	for _, f := range []struct {
		name  string
		value time.Duration
	}{
		{"Send", c.Send}, {"Receive", c.Receive}, {"Timeout", c.Timeout}, {"WriteTimeout", c.WriteTimeout},
	} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("%s is %v: want 0 or more", f.name, f.value))
		}
	}
	return errors.Join(append(errs, c.Limits.validate())...)
}

func (c *Config) withDefaults() *Config {
	d := *c
	if d.Host == "" {
		d.Host = "/"
	}
	if d.Timeout == 0 {
		d.Timeout = 10 * time.Second
	}
	if d.WriteTimeout == 0 {
		d.WriteTimeout = 30 * time.Second
	}
	return &d
}

// Dial connects and waits for CONNECTED. The end of ctx breaks that off; later it
// has no influence. An ERROR frame in the place of CONNECTED is a [*ServerError] with
// Handshake set. Errors do not name the address, nor the user.
func Dial(ctx context.Context, config *Config) (*Conn, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	config = config.withDefaults()
	ctx, cancel := config.dialing(ctx)
	defer cancel()
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "tcp", config.Addr)
	if err != nil {
		return nil, cause(ctx, err)
	}
	return open(ctx, raw, config)
}

// dialing returns the context that a connection is made in.
func (c *Config) dialing(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.Timeout,
		fmt.Errorf("no STOMP connection within %v: %w", c.Timeout, context.DeadlineExceeded))
}

// open makes a connection of raw, which it closes if that fails.
func open(ctx context.Context, raw net.Conn, config *Config) (*Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	c, err := handshake(ctx, raw, config)
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		stop()
		_ = raw.Close()
		return nil, cause(ctx, err)
	}
	c.start()
	return c, nil
}

// cause returns why ctx has ended, if it has, in the place of what that broke.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func handshake(ctx context.Context, raw net.Conn, config *Config) (*Conn, error) {
	conn := raw
	if config.TLS != nil {
		secured := tls.Client(raw, tlsConfig(config))
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		conn = secured
	}
	c := newConn(raw, conn, config)
	if err := c.Write(connectFrame(config)); err != nil {
		return nil, err
	}
	if err := c.Flush(); err != nil {
		return nil, err
	}
	answer, err := c.decoder.Decode()
	if err != nil {
		return nil, ended(err)
	}
	return c, c.accept(answer, config)
}

func tlsConfig(config *Config) *tls.Config {
	t := config.TLS.Clone()
	if t.ServerName == "" {
		t.ServerName, _, _ = net.SplitHostPort(config.Addr) // it was dialed
	}
	return t
}

// connectFrame returns the first frame. It is STOMP in the place of CONNECT where
// that makes a difference: the headers of STOMP are escaped, those of CONNECT must
// not be, and RabbitMQ reads both as escaped.
func connectFrame(config *Config) *Frame {
	f := &Frame{Command: Connect, Headers: []Header{
		{"accept-version", version},
		{"host", config.Host},
		{"heart-beat", fmt.Sprintf("%d,%d", milliseconds(config.Send), milliseconds(config.Receive))},
	}}
	if config.Login != "" || config.Passcode != "" {
		f.Headers = append(f.Headers, Header{"login", config.Login}, Header{"passcode", config.Passcode})
	}
	if strings.ContainsAny(config.Host+config.Login+config.Passcode, "\\\r\n") {
		f.Command = Stomp
	}
	return f
}

// accept takes the answer to CONNECT.
func (c *Conn) accept(answer *Frame, config *Config) error {
	switch answer.Command {
	case Connected:
	case Error:
		return serverError(withoutPasscode(answer, config.Passcode), true)
	default:
		return protocolError("the server answers CONNECT by %s", answer.Command)
	}
	// STOMP 1.0 has no such header.
	if v, ok := answer.Get("version"); v != version {
		if !ok {
			v = "1.0"
		}
		return protocolError("the server speaks STOMP %q, want %s", excerpt([]byte(v)), version)
	}
	c.session, _ = answer.Get("session")
	c.server, _ = answer.Get("server")
	beats, _ := answer.Get("heart-beat")
	var err error
	c.beatEvery, c.silence, err = negotiate(config.Send, config.Receive, beats)
	return err
}

// withoutPasscode removes the passcode from an ERROR frame that repeats the CONNECT
// frame, as the protocol's own example does.
func withoutPasscode(f *Frame, passcode string) *Frame {
	if passcode == "" {
		return f
	}
	const name, hidden = "passcode:", "passcode:xxxxx"
	escaped, _ := appendEscaped(nil, passcode, false)
	for _, form := range []string{passcode, string(escaped)} {
		for i := range f.Headers {
			f.Headers[i].Value = strings.ReplaceAll(f.Headers[i].Value, name+form, hidden)
		}
		f.Body = bytes.ReplaceAll(f.Body, []byte(name+form), []byte(hidden))
	}
	return f
}
