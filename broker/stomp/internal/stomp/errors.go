package stomp

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

var (
	// ErrClosed is returned from a connection that was closed by its user.
	ErrClosed = errors.New("connection closed")
	// ErrSilent is wrapped by the error of a connection whose peer has sent neither
	// a frame nor a heart-beat for too long.
	ErrSilent = errors.New("the server is silent")
	// errLost is an end that the server gives no reason for.
	errLost = errors.New("the server has closed the connection")
)

// ProtocolError says what a peer has sent that STOMP 1.2 does not allow. The
// connection cannot be used any more.
type ProtocolError struct{ Reason string }

func (e *ProtocolError) Error() string { return "STOMP protocol error: " + e.Reason }

func protocolError(format string, args ...any) error {
	return &ProtocolError{fmt.Sprintf(format, args...)}
}

// LimitError says that a peer has sent more than [Limits] allows. The connection
// cannot be used any more.
type LimitError struct {
	What  string // what is too much
	Value int64  // how much it is, or 0 if only that it is more is known
	Limit int
}

func (e *LimitError) Error() string {
	if e.Value > 0 {
		return fmt.Sprintf("STOMP limit exceeded: %s is %d, at most %d is taken", e.What, e.Value, e.Limit)
	}
	return fmt.Sprintf("STOMP limit exceeded: %s is more than %d", e.What, e.Limit)
}

// maxServerError is how much of an ERROR frame's message and body is kept, each.
const maxServerError = 2 << 10

// ServerError is an ERROR frame. The server closes the connection after it.
type ServerError struct {
	Message   string // the header message, in short what is wrong
	Body      string // what else the server says of it; its first 2 KiB
	ReceiptID string // the receipt that the refused frame asked for, if the server tells
	Handshake bool   // it answers CONNECT
}

func (e *ServerError) Error() string {
	text := "the server answers"
	if e.Message != "" {
		text += ": " + e.Message
	}
	if e.Body != "" && e.Body != e.Message {
		text += ": " + e.Body
	}
	return text
}

// CredentialsRefused reports whether RabbitMQ has refused the login and passcode, so
// that connecting again with them cannot help. A virtual host that does not exist, or
// that the user has no right to, is not counted: RabbitMQ uses the same words for one
// that has too many connections.
func (e *ServerError) CredentialsRefused() bool {
	return e.Handshake && strings.HasPrefix(e.Body, "Access refused for user")
}

// serverError returns the error that an ERROR frame is.
func serverError(f *Frame, handshake bool) *ServerError {
	message, _ := f.Get("message")
	receipt, _ := f.Get("receipt-id")
	return &ServerError{
		Message: printable(message), Body: printable(string(f.Body[:min(len(f.Body), maxServerError)])),
		ReceiptID: receipt, Handshake: handshake,
	}
}

// printable returns the beginning of text in one line.
func printable(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), maxServerError)], "")
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	return strings.Join(strings.Fields(text), " ")
}
