package stomp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

const (
	// bufferSize is how much is read from, and written to, a socket at once.
	bufferSize = 64 << 10
	// maxCommand is longer than any command.
	maxCommand = 32
)

// Limits bound what a peer may send. Memory is taken as bytes come, never because
// they were announced. Zero fields mean the defaults.
type Limits struct {
	// HeaderLine is the length of a header as it is sent, in bytes. Defaults to
	// 256 KiB.
	HeaderLine int
	// Headers is the number of headers of a frame. Defaults to 1,000.
	Headers int
	// HeaderBytes is the length of all headers of a frame together. Defaults to
	// 1 MiB.
	HeaderBytes int
	// Body is the length of a frame's body in bytes. Defaults to 128 MiB, the
	// greatest message that RabbitMQ takes unless told otherwise.
	Body int
}

// fields lists the limits with their names and defaults.
func (l *Limits) fields() [4]limit {
	return [...]limit{
		{"HeaderLine", &l.HeaderLine, 256 << 10},
		{"Headers", &l.Headers, 1000},
		{"HeaderBytes", &l.HeaderBytes, 1 << 20},
		{"Body", &l.Body, 128 << 20},
	}
}

type limit struct {
	name     string
	value    *int
	fallback int
}

func (l Limits) validate() error {
	var errs []error
	for _, f := range l.fields() {
		if *f.value < 0 {
			errs = append(errs, fmt.Errorf("Limits.%s is %d: want 0 or more", f.name, *f.value))
		}
	}
	return errors.Join(errs...)
}

func (l Limits) withDefaults() Limits {
	for _, f := range l.fields() {
		if *f.value == 0 {
			*f.value = f.fallback
		}
	}
	return l
}

// Decoder reads frames. Use it from one goroutine at a time.
type Decoder struct {
	r      *bufio.Reader
	limits Limits
	long   []byte // a line that is longer than the buffer of r
	text   []byte // the names and values of a frame, without escapes
	ends   []int  // where each of these ends in text
	begun  bool   // a frame was read
}

// NewDecoder returns a decoder of what r reads.
func NewDecoder(r io.Reader, limits Limits) *Decoder {
	return &Decoder{r: bufio.NewReaderSize(r, bufferSize), limits: limits.withDefaults()}
}

// Decode returns the next frame, which is the caller's own; heart-beats are passed
// over, and so are headers of a MESSAGE that have no name. It returns io.EOF at the end between two frames, and a [*ProtocolError] or
// [*LimitError] for what no frame may have. After an error the stream is out of step,
// and Decode must not be called again.
func (d *Decoder) Decode() (*Frame, error) {
	command, err := d.command()
	if err != nil {
		return nil, err
	}
	f := &Frame{Command: command}
	length, err := d.headers(f)
	if err != nil {
		return nil, unexpectedEnd(err)
	}
	if f.Body, err = d.body(command, length); err != nil {
		return nil, unexpectedEnd(err)
	}
	return f, nil
}

// unexpectedEnd makes an end in the middle of a frame known as that.
func unexpectedEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// command reads the first line of a frame, and the ends of lines before it.
func (d *Decoder) command() (string, error) {
	var c byte
	var err error
	for c = '\n'; c == '\n'; {
		if c, err = d.r.ReadByte(); err != nil {
			return "", err
		}
		if c == '\r' {
			if c, err = d.r.ReadByte(); err != nil {
				return "", unexpectedEnd(err)
			}
			if c != '\n' {
				return "", protocolError("a carriage return stands alone between two frames")
			}
		}
	}
	_ = d.r.UnreadByte() // a byte was read
	line, err := d.line("command", maxCommand)
	if err != nil {
		return "", unexpectedEnd(err)
	}
	if command := commandOf(line); command != "" {
		d.begun = true
		return command, nil
	}
	if d.begun { // what comes now may be of a message, and nobody's business
		return "", protocolError("no command begins the frame")
	}
	return "", protocolError("the peer begins by %q: it seems not to speak STOMP", excerpt(line))
}

// headers reads the headers of f, and returns the length of the body, or -1 where
// the frame does not say it.
func (d *Decoder) headers(f *Frame) (length int64, err error) {
	d.text, d.ends = d.text[:0], d.ends[:0]
	length = -1
	total := 0
	for count := 1; ; count++ {
		line, err := d.line("header line", d.limits.HeaderLine)
		if err != nil {
			return 0, err
		}
		if len(line) == 0 {
			f.Headers = d.collect()
			return length, nil
		}
		if count > d.limits.Headers {
			return 0, &LimitError{What: "the number of headers", Limit: d.limits.Headers}
		}
		if total += len(line); total > d.limits.HeaderBytes {
			return 0, &LimitError{What: "the length of all headers", Limit: d.limits.HeaderBytes}
		}
		if line[0] == ':' && f.Command == Message {
			continue // AMQP knows headers without a name
		}
		start := len(d.text)
		name, value, err := d.header(f.Command, line, count)
		if err != nil {
			return 0, err
		}
		if string(name) != contentLength {
			d.ends = append(d.ends, start+len(name), len(d.text))
			continue
		}
		d.text = d.text[:start]
		if length >= 0 {
			continue // the first counts
		}
		var ok bool
		if length, ok = parseLength(value); !ok {
			return 0, protocolError("the content-length of %s is no number: %q", f.Command, excerpt(value))
		}
	}
}

// header adds the name and the value that line is to text, and returns them.
func (d *Decoder) header(command string, line []byte, number int) (name, value []byte, err error) {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return nil, nil, protocolError("header %d of %s has no name, or no colon behind it", number, command)
	}
	name, value = line[:colon], line[colon+1:]
	start := len(d.text)
	if !escapes(command) {
		d.text = append(append(d.text, name...), value...)
		return d.text[start : start+colon], d.text[start+colon:], nil
	}
	var ok bool
	if d.text, ok = appendUnescaped(d.text, name); !ok {
		return nil, nil, protocolError("the name of header %d of %s has an undefined escape", number, command)
	}
	middle := len(d.text)
	if d.text, ok = appendUnescaped(d.text, value); !ok {
		return nil, nil, protocolError("header %q of %s has an undefined escape", excerpt(name), command)
	}
	return d.text[start:middle], d.text[middle:], nil
}

// parseLength returns the number that digits are; one that is too great for an
// int64 is the greatest.
func parseLength(digits []byte) (int64, bool) {
	var n int64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n > (math.MaxInt64-9)/10 {
			n = math.MaxInt64
			continue
		}
		n = n*10 + int64(c-'0')
	}
	return n, len(digits) > 0
}

// collect makes headers of what was read: one string for all of them.
func (d *Decoder) collect() []Header {
	if len(d.ends) == 0 {
		return nil
	}
	text := string(d.text)
	headers := make([]Header, len(d.ends)/2)
	start := 0
	for i := range headers {
		middle, end := d.ends[2*i], d.ends[2*i+1]
		headers[i] = Header{Name: text[start:middle], Value: text[middle:end]}
		start = end
	}
	return headers
}

// line reads a line and returns it without its end. It is valid until the next read.
func (d *Decoder) line(what string, limit int) ([]byte, error) {
	d.long = d.long[:0]
	for {
		part, err := d.r.ReadSlice('\n')
		// The end of the line does not count; a carriage return may.
		if len(d.long)+len(part) > limit+len("\r\n") {
			return nil, &LimitError{What: "the length of a " + what, Limit: limit}
		}
		if err == nil && len(d.long) == 0 {
			return d.trim(what, limit, part)
		}
		d.long = append(d.long, part...)
		if err == nil {
			return d.trim(what, limit, d.long)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

func (d *Decoder) trim(what string, limit int, line []byte) ([]byte, error) {
	line = bytes.TrimSuffix(line[:len(line)-1], []byte("\r"))
	if len(line) > limit {
		return nil, &LimitError{What: "the length of a " + what, Limit: limit}
	}
	if bytes.IndexByte(line, '\r') >= 0 {
		return nil, protocolError("a carriage return stands in the middle of a %s", what)
	}
	return line, nil
}

// body reads the body and the NUL behind it.
func (d *Decoder) body(command string, length int64) ([]byte, error) {
	if length < 0 {
		return d.bodyToNUL(command)
	}
	if length > int64(d.limits.Body) {
		return nil, &LimitError{What: "the body of " + command, Value: length, Limit: d.limits.Body}
	}
	body, err := d.bodyOf(int(length))
	if err != nil {
		return nil, err
	}
	end, err := d.r.ReadByte()
	if err != nil {
		return nil, err
	}
	if end != 0 {
		return nil, protocolError("no NUL follows the %d bytes of the body of %s", length, command)
	}
	return body, nil
}

// bodyOf reads a body of that length, and takes memory for at most twice what has
// come.
func (d *Decoder) bodyOf(length int) ([]byte, error) {
	if length == 0 {
		return nil, nil
	}
	body := make([]byte, 0, min(length, bufferSize))
	for len(body) < length {
		if len(body) == cap(body) {
			body = slices.Grow(body, min(length-len(body), len(body)))
		}
		n, err := io.ReadFull(d.r, body[len(body):min(length, cap(body))])
		body = body[:len(body)+n]
		if err != nil {
			return nil, err
		}
	}
	return body, nil
}

// bodyToNUL reads a body of unknown length.
func (d *Decoder) bodyToNUL(command string) ([]byte, error) {
	var body []byte
	for {
		part, err := d.r.ReadSlice(0)
		if err == nil {
			part = part[:len(part)-1]
		}
		if len(body)+len(part) > d.limits.Body {
			return nil, &LimitError{What: "the body of " + command, Limit: d.limits.Body}
		}
		body = append(body, part...)
		if err == nil || !errors.Is(err, bufio.ErrBufferFull) {
			return body, err
		}
	}
}

// excerpt returns the beginning of what a peer sent, for an error.
func excerpt(b []byte) string {
	const limit = 40
	if len(b) > limit {
		return fmt.Sprintf("%s...", b[:limit])
	}
	return string(b)
}
