package cloudevent

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// decodeBinary decodes an event in the binary mode: attributes in the headers, the
// data as body.
func decodeBinary(h http.Header, contentType string, body []byte) (Event, error) {
	attrs := make(map[string]string)
	for header, values := range h {
		name, ok := strings.CutPrefix(strings.ToLower(header), HeaderPrefix)
		if !ok {
			continue
		}
		if len(values) != 1 {
			return Event{}, fmt.Errorf("the header %s%.32s is there more than once", HeaderPrefix, name)
		}
		if name == AttrDataContentType {
			return Event{}, fmt.Errorf("the header %s%s is there: the attribute belongs to Content-Type", HeaderPrefix, name)
		}
		attrs[name] = unescapeHeader(name, values[0])
	}
	if len(attrs) == 0 {
		return Event{}, fmt.Errorf("no CloudEvent: there are neither headers %s* nor a content type %s", HeaderPrefix, ContentType)
	}
	if contentType != "" {
		attrs[AttrDataContentType] = contentType
	}
	return event(attrs, body)
}

// unescapeHeader is the reverse of escapeHeader, and takes a quoted string off its
// quotes, as section 3.1.3.2 of the binding demands. Many senders do not escape:
// what is no escaped value is taken as it is, and so is a URI that would be none
// without its own escapes.
func unescapeHeader(name, value string) string {
	value = unquote(value)
	text, err := url.PathUnescape(value)
	isURI := name == AttrSource || name == AttrDataSchema
	if err != nil || isURI && !IsURIReference(text) {
		return value
	}
	return text
}

// unquote takes a quoted string (RFC 9110, section 5.6.4) off its quotes; all else
// it returns as it is.
func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	var b strings.Builder
	inner := s[1 : len(s)-1]
	for i := 0; i < len(inner); i++ {
		if inner[i] == '\\' && i+1 < len(inner) {
			i++
		}
		b.WriteByte(inner[i])
	}
	return b.String()
}
