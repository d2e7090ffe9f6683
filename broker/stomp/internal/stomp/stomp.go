// Package stomp is a client of STOMP 1.2.
package stomp

import (
	"context"
	"crypto/tls"
	"errors"
	"time"
)

// Header is one header of a frame. Of several with one name the first counts.
type Header struct{ Name, Value string }

// Frame is a frame of the protocol, with its headers not escaped.
type Frame struct {
	Command string
	Headers []Header
	Body    []byte
}

// Config says how to connect.
type Config struct {
	Addr      string
	TLS       *tls.Config // nil for none
	Host      string      // the virtual host
	Login     string
	Passcode  string
	Send      time.Duration // own heart-beats, 0 for none
	Receive   time.Duration // wanted heart-beats
	Timeout   time.Duration // for connecting, TLS and CONNECTED together
	MaxBody   int           // limits on what the peer may send
	MaxHeader int
}

// Conn is a connection. Write and Flush may be called from any goroutine; Read from
// one at a time.
type Conn struct{}

// Dial connects and waits for CONNECTED.
func Dial(ctx context.Context, c *Config) (*Conn, error) { return nil, errors.ErrUnsupported }

// Write puts a frame into the buffer; heart-beats are sent by the connection.
func (c *Conn) Write(f *Frame) error { return nil }

// Flush sends what is in the buffer.
func (c *Conn) Flush() error { return nil }

// Read returns the next frame. An ERROR frame is an error, *ServerError.
func (c *Conn) Read() (*Frame, error) { return nil, errors.ErrUnsupported }

// Close ends the connection at once.
func (c *Conn) Close() error { return nil }
