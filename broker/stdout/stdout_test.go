package stdout_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stdout"
)

var _ outbox.Flusher = (*stdout.Publisher)(nil)

// publish publishes msgs and returns the answers, which are there after Flush.
func publish(t *testing.T, p *stdout.Publisher, msgs ...outbox.Message) *[]error {
	t.Helper()
	answers := &[]error{}
	for i := range msgs {
		p.Publish(context.Background(), &msgs[i], func(err error) { *answers = append(*answers, err) })
	}
	return answers
}

func TestLine(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, 2, 29, 12, 0, 0, 1000, time.FixedZone("", 3600))
	for name, c := range map[string]struct {
		message outbox.Message
		want    string
	}{
		"json": {
			outbox.Message{
				ID: "1", Topic: "user.created", Key: "k", Tenant: "t", Type: "y", Version: "v", CreatedAt: at,
				ContentType: "application/json; charset=utf-8", Headers: map[string]string{"b": "<2>", "a": "ü"},
				Payload: []byte("{\n \"n\": 10000000000000000001,\n \"h\": \"<b>\" }"),
			},
			`{"id":"1","topic":"user.created","key":"k","tenant":"t","type":"y","version":"v",` +
				`"content_type":"application/json; charset=utf-8","headers":{"a":"ü","b":"<2>"},` +
				`"created_at":"2024-02-29T11:00:00.000001Z","payload":{"n":10000000000000000001,"h":"<b>"}}`,
		},
		"suffix":       {outbox.Message{ID: "1", Topic: "a", ContentType: "application/cloudevents+json", Payload: []byte("null")}, `{"id":"1","topic":"a","content_type":"application/cloudevents+json","payload":null}`},
		"invalid json": {outbox.Message{ID: "1", Topic: "a", ContentType: "application/json", Payload: []byte("{")}, `{"id":"1","topic":"a","content_type":"application/json","payload":"{"}`},
		"text":         {outbox.Message{ID: "1", Topic: "a", ContentType: "text/plain", Payload: []byte("grüße\n\"x\"")}, `{"id":"1","topic":"a","content_type":"text/plain","payload":"grüße\n\"x\""}`},
		"number":       {outbox.Message{ID: "1", Topic: "a", ContentType: "text/plain", Payload: []byte("1")}, `{"id":"1","topic":"a","content_type":"text/plain","payload":"1"}`},
		"binary":       {outbox.Message{ID: "1", Topic: "a", Payload: []byte{0, 1, 255}}, `{"id":"1","topic":"a","payload_base64":"AAH/"}`},
		"control":      {outbox.Message{ID: "1", Topic: "a", Payload: []byte("a\x00")}, `{"id":"1","topic":"a","payload_base64":"YQA="}`},
		"empty":        {outbox.Message{ID: "1", Topic: "a"}, `{"id":"1","topic":"a","payload":""}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			p := stdout.New(&out)
			answers := publish(t, p, c.message)
			if err := p.Flush(); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != c.want+"\n" {
				t.Errorf("got  %swant %s", got, c.want)
			}
			if len(*answers) != 1 || (*answers)[0] != nil {
				t.Errorf("answers: %v", *answers)
			}
		})
	}
}

func TestConfirmedOnlyWhenWritten(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := stdout.New(&out)
	answers := publish(t, p, outbox.Message{ID: "1", Topic: "a"}, outbox.Message{ID: "2", Topic: "a"})
	if len(*answers) != 0 || out.Len() != 0 {
		t.Fatalf("before Flush: %d answers, %d bytes written", len(*answers), out.Len())
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if len(*answers) != 2 || strings.Count(out.String(), "\n") != 2 {
		t.Errorf("after Close: answers %v, written %q", *answers, out.String())
	}
	if late := *publish(t, p, outbox.Message{ID: "3", Topic: "a"}); len(late) != 1 || !errors.Is(late[0], outbox.ErrUnavailable) {
		t.Errorf("after Close: %v, want ErrUnavailable", late)
	}
}

func TestFullBufferIsWritten(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := stdout.New(&out)
	answers := publish(t, p, outbox.Message{ID: "1", Topic: "a", Payload: make([]byte, 100_000)})
	if len(*answers) != 1 || out.Len() == 0 {
		t.Errorf("%d answers, %d bytes written, want both without Flush", len(*answers), out.Len())
	}
}

func TestCancelledContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var got error
	stdout.New(&bytes.Buffer{}).Publish(ctx, &outbox.Message{ID: "1", Topic: "a"}, func(err error) { got = err })
	if !errors.Is(got, outbox.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", got)
	}
}

// limited fails after a number of bytes, until it is mended.
type limited struct {
	bytes.Buffer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	if len(b) <= l.left {
		l.left -= len(b)
		return l.Buffer.Write(b)
	}
	n, _ := l.Buffer.Write(b[:l.left])
	l.left = 0
	return n, errors.New("disk full")
}

func TestWriteErrorIsUnavailable(t *testing.T) {
	t.Parallel()
	first := `{"id":"1","topic":"a","payload":""}` + "\n"
	w := &limited{left: len(first) + 5}
	p := stdout.New(w)
	got := publish(t, p, outbox.Message{ID: "1", Topic: "a"}, outbox.Message{ID: "2", Topic: "a"}, outbox.Message{ID: "3", Topic: "a"})
	if err := p.Flush(); !errors.Is(err, outbox.ErrUnavailable) || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("Flush: %v", err)
	}
	if a := *got; len(a) != 3 || a[0] != nil || !errors.Is(a[1], outbox.ErrUnavailable) || !errors.Is(a[2], outbox.ErrUnavailable) {
		t.Errorf("answers %v, want nil for the line that was written and ErrUnavailable for the others", a)
	}

	w.left = 1000
	again := publish(t, p, outbox.Message{ID: "2", Topic: "a"})
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	if len(*again) != 1 || (*again)[0] != nil {
		t.Errorf("after the error: %v", *again)
	}
	lines := strings.Split(strings.TrimSuffix(w.String(), "\n"), "\n")
	if len(lines) != 3 || !json.Valid([]byte(lines[0])) || !json.Valid([]byte(lines[2])) {
		t.Errorf("a torn line must end before the next: %q", lines)
	}
}
