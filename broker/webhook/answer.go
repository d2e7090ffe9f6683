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
	// characters.
	Body string
}

func (e *StatusError) Error() string {
	text := strings.TrimSpace(strconv.Itoa(e.Code) + " " + http.StatusText(e.Code))
	if e.Body != "" {
		text += ": " + e.Body
	}
	return text
}

// answered returns what an answer means, and closes it.
func (p *Publisher) answered(resp *http.Response, to target) error {
	if resp.Body == nil { // by a transport of the user's
		resp.Body = http.NoBody
	}
	defer resp.Body.Close() //nolint:errcheck // what was read decides
	beginning, _ := io.ReadAll(io.LimitReader(resp.Body, maxQuoted))
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrained)
	if resp.StatusCode/100 == 2 {
		if to.own {
			p.suspects.clear(to.ids...)
		}
		return nil
	}
	status := &StatusError{Code: resp.StatusCode, RetryAfter: retryAfter(resp.Header, time.Now()), Body: printable(string(beginning))}
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

// printable makes a server's text fit for an error.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return strings.TrimSpace(s)
}
