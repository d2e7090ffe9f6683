package outbox

import (
	"errors"
	"fmt"
	"mime"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxName        = 512
	maxHeaderName  = 255
	maxHeaderValue = 8 << 10
)

// validate returns all that is wrong with the fields of e other than ID and
// Payload.
func validate(i int, e *Event) []error {
	var errs []error
	if err := ValidateTopic(e.Topic); err != nil {
		errs = append(errs, fieldError(i, "Topic", e.Topic, err.Error()))
	}
	for _, f := range [...]struct{ name, value string }{
		{"Key", e.Key}, {"Tenant", e.Tenant}, {"Type", e.Type}, {"Version", e.Version},
	} {
		if reason := textFault(f.value, maxName); reason != "" {
			errs = append(errs, fieldError(i, f.name, f.value, reason))
		}
	}
	if e.ContentType != "" && e.ContentType != ContentTypeJSON {
		if _, _, err := mime.ParseMediaType(e.ContentType); err != nil || textFault(e.ContentType, maxHeaderName) != "" {
			errs = append(errs, fieldError(i, "ContentType", e.ContentType, "is not a media type such as application/json"))
		}
	}
	for _, f := range [...]struct {
		name string
		at   time.Time
	}{{"DeliverAt", e.DeliverAt}, {"ExpiresAt", e.ExpiresAt}} {
		if year := f.at.UTC().Year(); !f.at.IsZero() && (year < 1970 || year > 9999) {
			errs = append(errs, fieldError(i, f.name, f.at.Format(time.RFC3339), "must be between the years 1970 and 9999"))
		}
	}
	if !e.ExpiresAt.IsZero() && !e.ExpiresAt.After(e.DeliverAt) {
		errs = append(errs, fieldError(i, "ExpiresAt", e.ExpiresAt.Format(time.RFC3339), "is not later than DeliverAt"))
	}
	for name, value := range e.Headers {
		if reason := headerNameFault(name); reason != "" {
			errs = append(errs, fieldError(i, "Headers", name, reason))
		}
		if reason := textFault(value, maxHeaderValue); reason != "" {
			errs = append(errs, fieldError(i, "Headers["+name+"]", value, reason))
		}
	}
	return errs
}

const maxRoute = 64

// ValidateRoute reports what is wrong with the name of a route: 1 to 64 bytes,
// letters, digits, "_", "-" and "." are allowed.
func ValidateRoute(name string) error {
	switch {
	case name == "":
		return errors.New("is empty")
	case len(name) > maxRoute:
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(name), maxRoute)
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '.') {
			return fmt.Errorf("has the character %q: letters, digits, _, - and . are allowed", c)
		}
	}
	return nil
}

// textFault tells why s cannot be a field's value, or "".
func textFault(s string, most int) string {
	if len(s) > most {
		return fmt.Sprintf("has %d bytes, at most %d are allowed", len(s), most)
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return fmt.Sprintf("has the control character %q at byte %d", s[i], i)
		}
	}
	if !utf8.ValidString(s) {
		return "is not valid UTF-8"
	}
	return ""
}

// headerNameFault tells why name cannot name a header, or "": it must be a token
// by RFC 9110, section 5.6.2, and not one of ours.
func headerNameFault(name string) string {
	switch {
	case name == "":
		return "has an empty name"
	case len(name) > maxHeaderName:
		return fmt.Sprintf("has a name of %d bytes, at most %d are allowed", len(name), maxHeaderName)
	case len(name) >= len(HeaderPrefix) && strings.EqualFold(name[:len(HeaderPrefix)], HeaderPrefix):
		return "has a name that begins with " + HeaderPrefix + ", which is reserved"
	}
	for i := 0; i < len(name); i++ {
		if !isTokenByte(name[i]) {
			return fmt.Sprintf("has the character %q in its name: letters, digits and !#$%%&'*+-.^_`|~ are allowed", name[i])
		}
	}
	return ""
}

func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
