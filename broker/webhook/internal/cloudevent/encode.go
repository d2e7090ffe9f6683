package cloudevent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/outbox-go/outbox"
)

// IsEvent reports whether a payload of that content type is an event already.
func IsEvent(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && media == ContentType
}

// AppendJSON appends the event of m in the JSON event format to b
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md).
// source is the attribute of that name for a message without one of its own. An
// error means that m can be no event; b is then as it was.
//
// The payload is, byte for byte, the member data if the content type is JSON and
// the payload a JSON text without white space around it; text of a media type
// text/* is a string; all else is in data_base64.
func AppendJSON(b []byte, m *outbox.Message, source string) ([]byte, error) {
	if IsEvent(m.ContentType) {
		if err := checkEvent(m.Payload); err != nil {
			return b, err
		}
		return append(b, m.Payload...), nil
	}
	attrs, err := attributesOf(m, source)
	if err != nil {
		return b, err
	}
	if contentType := strings.TrimSpace(m.ContentType); contentType != "" {
		attrs = append(attrs, attribute{AttrDataContentType, legalText(contentType)})
	}
	for i, attr := range attrs {
		b = append(b, "{,"[min(i, 1)], '"')
		b = append(b, attr.name...)
		b = append(b, `":`...)
		b = appendString(b, attr.value)
	}
	return append(appendData(b, m), '}'), nil
}

// checkEvent reports why payload is no event that can be sent as it is.
func checkEvent(payload []byte) error {
	if trimmed := bytes.TrimLeft(payload, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' || !json.Valid(payload) || !utf8.Valid(payload) {
		return fmt.Errorf("the payload is not a JSON object, as its content type %s demands", ContentType)
	}
	return nil
}

func appendData(b []byte, m *outbox.Message) []byte {
	switch {
	case len(m.Payload) == 0:
		return b
	case isJSON(m.ContentType) && isBareJSON(m.Payload):
		b = append(b, `,"`+MemberData+`":`...)
		return append(b, m.Payload...)
	case isText(m.ContentType) && utf8.Valid(m.Payload):
		b = append(b, `,"`+MemberData+`":`...)
		return appendString(b, string(m.Payload))
	}
	b = append(b, `,"`+MemberDataBase64+`":"`...)
	b = base64.StdEncoding.AppendEncode(b, m.Payload)
	return append(b, '"')
}

// isJSON reports whether the JSON format takes data of the content type for JSON
// (section 3.1 of the format).
func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	_, subtype, _ := strings.Cut(media, "/")
	return subtype == "json" || strings.HasSuffix(subtype, "+json")
}

// isBareJSON reports whether payload can be read back as it is from a document
// around it.
func isBareJSON(payload []byte) bool {
	const space = " \t\r\n"
	first, last := payload[0], payload[len(payload)-1]
	return strings.IndexByte(space, first) < 0 && strings.IndexByte(space, last) < 0 &&
		utf8.Valid(payload) && json.Valid(payload)
}

// isText reports whether payloads of the content type are text in UTF-8.
func isText(contentType string) bool {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil || !strings.HasPrefix(media, "text/") || isJSON(contentType) {
		return false
	}
	switch strings.ToLower(params["charset"]) {
	case "", "utf-8", "us-ascii":
		return true
	}
	return false
}

// SetHeaders sets the headers of the event of m in binary mode; its payload is the
// body as it is. An error means that m can be no event.
func SetHeaders(h http.Header, m *outbox.Message, source string) error {
	if strings.HasPrefix(strings.ToLower(strings.TrimSpace(m.ContentType)), ContentPrefix) {
		return errors.New("a payload of the content type " + ContentPrefix + "... cannot be sent in binary mode")
	}
	attrs, err := attributesOf(m, source)
	if err != nil {
		return err
	}
	for _, attr := range attrs {
		h.Set(HeaderPrefix+attr.name, EscapeHeader(attr.value))
	}
	if contentType := strings.TrimSpace(m.ContentType); contentType != "" {
		h.Set("Content-Type", legalText(contentType))
	}
	return nil
}

// EscapeHeader percent-encodes all but printable ASCII, and the space, the double
// quote and the percent sign
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md#3132-http-header-values).
func EscapeHeader(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '%' {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// headersText returns headers as a JSON object that can be an attribute's value.
func headersText(headers map[string]string) (string, error) {
	text, err := json.Marshal(headers) // sorts the names
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, r := range string(text) {
		switch high, low := utf16.EncodeRune(r); {
		case allowed(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String(), nil
}

// appendString appends s as a JSON string.
func appendString(b []byte, s string) []byte {
	text, _ := json.Marshal(s) // no string is an error
	return append(b, text...)
}
