package natsjs

import (
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outbox-go/outbox"
)

// Headers of NATS and of MIME that have a place for a field.
const (
	headerMsgID          = nats.MsgIdHdr
	headerExpectedStream = nats.ExpectedStreamHdr
	headerContentType    = "Content-Type"
	headerPin            = "Nats-Pin-Id"
	headerLeft           = "Nats-Pending-Messages"
)

// A header of NATS cannot carry every value: it loses white space around it and
// control characters. Such a value is percent-encoded, and the header has
// another name that says so.
const (
	// suffixEscaped ends the name of a field's header.
	suffixEscaped = "-escaped"
	// prefixUser begins the name of a user's header whose own name means
	// something to the server or to this package, or whose value is encoded.
	prefixUser = "outbox-header-"
)

// headerFor returns the headers of m.
func headerFor(m *outbox.Message) nats.Header {
	h := make(nats.Header, 5+len(m.Headers))
	values := make([]string, 0, 7+len(m.Headers)) // one allocation for all
	set := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1:]
	}
	field := func(name, escaped, value string) {
		switch {
		case value == "":
		case isFragile(value):
			set(escaped, url.PathEscape(value))
		default:
			set(name, value)
		}
	}
	field(headerMsgID, outbox.HeaderID+suffixEscaped, m.ID)
	field(headerContentType, "outbox-content-type"+suffixEscaped, m.ContentType)
	field(outbox.HeaderKey, outbox.HeaderKey+suffixEscaped, m.Key)
	field(outbox.HeaderTenant, outbox.HeaderTenant+suffixEscaped, m.Tenant)
	field(outbox.HeaderType, outbox.HeaderType+suffixEscaped, m.Type)
	field(outbox.HeaderVersion, outbox.HeaderVersion+suffixEscaped, m.Version)
	if !m.CreatedAt.IsZero() {
		set(outbox.HeaderCreatedAt, m.CreatedAt.UTC().Format(time.RFC3339Nano))
	}
	for name, value := range m.Headers {
		set(userHeader(name, value))
	}
	if isFragile(m.ID) {
		set(headerMsgID, url.PathEscape(m.ID)) // for the server, which drops repeats
	}
	return h
}

// userHeader returns the header for a user's.
func userHeader(name, value string) (string, string) {
	if isFragile(value) || isTaken(name) {
		return prefixUser + name, url.PathEscape(value)
	}
	return name, value
}

// readHeader sets the fields of m that h carries.
func readHeader(h nats.Header, m *outbox.Message) {
	for name, values := range h {
		if len(values) == 0 {
			continue
		}
		if field := fieldOf(m, name); field != nil {
			if *field == "" {
				*field = values[0]
			}
			continue
		}
		if strings.HasPrefix(name, outbox.HeaderPrefix) && readOwn(name, values[0], m) {
			continue
		}
		if strings.HasPrefix(name, "Nats-") {
			continue // the server's
		}
		setHeader(m, name, values[0])
	}
}

// readOwn reads the headers that this package names, and tells whether name is
// one of them.
func readOwn(name, value string, m *outbox.Message) bool {
	if name == outbox.HeaderCreatedAt {
		if at, err := time.Parse(time.RFC3339Nano, value); err == nil {
			m.CreatedAt = at.UTC()
		}
		return true
	}
	plain, isField := strings.CutSuffix(name, suffixEscaped)
	user, isUser := strings.CutPrefix(name, prefixUser)
	if !isField && !isUser {
		return false
	}
	decoded, err := url.PathUnescape(value)
	if err != nil {
		decoded = value // of somebody who does not know the rule
	}
	if isUser {
		setHeader(m, user, decoded)
		return true
	}
	field := fieldOf(m, plain)
	switch plain {
	case outbox.HeaderID:
		field = &m.ID
	case "outbox-content-type":
		field = &m.ContentType
	}
	if field != nil {
		*field = decoded // over what stands under the plain name
	}
	return field != nil
}

func setHeader(m *outbox.Message, name, value string) {
	if m.Headers == nil {
		m.Headers = map[string]string{}
	}
	m.Headers[name] = value
}

// fieldOf returns the field that the header called name carries as it is, or nil.
func fieldOf(m *outbox.Message, name string) *string {
	switch name {
	case headerMsgID:
		return &m.ID
	case headerContentType:
		return &m.ContentType
	case outbox.HeaderKey:
		return &m.Key
	case outbox.HeaderTenant:
		return &m.Tenant
	case outbox.HeaderType:
		return &m.Type
	case outbox.HeaderVersion:
		return &m.Version
	}
	return nil
}

// isFragile reports whether value would not arrive as it is.
func isFragile(value string) bool {
	if value == "" {
		return false
	}
	if first, last := value[0], value[len(value)-1]; first <= ' ' || last <= ' ' {
		return true
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

// isTaken reports whether a user's header of that name would be taken for
// another: the server's, NATS's own or one of a field.
func isTaken(name string) bool {
	switch {
	case len(name) >= 5 && strings.EqualFold(name[:5], "Nats-"):
		return true
	case strings.EqualFold(name, headerContentType), strings.EqualFold(name, "Status"), strings.EqualFold(name, "Description"):
		return true
	case !strings.HasPrefix(name, outbox.HeaderPrefix):
		return false
	case strings.HasPrefix(name, prefixUser), name == outbox.HeaderCreatedAt:
		return true
	}
	plain := strings.TrimSuffix(name, suffixEscaped)
	return fieldOf(&outbox.Message{}, plain) != nil || plain == outbox.HeaderID || plain == "outbox-content-type"
}
