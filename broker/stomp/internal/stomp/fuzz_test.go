package stomp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// streams are where fuzzing starts.
var streams = []string{
	"", "\n", "\r\n\r\n", "\r", "\x00",
	"RECEIPT\nreceipt-id:1\n\n\x00",
	"\r\nRECEIPT\r\nreceipt-id:1\r\n\r\n\x00\r\n\n",
	"CONNECTED\nversion:1.2\nheart-beat:0,0\nsession:a\\b:c\n\n\x00",
	"ERROR\nmessage:m\ncontent-length:4\n\nb\x00\nd\x00",
	"MESSAGE\nsubscription:0\nmessage-id:T_0@@s@@1\ndestination:/topic/a\nx\\c\\n\\r\\\\:\\c\\n\\r\\\\\nfoo:1\nfoo:2\n\nbody\x00MESSAGE\n\n\x00",
	"MESSAGE\ncontent-length:10000000000\n\nx", "MESSAGE\ncontent-length:-1\n\nx\x00", "MESSAGE\ncontent-length:1\n\nxy\x00",
	"MESSAGE\na:\\t\n\n\x00", "MESSAGE\n:a\n\n\x00", "MESSAGE\na\n\n\x00", "MESSAGE\na:b\rc\n\n\x00", "MESSAGE\na:b",
	"HTTP/1.1 400 Bad Request\r\n\r\n", "AMQP\x00\x00\x09\x01",
	"MESSAGE\n" + strings.Repeat("a:b\n", 20) + "\n\x00",
	"MESSAGE\na:" + strings.Repeat("x", 200) + "\n\n\x00",
	"MESSAGE\n\n" + strings.Repeat("x", 300) + "\x00",
	"CONNECT\naccept-version:1.2\nhost:/\nlogin:a\npasscode:b:c\n\n\x00SEND\ndestination:/queue/a\ncontent-length:0\n\n\x00",
}

// fuzzLimits are small enough to be met.
var fuzzLimits = Limits{HeaderLine: 100, Headers: 10, HeaderBytes: 300, Body: 200}

// Whatever comes, in whatever pieces, gives the same frames and the same end, within
// the limits, and the frames are the same after another journey.
func FuzzDecode(f *testing.F) {
	for i, stream := range streams {
		f.Add([]byte(stream), uint8(i))
	}
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		frames, end := decodeAll(fuzzDecoder(bytes.NewReader(stream), 4096))
		again, endAgain := decodeAll(fuzzDecoder(&pieces{stream: stream, size: 1 + int(piece)}, 16))
		if !reflect.DeepEqual(frames, again) || end.Error() != endAgain.Error() {
			t.Fatalf("whole: %d frames, %v; in pieces: %d frames, %v", len(frames), end, len(again), endAgain)
		}
		size := 0
		for _, frame := range frames {
			size += checkFrame(t, frame)
		}
		if size > len(stream) {
			t.Fatalf("%d bytes became %d", len(stream), size)
		}
	})
}

// checkFrame checks that a decoded frame is within the limits and survives another
// journey, and returns its size.
func checkFrame(t *testing.T, frame *Frame) int {
	size := len(frame.Command) + len(frame.Body)
	for _, h := range frame.Headers {
		size += len(h.Name) + len(h.Value)
	}
	if len(frame.Headers) > fuzzLimits.Headers || len(frame.Body) > fuzzLimits.Body || size > fuzzLimits.HeaderBytes+fuzzLimits.Body+maxCommand {
		t.Fatalf("beyond the limits: %q", frame)
	}
	stream, err := AppendFrame(nil, frame)
	if err != nil {
		t.Fatalf("%q cannot be sent: %v", frame, err)
	}
	d := &Decoder{r: bufio.NewReaderSize(bytes.NewReader(stream), 1024), limits: Limits{}.withDefaults()}
	again, err := d.Decode()
	if err != nil || !reflect.DeepEqual(frame, again) {
		t.Fatalf("%q became %q, %v", frame, again, err)
	}
	return size
}

// fuzzDecoder returns a decoder with a small buffer, which lines and bodies exceed.
func fuzzDecoder(r io.Reader, buffer int) *Decoder {
	return &Decoder{r: bufio.NewReaderSize(r, buffer), limits: fuzzLimits}
}

func decodeAll(d *Decoder) ([]*Frame, error) {
	var frames []*Frame
	for {
		f, err := d.Decode()
		if err != nil {
			return frames, err
		}
		frames = append(frames, f)
	}
}

// pieces reads a stream in pieces.
type pieces struct {
	stream []byte
	size   int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.stream) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.stream[:min(p.size, len(p.stream))])
	p.stream = p.stream[n:]
	return n, nil
}

// A frame arrives as it was sent, or cannot be sent for one of the known reasons.
func FuzzFrame(f *testing.F) {
	f.Add(Send, "destination", "/queue/a", []byte("body"))
	f.Add(Send, "a:\r\n\\", "\\n\\c:\r\n\\", []byte("\x00\n\x00"))
	f.Add(Connect, "passcode", "a:b\\c", []byte(nil))
	f.Add(Connected, "a:b", "c\n", []byte(nil))
	f.Add(Message, "content-length", "7", []byte("a"))
	f.Add(Error, "", "", []byte(nil))
	f.Add("NONE", "a", "b", []byte(nil))
	f.Fuzz(func(t *testing.T, command, name, value string, body []byte) {
		frame := &Frame{Command: command, Headers: []Header{{name, value}, {"other", value}, {name, "second"}}, Body: body}
		stream, err := AppendFrame(nil, frame)
		possible := commandOf([]byte(command)) != ""
		if name != contentLength {
			possible = possible && name != "" && (escapes(command) || !strings.ContainsAny(name, ":\r\n"))
		}
		if possible = possible && (escapes(command) || !strings.ContainsAny(value, "\r\n")); possible != (err == nil) {
			t.Fatalf("%q: %v", frame, err)
		}
		if err != nil {
			return
		}
		want := &Frame{Command: command, Headers: frame.Headers, Body: body}
		if name == contentLength {
			want.Headers = frame.Headers[1:2]
		}
		if len(body) == 0 {
			want.Body = nil
		}
		limits := Limits{HeaderLine: 1 << 30, HeaderBytes: 1 << 30}
		got, err := NewDecoder(bytes.NewReader(stream), limits).Decode()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q became %q, %v", want, got, err)
		}
	})
}

// What is escaped has no character that ends a header, and becomes what it was.
func FuzzEscape(f *testing.F) {
	for _, s := range []string{"", "a", ":", "\\", "\r\n", "\\n", "\\\\n:", "\\c\r", "\x00\xff\u00e4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		escaped, _ := appendEscaped(nil, s, false)
		if bytes.ContainsAny(escaped, ":\r\n") {
			t.Fatalf("%q became %q", s, escaped)
		}
		if back, ok := appendUnescaped(nil, escaped); !ok || string(back) != s {
			t.Fatalf("%q became %q, and that %q, %v", s, escaped, back, ok)
		}
		// What is not escaped is refused, or the escape of what it becomes.
		if plain, ok := appendUnescaped(nil, []byte(s)); ok && !strings.ContainsAny(s, ":\r\n") {
			if back, _ := appendEscaped(nil, string(plain), false); string(back) != s {
				t.Fatalf("%q became %q, and that %q", s, plain, back)
			}
		}
	})
}

// A connection to a peer that sends anything, at once or when it has greeted, ends
// by an error when the peer ends, leaves nothing behind, and tells the same error
// again.
func FuzzConn(f *testing.F) {
	for _, stream := range streams {
		f.Add([]byte(stream), true)
		f.Add([]byte(stream), false)
	}
	f.Add([]byte("CONNECTED\nversion:1.2\nheart-beat:1,1\n\n\x00\n\nRECEIPT\nreceipt-id:"+disconnectID+"\n\n\x00"), false)
	f.Fuzz(func(t *testing.T, stream []byte, greet bool) {
		ours, theirs := net.Pipe()
		var running sync.WaitGroup
		defer running.Wait()
		running.Go(func() {
			p := newPeer(theirs)
			_ = p.SetDeadline(time.Now().Add(deadline))
			if greet {
				p.greet("heart-beat:0,0\n")
			} else {
				p.next()
			}
			_, _ = p.Write(stream)
			_ = p.Close()
		})
		c, err := openWithin(t, ours, &Config{Login: "user", Passcode: "fuzzed-s3cret", Limits: fuzzLimits, Send: time.Second, Receive: time.Minute})
		if err == nil {
			err = readToEnd(c)
			if _, again := c.Read(); !errors.Is(again, err) {
				t.Errorf("Read returns %v after %v", again, err)
			}
			if again := c.Write(&Frame{Command: Ack}); !errors.Is(again, err) {
				t.Errorf("Write succeeds after %v", err)
			}
			_ = c.Close()
		} else if greet {
			t.Errorf("the handshake failed: %v", err)
		}
		if len(err.Error()) > 3*maxServerError || strings.Contains(err.Error(), "fuzzed-s3cret") {
			t.Errorf("the error is %q", err)
		}
	})
}
