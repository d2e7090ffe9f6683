package outbox

import (
	"maps"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Names of the headers that carry a [Failure] with a message that is retried or
// dead.
const (
	HeaderAttempts      = "outbox-attempts" // in decimal
	HeaderReason        = "outbox-reason"
	HeaderHandler       = "outbox-handler"
	HeaderQueue         = "outbox-queue"
	HeaderFirstFailedAt = "outbox-first-failed-at" // RFC 3339 with nanoseconds, UTC
	HeaderFailedAt      = "outbox-failed-at"       // RFC 3339 with nanoseconds, UTC
)

// Failure is the history of a message that could not be handled.
type Failure struct {
	// Attempts counts the attempts that have failed.
	Attempts int

	// Reason is the error of the last attempt.
	Reason string

	// Handler is the pattern of the handler, empty if none matched; Queue the
	// queue that the message was delivered from.
	Handler string
	Queue   string

	// FirstAt and LastAt are the times at which the first and the last attempt
	// failed, by the worker's clock, in UTC.
	FirstAt time.Time
	LastAt  time.Time
}

// maxAttempts bounds what a header, which anybody can have written, is taken for.
const maxAttempts = 1 << 20

// maxReason is the greatest length of a reason on its way, in bytes.
const maxReason = 1000

// Headers returns f as headers, for drivers: what is empty has none. The reason is
// cut to 1000 bytes, and its control characters become spaces.
func (f *Failure) Headers() map[string]string {
	h := make(map[string]string, 6)
	set := func(name, value string) {
		if value != "" {
			h[name] = value
		}
	}
	set(HeaderAttempts, strconv.Itoa(f.Attempts))
	set(HeaderReason, reasonText(f.Reason))
	set(HeaderHandler, f.Handler)
	set(HeaderQueue, f.Queue)
	for name, at := range map[string]time.Time{HeaderFirstFailedAt: f.FirstAt, HeaderFailedAt: f.LastAt} {
		if !at.IsZero() {
			set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	return h
}

// TakeFailure removes the headers of a failure from h and returns the failure, nil
// if there is none, for drivers. What cannot be read counts as empty.
func TakeFailure(h map[string]string) *Failure {
	if !hasFailure(h) {
		return nil // mostly, and it costs nothing
	}
	attempts, err := strconv.Atoi(h[HeaderAttempts])
	f := &Failure{Attempts: min(max(0, attempts), maxAttempts), Reason: h[HeaderReason], Handler: h[HeaderHandler], Queue: h[HeaderQueue]}
	found := err == nil
	for name, at := range map[string]*time.Time{HeaderFirstFailedAt: &f.FirstAt, HeaderFailedAt: &f.LastAt} {
		if t, err := time.Parse(time.RFC3339Nano, h[name]); err == nil {
			*at = t.UTC()
		}
	}
	maps.DeleteFunc(h, func(name, _ string) bool { return isFailureHeader(name) })
	if !found {
		return nil
	}
	return f
}

func hasFailure(h map[string]string) bool {
	for name := range h {
		if isFailureHeader(name) {
			return true
		}
	}
	return false
}

func isFailureHeader(name string) bool {
	switch name {
	case HeaderAttempts, HeaderReason, HeaderHandler, HeaderQueue, HeaderFirstFailedAt, HeaderFailedAt:
		return true
	}
	return false
}

// reasonText makes s fit for a header.
func reasonText(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	s = strings.TrimSpace(s)
	if len(s) <= maxReason {
		return s
	}
	cut := maxReason - len("...")
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "..."
}
