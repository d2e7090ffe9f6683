package webhook

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/outbox-go/outbox"
)

const (
	// maxDrained is how much of an answer is read for its connection to be used
	// again.
	maxDrained = 64 << 10
	// maxQuoted is how much of it an error shows.
	maxQuoted = 512
	// minSecret is the length of what is blotted out: a shorter value is no secret.
	minSecret = 6
	// maxRetryAfter bounds what a server may ask for.
	maxRetryAfter = 24 * time.Hour
)

// StatusError is the answer of a server that did not take a message. It is in the
// errors that the publisher's answers are.
type StatusError struct {
	// Code is the status code.
	Code int
	// RetryAfter is how long the server asked to be left alone, at most a day, 0 if
	// it did not ask.
	RetryAfter time.Duration
	// Body is the beginning of the answer's body, at most 512 bytes, without control
	// characters and what authorized the request.
	Body string
}

func (e *StatusError) Error() string {
	text := strings.TrimSpace(strconv.Itoa(e.Code) + " " + http.StatusText(e.Code))
	if e.Body != "" {
		text += ": " + e.Body
	}
	return text
}

// answered returns what an answer to a request with the headers sent means, and closes
// it.
func (p *Publisher) answered(resp *http.Response, to target, sent http.Header) error {
	if resp.Body == nil { // by a transport of the user's
		resp.Body = http.NoBody
	}
	defer resp.Body.Close()                                            //nolint:errcheck // what was read decides
	beginning, _ := io.ReadAll(io.LimitReader(resp.Body, 4*maxQuoted)) // to know secrets that the end would cut
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrained)
	if resp.StatusCode/100 == 2 {
		if to.own {
			p.suspects.clear(to.ids...)
		}
		return nil
	}
	status := &StatusError{Code: resp.StatusCode, RetryAfter: retryAfter(resp.Header, time.Now()), Body: quoted(p.withoutSecrets(string(beginning), to, sent))}
	if resp.Header.Get(headerOutcome) == outcomeRetry {
		to.own = false // the server is well, and speaks of the message alone
	}
	err := p.classify(status, to)
	if status.RetryAfter > 0 {
		return outbox.RetryAfter(status.RetryAfter, err)
	}
	return err
}

func (p *Publisher) classify(status *StatusError, to target) error {
	err := fmt.Errorf("webhook: %s answered %w", to.url.Host, status)
	switch status.Code {
	case http.StatusRequestEntityTooLarge, http.StatusRequestHeaderFieldsTooLarge:
		return outbox.Invalid(err)
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if to.own {
			return outbox.Unavailable(err)
		}
	case http.StatusBadGateway, http.StatusGatewayTimeout: // a proxy got no answer
		if to.own {
			return p.unanswered(to, err)
		}
	}
	return outbox.Refused(err)
}

// withoutSecrets blots out of a server's text what authorizes requests: some servers,
// and many tools to look at requests, answer by what they got.
func (p *Publisher) withoutSecrets(text string, to target, sent http.Header) string {
	if !to.own {
		return text // none were sent
	}
	hidden := []string{sent.Get("Authorization"), to.url.RawQuery}
	for _, values := range p.config.Headers {
		hidden = append(hidden, values...)
	}
	if to.url.User != nil {
		password, _ := to.url.User.Password()
		hidden = append(hidden, password)
	}
	for _, value := range hidden {
		_, token, _ := strings.Cut(value, " ") // behind Bearer or Basic
		for _, secret := range []string{value, token} {
			if len(secret) >= minSecret {
				text = strings.ReplaceAll(text, secret, "xxxxx")
			}
		}
	}
	return text
}

// retryAfter reads the header Retry-After, in seconds or as a date (RFC 9110,
// section 10.2.3). A date is taken by the server's clock if the answer tells it.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return max(0, min(at.Sub(now), maxRetryAfter))
}

// quoted makes the beginning of a server's text fit for an error.
func quoted(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), maxQuoted)], ""))
	return strings.TrimSpace(s)
}
