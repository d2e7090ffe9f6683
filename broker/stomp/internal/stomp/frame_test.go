package stomp

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func TestFramesAreEncodedAsTheProtocolSays(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		frame *Frame
		want  string
	}{
		{&Frame{Command: Send, Headers: []Header{{"destination", "/queue/a"}}, Body: []byte("a\x00\n")},
			"SEND\ndestination:/queue/a\ncontent-length:3\n\na\x00\n\x00"},
		{&Frame{Command: Ack}, "ACK\ncontent-length:0\n\n\x00"},
		{&Frame{Command: Send, Headers: []Header{{"a:\n\r\\b", "\\n:\r\n"}}},
			"SEND\na\\c\\n\\r\\\\b:\\\\n\\c\\r\\n\ncontent-length:0\n\n\x00"},
		{&Frame{Command: Connect, Headers: []Header{{"passcode", `a:b\c`}}}, "CONNECT\npasscode:a:b\\c\ncontent-length:0\n\n\x00"},
		{&Frame{Command: Send, Headers: []Header{{"content-length", "7"}}, Body: []byte("a")}, "SEND\ncontent-length:1\n\na\x00"},
		{&Frame{Command: Send, Headers: []Header{{"a", ""}, {"a", "2"}}}, "SEND\na:\na:2\ncontent-length:0\n\n\x00"},
	} {
		got, err := AppendFrame([]byte("before"), test.frame)
		if err != nil || string(got) != "before"+test.want {
			t.Errorf("%q became %q, %v; want %q", test.frame, got, err, test.want)
		}
	}
}

func TestFramesThatCannotBeSentAreRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		frame *Frame
		want  string
	}{
		{&Frame{}, "not a command"},
		{&Frame{Command: "SEND\nx:y"}, "not a command"},
		{&Frame{Command: "send"}, "not a command"},
		{&Frame{Command: Send, Headers: []Header{{"", "v"}}}, "no name"},
		{&Frame{Command: Connect, Headers: []Header{{"passcode", "secret\nhost:other"}}}, "header passcode has a line end"},
		{&Frame{Command: Connect, Headers: []Header{{"passcode", "secret\r"}}}, "header passcode has a line end"},
		{&Frame{Command: Connect, Headers: []Header{{"a:b", "secret"}}}, `"a:b"`},
	} {
		b, err := AppendFrame(nil, test.frame)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q became %q, %v; want %q", test.frame, b, err, test.want)
		}
	}
}

func TestFramesAreDecoded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		stream string
		want   []*Frame
	}{
		"no body":        {"RECEIPT\nreceipt-id:1\n\n\x00", []*Frame{{Command: Receipt, Headers: []Header{{"receipt-id", "1"}}}}},
		"no headers":     {"ERROR\n\n\x00", []*Frame{{Command: Error}}},
		"carriage":       {"\r\nRECEIPT\r\nreceipt-id:1\r\n\r\n\x00\r\n", []*Frame{{Command: Receipt, Headers: []Header{{"receipt-id", "1"}}}}},
		"heart-beats":    {"\n\n\r\nERROR\n\nx\x00\n\n\nERROR\n\ny\x00", []*Frame{{Command: Error, Body: []byte("x")}, {Command: Error, Body: []byte("y")}}},
		"to NUL":         {"MESSAGE\na:b\n\nx\ny\x00", []*Frame{{Command: Message, Headers: []Header{{"a", "b"}}, Body: []byte("x\ny")}}},
		"content-length": {"MESSAGE\ncontent-length:5\na:b\n\n\x00MESS\x00ERROR\n\n\x00", []*Frame{{Command: Message, Headers: []Header{{"a", "b"}}, Body: []byte("\x00MESS")}, {Command: Error}}},
		"length zero":    {"MESSAGE\ncontent-length:0\n\n\x00", []*Frame{{Command: Message}}},
		"first length":   {"MESSAGE\ncontent-length:1\ncontent-length:9\n\na\x00", []*Frame{{Command: Message, Body: []byte("a")}}},
		"escapes":        {"MESSAGE\n\\c\\n:\\r\\\\n\\c\n\n\x00", []*Frame{{Command: Message, Headers: []Header{{":\n", "\r\\n:"}}}}},
		"colons":         {"MESSAGE\na:b:c\n\n\x00", []*Frame{{Command: Message, Headers: []Header{{"a", "b:c"}}}}},
		"spaces":         {"MESSAGE\n a : b \n\n\x00", []*Frame{{Command: Message, Headers: []Header{{" a ", " b "}}}}},
		"plain":          {"CONNECTED\na:\\n\\t:\n\n\x00", []*Frame{{Command: Connected, Headers: []Header{{"a", `\n\t:`}}}}},
	} {
		for _, reader := range []io.Reader{strings.NewReader(test.stream), iotest.OneByteReader(strings.NewReader(test.stream))} {
			d := NewDecoder(reader, Limits{})
			for _, want := range test.want {
				if got, err := d.Decode(); err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
				}
			}
			if got, err := d.Decode(); !errors.Is(err, io.EOF) {
				t.Errorf("%s: got %q, %v; want the end", name, got, err)
			}
		}
	}
}

func TestFirstOfRepeatedHeadersCounts(t *testing.T) {
	t.Parallel()
	f, err := NewDecoder(strings.NewReader("MESSAGE\nfoo:1\nfoo:2\n\n\x00"), Limits{}).Decode()
	if err != nil {
		t.Fatal(err)
	}
	if value, ok := f.Get("foo"); value != "1" || !ok {
		t.Errorf("foo is %q, %v; want the first", value, ok)
	}
	if value, ok := f.Get("bar"); value != "" || ok {
		t.Errorf("bar is %q, %v; want none", value, ok)
	}
}

func TestStreamsThatAreWrongAreRefused(t *testing.T) {
	t.Parallel()
	for stream, want := range map[string]string{
		"HTTP/1.1 400 Bad Request\r\n\r\n":                       `"HTTP/1.1 400 Bad Request"`,
		"message\n\n\x00":                                        "seems not to speak STOMP",
		"MESSAGE \n\n\x00":                                       "seems not to speak STOMP",
		" MESSAGE\n\n\x00":                                       "seems not to speak STOMP",
		"ERROR\n\n\x00secret\n":                                  "no command begins the frame",
		"ERROR\n\n\x00\rERROR\n\n\x00":                           "carriage return stands alone",
		"MESSAGE\na:b\rc:d\n\n\x00":                              "carriage return stands in the middle",
		"RECEIPT\n:secret\n\n\x00":                               "header 1 of RECEIPT has no name",
		"MESSAGE\nsecret\n\n\x00":                                "header 1 of MESSAGE has no name",
		"MESSAGE\na:b\nsecret\n\n\x00":                           "header 2 of MESSAGE has no name",
		"MESSAGE\na:secret\\t\n\n\x00":                           `header "a" of MESSAGE has an undefined escape`,
		"MESSAGE\na:secret\\\n\n\x00":                            `header "a" of MESSAGE has an undefined escape`,
		"MESSAGE\na:secret\\C\n\n\x00":                           `header "a" of MESSAGE has an undefined escape`,
		"MESSAGE\n\\0:secret\n\n\x00":                            "name of header 1 of MESSAGE has an undefined escape",
		"MESSAGE\ncontent-length:\n\n\x00":                       "content-length of MESSAGE is no number",
		"MESSAGE\ncontent-length:-1\n\n\x00":                     `is no number: "-1"`,
		"MESSAGE\ncontent-length: 1\n\na\x00":                    `is no number: " 1"`,
		"MESSAGE\ncontent-length:0x1\n\na\x00":                   `is no number: "0x1"`,
		"MESSAGE\ncontent-length:2\n\nsecret\x00":                "no NUL follows the 2 bytes of the body of MESSAGE",
		"MESSAGE\ncontent-length:10000000000\n\nsecret":          "body of MESSAGE is 10000000000, at most 134217728 is taken",
		"MESSAGE\ncontent-length:99999999999999999999\n\nsecret": "body of MESSAGE is 9223372036854775807",
		"MESSAGE": "unexpected EOF", "MESSAGE\r": "unexpected EOF", "\r": "unexpected EOF", "MESSAGE\na:b\n": "unexpected EOF",
		"MESSAGE\n\nabc":                  "unexpected EOF",
		"MESSAGE\ncontent-length:3\n\nab": "unexpected EOF", "MESSAGE\ncontent-length:3\n\nabc": "unexpected EOF",
	} {
		for _, reader := range []io.Reader{strings.NewReader(stream), iotest.OneByteReader(strings.NewReader(stream))} {
			err := lastError(NewDecoder(reader, Limits{}))
			if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: got %v, want %q", stream, err, want)
			}
		}
	}
}

func TestErrorsOfTheStreamHaveTypes(t *testing.T) {
	t.Parallel()
	var protocol *ProtocolError
	if err := lastError(NewDecoder(strings.NewReader("nonsense\n"), Limits{})); !errors.As(err, &protocol) {
		t.Errorf("got %#v", err)
	}
	var limit *LimitError
	stream := "MESSAGE\ncontent-length:3\n\nabc\x00"
	if err := lastError(NewDecoder(strings.NewReader(stream), Limits{Body: 2})); !errors.As(err, &limit) || limit.Limit != 2 || limit.Value != 3 {
		t.Errorf("got %#v", err)
	}
}

func TestLimitsAreExact(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100<<10) // more than the buffer has room for
	for _, test := range []struct {
		limits Limits
		fits   string
		more   string
		want   string
	}{
		{Limits{HeaderLine: 3}, "a:b", "a:bc", "the length of a header line is more than 3"},
		{Limits{HeaderLine: len(long) + 2}, "a:" + long, "a:x" + long, "the length of a header line is more than 102402"},
		{Limits{HeaderLine: 3}, "a:b\r", "a:bc\r", "the length of a header line is more than 3"},
		{Limits{Headers: 2}, "a:b\na:b", "a:b\na:b\nc:d", "the number of headers is more than 2"},
		{Limits{HeaderBytes: 7}, "a:b\nc:de", "a:bc\nc:de", "the length of all headers is more than 7"},
		{Limits{Body: 3}, "a:b\n\nabc", "a:b\n\nabcd", "the body of MESSAGE is more than 3"},
		{Limits{Body: len(long)}, "a:b\n\n" + long, "a:b\n\n" + long + "x", "the body of MESSAGE is more than 102400"},
		{Limits{Body: 3}, "content-length:3\n\nabc", "content-length:4\n\nabcd", "the body of MESSAGE is 4, at most 3 is taken"},
	} {
		end := "\n\n\x00"
		if strings.Contains(test.fits, "\n\n") {
			end = "\x00"
		}
		if _, err := NewDecoder(strings.NewReader("MESSAGE\n"+test.fits+end), test.limits).Decode(); err != nil {
			t.Errorf("%+v: %v, want that it fits", test.limits, err)
		}
		_, err := NewDecoder(strings.NewReader("MESSAGE\n"+test.more+end), test.limits).Decode()
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v, want %q", test.limits, err, test.want)
		}
	}
}

func TestLargeBodiesArrive(t *testing.T) {
	t.Parallel()
	body := bytes.Repeat([]byte("0123456789\x00"), 300_000)
	stream, err := AppendFrame(nil, &Frame{Command: Message, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	for _, reader := range []io.Reader{bytes.NewReader(stream), iotest.HalfReader(bytes.NewReader(stream))} {
		f, err := NewDecoder(reader, Limits{}).Decode()
		if err != nil || !bytes.Equal(f.Body, body) {
			t.Errorf("the body of %d bytes did not arrive: %v", len(body), err)
		}
	}
}

func TestFramesDoNotShareMemory(t *testing.T) {
	t.Parallel()
	d := NewDecoder(strings.NewReader("MESSAGE\na:1\n\nx\x00MESSAGE\nb:2\n\ny\x00MESSAGE\ncontent-length:1\nc:3\n\nz\x00"), Limits{})
	var frames []*Frame
	for range 3 {
		f, err := d.Decode()
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, f)
	}
	want := []*Frame{
		{Message, []Header{{"a", "1"}}, []byte("x")}, {Message, []Header{{"b", "2"}}, []byte("y")}, {Message, []Header{{"c", "3"}}, []byte("z")},
	}
	if !reflect.DeepEqual(frames, want) {
		t.Errorf("got %q, %q, %q", frames[0], frames[1], frames[2])
	}
}

// lastError decodes to the end and returns what that is.
func lastError(d *Decoder) error {
	for {
		if _, err := d.Decode(); err != nil {
			return err
		}
	}
}
