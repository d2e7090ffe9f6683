package natsjs

import (
	"net/url"
	"slices"
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

// headers is room for the headers of a message, to be used for one after another.
type headers struct {
	header nats.Header
	values []string // of all names: one allocation for all
}

// headerFor returns the headers of m.
func headerFor(m *outbox.Message) nats.Header { return new(headers).fill(m) }

// fill returns the headers of m, which are good until the next fill.
func (h *headers) fill(m *outbox.Message) nats.Header {
	if h.header == nil {
		h.header = make(nats.Header, 5+len(m.Headers))
	}
	clear(h.header)
	clear(h.values) // what it had of another message must not stay in memory
	h.values = slices.Grow(h.values[:0], 7+len(m.Headers))
	h.field(headerMsgID, outbox.HeaderID+suffixEscaped, m.ID)
	h.field(headerContentType, "outbox-content-type"+suffixEscaped, m.ContentType)
	h.field(outbox.HeaderKey, outbox.HeaderKey+suffixEscaped, m.Key)
	h.field(outbox.HeaderTenant, outbox.HeaderTenant+suffixEscaped, m.Tenant)
	h.field(outbox.HeaderType, outbox.HeaderType+suffixEscaped, m.Type)
	h.field(outbox.HeaderVersion, outbox.HeaderVersion+suffixEscaped, m.Version)
	if !m.CreatedAt.IsZero() {
		h.set(outbox.HeaderCreatedAt, m.CreatedAt.UTC().Format(time.RFC3339Nano))
	}
	for name, value := range m.Headers {
		h.set(userHeader(name, value))
	}
	if isFragile(m.ID) {
		h.set(headerMsgID, url.PathEscape(m.ID)) // for the server, which drops repeats
	}
	return h.header
}

// field sets the header of a field, the escaped one where the value needs it.
func (h *headers) field(name, escaped, value string) {
	switch {
	case value == "":
	case isFragile(value):
		h.set(escaped, url.PathEscape(value))
	default:
		h.set(name, value)
	}
}

func (h *headers) set(name, value string) {
	h.values = append(h.values, value)
	h.header[name] = h.values[len(h.values)-1:]
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
