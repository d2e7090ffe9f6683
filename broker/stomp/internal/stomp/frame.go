package stomp

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// The commands of STOMP 1.2.
const (
	Abort       = "ABORT"
	Ack         = "ACK"
	Begin       = "BEGIN"
	Commit      = "COMMIT"
	Connect     = "CONNECT"
	Connected   = "CONNECTED"
	Disconnect  = "DISCONNECT"
	Error       = "ERROR"
	Message     = "MESSAGE"
	Nack        = "NACK"
	Receipt     = "RECEIPT"
	Send        = "SEND"
	Stomp       = "STOMP"
	Subscribe   = "SUBSCRIBE"
	Unsubscribe = "UNSUBSCRIBE"
)

// contentLength is the header that belongs to the codec: it is made from the body,
// and not shown.
const contentLength = "content-length"

// Header is one header of a frame.
type Header struct{ Name, Value string }

// Frame is a frame of the protocol, its headers without escapes. A content-length
// in Headers is neither sent nor received: it is the length of Body.
type Frame struct {
	Command string
	Headers []Header // of several with one name the first counts
	Body    []byte
}

// Get returns the value of the first header of that name, and whether there is one.
func (f *Frame) Get(name string) (string, bool) {
	for i := range f.Headers {
		if f.Headers[i].Name == name {
			return f.Headers[i].Value, true
		}
	}
	return "", false
}

// Add adds a header behind those there are.
func (f *Frame) Add(name, value string) {
	f.Headers = append(f.Headers, Header{name, value})
}

// AppendFrame appends the bytes of f to b. The error says what cannot be sent; it
// names headers and quotes no value.
func AppendFrame(b []byte, f *Frame) ([]byte, error) {
	b, err := appendHead(b, f)
	if err != nil {
		return nil, err
	}
	b = append(b, f.Body...)
	return append(b, 0), nil
}

// appendHead appends all that is before the body.
func appendHead(b []byte, f *Frame) ([]byte, error) {
	if commandOf([]byte(f.Command)) == "" {
		return nil, fmt.Errorf("%q is not a command of STOMP 1.2", f.Command)
	}
	b = append(b, f.Command...)
	b = append(b, '\n')
	appendText := appendEscaped
	if !escapes(f.Command) {
		appendText = appendPlain
	}
	for i := range f.Headers {
		h := &f.Headers[i]
		if h.Name == contentLength {
			continue
		}
		if h.Name == "" {
			return nil, errors.New("a header has no name")
		}
		var ok bool
		if b, ok = appendText(b, h.Name, true); !ok {
			return nil, fmt.Errorf("a header's name has a character that %s cannot send: %q", f.Command, h.Name)
		}
		b = append(b, ':')
		if b, ok = appendText(b, h.Value, false); !ok {
			return nil, fmt.Errorf("header %s has a line end, which %s cannot send", h.Name, f.Command)
		}
		b = append(b, '\n')
	}
	b = append(b, contentLength+":"...)
	b = strconv.AppendInt(b, int64(len(f.Body)), 10)
	return append(b, "\n\n"...), nil
}

// escapes reports whether the headers of a command are escaped. Those of CONNECT
// and CONNECTED are not, to be understood by STOMP 1.0.
func escapes(command string) bool { return command != Connect && command != Connected }

// appendPlain appends s as it is, and reports whether that can be undone.
func appendPlain(b []byte, s string, name bool) ([]byte, bool) {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\r' || c == '\n' || name && c == ':':
			return b, false
		}
	}
	return append(b, s...), true
}

// appendEscaped appends s with its special characters escaped.
func appendEscaped(b []byte, s string, _ bool) ([]byte, bool) {
	start := 0
	for i := range len(s) {
		var code byte
		switch s[i] {
		case '\r':
			code = 'r'
		case '\n':
			code = 'n'
		case ':':
			code = 'c'
		case '\\':
			code = '\\'
		default:
			continue
		}
		b = append(b, s[start:i]...)
		b = append(b, '\\', code)
		start = i + 1
	}
	return append(b, s[start:]...), true
}

// appendUnescaped appends text, from a header line, without its escapes. It reports
// false for an escape that the protocol does not define.
func appendUnescaped(b, text []byte) ([]byte, bool) {
	for {
		i := bytes.IndexByte(text, '\\')
		if i < 0 {
			return append(b, text...), true
		}
		if i+1 == len(text) {
			return b, false
		}
		c := text[i+1]
		switch c {
		case 'r':
			c = '\r'
		case 'n':
			c = '\n'
		case 'c':
			c = ':'
		case '\\':
		default:
			return b, false
		}
		b = append(append(b, text[:i]...), c)
		text = text[i+2:]
	}
}

// commandOf returns the command that line is, without allocating, or "".
func commandOf(line []byte) string {
	switch string(line) {
	case Abort:
		return Abort
	case Ack:
		return Ack
	case Begin:
		return Begin
	case Commit:
		return Commit
	case Connect:
		return Connect
	case Connected:
		return Connected
	case Disconnect:
		return Disconnect
	case Error:
		return Error
	case Message:
		return Message
	case Nack:
		return Nack
	case Receipt:
		return Receipt
	case Send:
		return Send
	case Stomp:
		return Stomp
	case Subscribe:
		return Subscribe
	case Unsubscribe:
		return Unsubscribe
	}
	return ""
}
