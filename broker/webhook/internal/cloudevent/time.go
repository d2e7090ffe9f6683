package cloudevent

import (
	"errors"
	"regexp"
	"strings"
	"time"
)

// timestamp is a time by RFC 3339, section 5.6, in upper case. The package time takes
// a comma and any offset, too.
var timestamp = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

// parseTime returns a time, in UTC. A leap second is the first one after it.
func parseTime(text string) (time.Time, error) {
	text = strings.ToUpper(text)
	if !timestamp.MatchString(text) {
		return time.Time{}, errors.New("not a time by RFC 3339")
	}
	const seconds = len("2006-01-02T15:04")
	leap := time.Duration(0)
	if strings.HasPrefix(text[seconds:], ":60") {
		text = text[:seconds] + ":59" + text[seconds+len(":60"):]
		leap = time.Second
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	return at.Add(leap).UTC(), err
}
