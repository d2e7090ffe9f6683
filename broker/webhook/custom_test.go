package webhook

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/outbox-go/outbox"
)

func TestBodyMakesTheRequest(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	p := open(t, s.URL, &PublisherConfig{
		Headers: http.Header{"X-A": {"configured"}, "X-B": {"configured"}},
		Body: func(m *outbox.Message) (*Request, error) {
			return &Request{
				Method: http.MethodPut, ContentType: "text/csv", Header: http.Header{"x-b": {"own"}}, Body: []byte(m.ID + "," + m.Topic),
			}, nil
		},
	})
	publish(t, p, message("1", "")).want(nil)
	r := s.only(t)
	if r.Method != http.MethodPut || r.body != "1,user.created" || r.Header.Get("Content-Type") != "text/csv" ||
		r.Header.Get("X-A") != "configured" || strings.Join(r.Header["X-B"], " ") != "own" || r.Header.Get("Ce-Id") != "" {
		t.Errorf("got %s %q with %v", r.Method, r.body, r.Header)
	}
}

// The message is at fault, or the function: other messages go on, and the process lives.
func TestWhatBodyCannotMakeIsTheMessagesFault(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	for _, test := range []struct {
		name string
		body func(*outbox.Message) (*Request, error)
		want error
	}{
		{"error", func(*outbox.Message) (*Request, error) { return nil, io.ErrUnexpectedEOF }, outbox.ErrRefused},
		{"invalid", func(*outbox.Message) (*Request, error) { return nil, outbox.Invalid(io.ErrUnexpectedEOF) }, outbox.ErrInvalid},
		{"nothing", func(*outbox.Message) (*Request, error) { return nil, nil }, outbox.ErrRefused},
		{"panic", func(*outbox.Message) (*Request, error) { panic("no idea") }, outbox.ErrRefused},
		{"method", func(*outbox.Message) (*Request, error) { return &Request{Method: "a b"}, nil }, outbox.ErrInvalid},
		{"header name", func(*outbox.Message) (*Request, error) { return &Request{Header: http.Header{"a b": {"c"}}}, nil }, outbox.ErrInvalid},
		{"header value", func(*outbox.Message) (*Request, error) { return &Request{Header: http.Header{"A": {"b\nc"}}}, nil }, outbox.ErrInvalid},
		{"content type", func(*outbox.Message) (*Request, error) { return &Request{ContentType: "a\r\nb: c"}, nil }, outbox.ErrInvalid},
	} {
		p := open(t, s.URL, &PublisherConfig{Body: test.body})
		err := publish(t, p, message("1", "")).wait()
		wantClass(t, err, test.want)
		if cause := errors.Is(err, io.ErrUnexpectedEOF); cause != (test.name == "error" || test.name == "invalid") {
			t.Errorf("%s: the error is %v", test.name, err)
		}
	}
	p := open(t, "", &PublisherConfig{URL: func(*outbox.Message) string { panic("no idea") }})
	publish(t, p, message("1", "")).want(outbox.ErrRefused)
	if n := len(s.requests()); n != 0 {
		t.Errorf("the server got %d requests, want none", n)
	}
}
