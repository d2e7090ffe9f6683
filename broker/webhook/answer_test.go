package webhook

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
)

func TestWhatStatusesMean(t *testing.T) {
	t.Parallel()
	code := make(chan int, 1)
	s := newSink(t, func(w http.ResponseWriter, _ posted) { w.WriteHeader(<-code) })
	own := open(t, s.URL, &PublisherConfig{Concurrency: 1})
	others := open(t, "", &PublisherConfig{
		URL: func(*outbox.Message) string { return s.URL }, Allow: func(string) bool { return true }, Concurrency: 1,
	})
	unavailable, invalid := []int{408, 429, 502, 503, 504}, []int{413, 431}
	for c := 200; c < 600; c++ {
		for _, p := range []*Publisher{own, others} {
			var want error
			switch {
			case c < 300:
			case slices.Contains(invalid, c):
				want = outbox.ErrInvalid
			case p == own && slices.Contains(unavailable, c):
				want = outbox.ErrUnavailable
			default:
				want = outbox.ErrRefused
			}
			code <- c
			// Past what is answered unsent behind one that was unavailable.
			err := p.Send(t.Context(), message("1", ""))
			wantClass(t, err, want)
			var status *StatusError
			if errors.As(err, &status) != (want != nil) || want != nil && status.Code != c {
				t.Errorf("status %d: the error is %v", c, err)
			}
		}
	}
}

func TestRetryAfterIsPassedOn(t *testing.T) {
	t.Parallel()
	header := make(chan http.Header, 1)
	code := make(chan int, 1)
	s := newSink(t, func(w http.ResponseWriter, _ posted) {
		for name, values := range <-header {
			w.Header()[name] = values
		}
		w.WriteHeader(<-code)
	})
	p := open(t, s.URL, nil)
	for _, test := range []struct {
		code   int
		header http.Header
		class  error
		want   time.Duration
	}{
		{429, http.Header{"Retry-After": {"7"}}, outbox.ErrUnavailable, 7 * time.Second},
		{503, http.Header{"Retry-After": {"Sun, 06 Nov 1994 08:49:57 GMT"}, "Date": {"Sun, 06 Nov 1994 08:49:37 GMT"}}, outbox.ErrUnavailable, 20 * time.Second},
		{503, nil, outbox.ErrUnavailable, 0},
		{500, http.Header{"Retry-After": {"3"}}, outbox.ErrRefused, 3 * time.Second},
		{503, http.Header{"Retry-After": {"3"}, headerOutcome: {outcomeRetry}}, outbox.ErrRefused, 3 * time.Second},
		{503, http.Header{"Retry-After": {"99999999999999999999"}}, outbox.ErrUnavailable, 0},
		{503, http.Header{"Retry-After": {"9999999999"}}, outbox.ErrUnavailable, 24 * time.Hour},
		{503, http.Header{"Retry-After": {"-5"}}, outbox.ErrUnavailable, 0},
		{503, http.Header{"Retry-After": {"soon"}}, outbox.ErrUnavailable, 0},
	} {
		header <- test.header
		code <- test.code
		err := p.Send(t.Context(), message("1", ""))
		wantClass(t, err, test.class)
		var status *StatusError
		if got := outbox.DelayOf(err); got != test.want || !errors.As(err, &status) || status.RetryAfter != test.want {
			t.Errorf("%d %v: the delay is %v, the error %v, want %v", test.code, test.header, got, err, test.want)
		}
	}
}

func TestRetryAfterByTheLocalClock(t *testing.T) {
	t.Parallel()
	now := time.Date(1994, 11, 6, 8, 49, 0, 0, time.UTC)
	h := http.Header{"Retry-After": {"Sun, 06 Nov 1994 08:49:37 GMT"}}
	if got := retryAfter(h, now); got != 37*time.Second {
		t.Errorf("got %v, want 37s", got)
	}
	if got := retryAfter(h, now.Add(time.Hour)); got != 0 {
		t.Errorf("of a time that has passed: got %v, want 0", got)
	}
}

// What fails on the way is about the server, or about the message if that names it.
func TestWhatNoAnswerMeans(t *testing.T) {
	t.Parallel()
	hang := newSink(t, func(_ http.ResponseWriter, r posted) { <-r.Context().Done() })
	cut := newSink(t, func(http.ResponseWriter, posted) { panic(http.ErrAbortHandler) })
	garbage := raw(t, "SSH-2.0-OpenSSH\r\n")
	half := raw(t, "HTTP/1.1 200 OK\r\nContent-Le")
	endless := raw(t, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 300<<10))
	for _, test := range []struct{ name, address, want string }{
		{"refused", "http://" + closedPort(t), "connection refused"},
		{"no such host", "http://no-such-host.invalid", "no-such-host.invalid"},
		{"hangs", hang.URL, "no answer within 50ms"},
		{"cut", cut.URL, "EOF"},
		{"garbage", garbage, "malformed HTTP"},
		{"half an answer", half, "connection broken"},
		{"endless headers", endless, "headers exceeded"},
		{"no TLS", strings.Replace(hang.URL, "http:", "https:", 1), "does not look like a TLS handshake"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			timeout := 10 * time.Second
			if test.name == "hangs" {
				timeout = 50 * time.Millisecond
			}
			own := open(t, test.address+"/?token=hunter2", &PublisherConfig{Timeout: timeout})
			others := open(t, "", &PublisherConfig{
				Timeout: timeout, Allow: func(string) bool { return true },
				URL: func(*outbox.Message) string { return test.address + "/?token=hunter2" },
			})
			for p, class := range map[*Publisher]error{own: outbox.ErrUnavailable, others: outbox.ErrRefused} {
				err := publish(t, p, message("1", "")).wait()
				wantClass(t, err, class)
				if text := fmt.Sprint(err); !strings.Contains(text, test.want) || strings.Contains(text, "hunter2") {
					t.Errorf("the error is %q, want it to say %q and no secret", text, test.want)
				}
			}
		})
	}
}

// raw answers each connection with text and closes it.
func raw(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-ended })
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 64<<10))
			_, _ = io.WriteString(c, text)
			c.Close()
		}
	}()
	return "http://" + l.Addr().String()
}

// closedPort returns an address that nothing listens at.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// The status decides, not the rest of the answer.
func TestAnAnswerThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	code := make(chan int, 1)
	s := newSink(t, func(w http.ResponseWriter, r posted) {
		w.WriteHeader(<-code)
		_, _ = io.WriteString(w, "wait for it")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	p := open(t, s.URL, &PublisherConfig{Timeout: 50 * time.Millisecond})
	code <- 200
	publish(t, p, message("1", "")).want(nil)
	code <- 422
	publish(t, p, message("2", "")).want(outbox.ErrRefused)
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	other := newSink(t, nil)
	for _, code := range []int{301, 302, 303, 307, 308} {
		s := newSink(t, func(w http.ResponseWriter, r posted) { http.Redirect(w, r.Request, other.URL, code) })
		p := open(t, s.URL, &PublisherConfig{Headers: http.Header{"Authorization": {"Bearer secret"}}})
		err := publish(t, p, message("1", "")).wait()
		wantClass(t, err, outbox.ErrRefused)
		if !strings.Contains(err.Error(), fmt.Sprint(code)) {
			t.Errorf("the error is %v", err)
		}
	}
	if n := len(other.requests()); n != 0 {
		t.Errorf("%d requests followed a redirect", n)
	}
}

// Where a redirect leads to is not even read: it may be no URL, or have secrets.
func TestARedirectToNowhereIsRefusedToo(t *testing.T) {
	t.Parallel()
	s := newSink(t, func(w http.ResponseWriter, _ posted) {
		w.Header().Set("Location", "http://user:hunter2@exa mple/%zz?token=hunter3")
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	err := publish(t, open(t, s.URL, nil), message("1", "")).wait()
	wantClass(t, err, outbox.ErrRefused)
	if text := fmt.Sprint(err); !strings.Contains(text, "307") || strings.Contains(text, "hunter") {
		t.Errorf("the error is %q, want the status and no secret", text)
	}
}

func TestTheUserOfTheURLIsAuthorized(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	address := strings.Replace(s.URL, "http://", "http://user:p%40ss@", 1)
	publish(t, open(t, address, nil), message("1", "")).want(nil)
	publish(t, open(t, address, &PublisherConfig{Headers: http.Header{"Authorization": {"Bearer token"}}}), message("2", "")).want(nil)
	got := s.requests()
	if user, password, _ := got[0].BasicAuth(); user != "user" || password != "p@ss" {
		t.Errorf("the request is authorized by %q", got[0].Header["Authorization"])
	}
	if auth := got[1].Header["Authorization"]; !slices.Equal(auth, []string{"Bearer token"}) {
		t.Errorf("the request is authorized by %q, want the configured header", auth)
	}
}

// A transport of the user's may be careless.
func TestATransportThatReturnsNothing(t *testing.T) {
	t.Parallel()
	empty := open(t, "http://example.com", &PublisherConfig{Transport: roundTrip(func(*http.Request) (*http.Response, error) { return nil, nil })})
	publish(t, empty, message("1", "")).want(outbox.ErrUnavailable)
	bare := open(t, "http://example.com", &PublisherConfig{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusNoContent}, nil
	})})
	publish(t, bare, message("1", "")).want(nil)
}

// A server, or a tool in its place, may answer by what it got.
func TestAnAnswerIsQuotedWithoutSecrets(t *testing.T) {
	t.Parallel()
	s := newSink(t, func(w http.ResponseWriter, r posted) {
		w.WriteHeader(http.StatusUnauthorized)
		user, password, _ := r.BasicAuth()
		fmt.Fprint(w, "not for ", r.URL.RawQuery, " ", r.Header.Get("Authorization"), " ", strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), " ", r.Header.Get("X-Key"), " ", user, " ", password)
	})
	for _, test := range []struct {
		address, authorization, want string
	}{
		{s.URL + "/?token=swordfish1", "Bearer swordfish2", "not for xxxxx xxxxx xxxxx xxxxx  "},
		{strings.Replace(s.URL, "http://", "http://app:swordfish3@", 1), "", "not for  xxxxx xxxxx xxxxx app xxxxx"},
	} {
		headers := http.Header{"X-Key": {"swordfish4"}}
		if test.authorization != "" {
			headers.Set("Authorization", test.authorization)
		}
		err := publish(t, open(t, test.address, &PublisherConfig{Headers: headers}), message("1", "")).wait()
		var status *StatusError
		if !errors.As(err, &status) || status.Body != strings.TrimSpace(test.want) || strings.Contains(err.Error(), "swordfish") {
			t.Errorf("the error is %v, want %q", err, test.want)
		}
	}
}

func TestAnAnswerIsQuotedInBounds(t *testing.T) {
	t.Parallel()
	s := newSink(t, func(w http.ResponseWriter, _ posted) {
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, "\x1b[31mno\r\nsuch \xff user"+strings.Repeat("x", 1<<20))
	})
	p := open(t, strings.Replace(s.URL, "http://", "http://user:hunter2@", 1)+"/?token=hunter2", nil)
	err := publish(t, p, message("1", "")).wait()
	var status *StatusError
	if !errors.As(err, &status) || !strings.HasPrefix(status.Body, "[31mno  such  user") || len(status.Body) > maxQuoted {
		t.Fatalf("the error is %v", err)
	}
	if text := err.Error(); !strings.Contains(text, "422 Unprocessable Entity: [31mno") || strings.Contains(text, "hunter2") {
		t.Errorf("the error is %q", text)
	}
}
