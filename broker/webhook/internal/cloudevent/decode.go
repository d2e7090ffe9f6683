package cloudevent

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox"
)

// What [Decode] wraps where its error is not plainly that there is no event.
var (
	// ErrMediaType: the content type is not one that is spoken.
	ErrMediaType = errors.New("unsupported media type")
	// ErrTooMany: a batch has more events than are taken.
	ErrTooMany = errors.New("too many events")
)

// Event is an event that came by HTTP.
type Event struct {
	outbox.Message

	// Foreign tells that the sender was not this module's publisher. Topic is empty
	// then, and the source and the id are also there as they came: [HeaderSource],
	// [HeaderID]. ID is both, which identify an event together, joined by a space; but
	// a UUID of this module's publisher, which is unique by itself, is the bare id.
	Foreign bool
}

// Decode returns the events of a request, at most that many in a batch, in the
// content mode that its content type tells. A batch may be empty. It takes all or
// nothing: any event that is none makes an error, of which the text tells what is
// wrong and where, and quotes no more than the beginning of an attribute.
func Decode(h http.Header, body []byte, most int) ([]Event, error) {
	if len(h.Values("Content-Type")) > 1 {
		return nil, errors.New("there is more than one header Content-Type")
	}
	contentType := h.Get("Content-Type")
	if !strings.HasPrefix(strings.ToLower(strings.TrimSpace(contentType)), ContentPrefix) {
		e, err := decodeBinary(h, contentType, body)
		return []Event{e}, err
	}
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil || media != ContentType && media != BatchContentType {
		return nil, fmt.Errorf("%w: of the events of the type %s... those of %s and %s are taken", ErrMediaType, ContentPrefix, ContentType, BatchContentType)
	}
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii") {
		return nil, fmt.Errorf("%w: the charset is %.32q, JSON is taken in utf-8", ErrMediaType, charset)
	}
	if media == BatchContentType {
		return decodeBatch(body, most)
	}
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	e, err := decodeObject(body)
	return []Event{e}, err
}

// event makes an event of its attributes, datacontenttype among them, and data.
func event(attrs map[string]string, data []byte) (Event, error) {
	if err := checkAttributes(attrs); err != nil {
		return Event{}, err
	}
	e := Event{Message: outbox.Message{
		ID: attrs[AttrID], Topic: attrs[AttrOutboxTopic], Key: attrs[AttrPartitionKey], Tenant: attrs[AttrOutboxTenant],
		Type: attrs[AttrType], Version: attrs[AttrOutboxVersion], ContentType: attrs[AttrDataContentType], Payload: data,
	}}
	if text := attrs[AttrTime]; text != "" {
		e.CreatedAt, _ = parseTime(text) // was checked
	}
	for attr, value := range attrs {
		if name := headerOf(attr); name != "" {
			e.setHeader(name, value)
		}
	}
	left, err := takeLeft(&e.Message, attrs[AttrOutboxHeaders])
	if err != nil {
		return Event{}, err
	}
	switch {
	case e.Topic == "":
		e.Foreign = true
		e.setHeader(HeaderSource, attrs[AttrSource])
		e.setHeader(HeaderID, attrs[AttrID])
	case attrs[AttrType] == e.Topic && left[outbox.HeaderType] == "":
		e.Type = "" // the topic was in its place
	}
	if e.Foreign || !isUUID(e.ID) {
		e.ID = attrs[AttrSource] + " " + e.ID
	}
	return e, nil
}

// isUUID reports whether an id is a UUID in its usual form.
func isUUID(id string) bool {
	const length = 36
	return len(id) == length && uuid.Validate(id) == nil
}

// headerOf returns the name of the header that stands for an attribute, "" for those
// that are a field of the message or nothing of their own.
func headerOf(attr string) string {
	switch attr {
	case AttrSubject:
		return HeaderSubject
	case AttrDataSchema:
		return HeaderDataSchema
	case AttrCorrelationID:
		return outbox.HeaderCorrelationID
	case AttrCausationID:
		return outbox.HeaderCausationID
	}
	if hasMeaning(attr) {
		return ""
	}
	return attr
}

// takeLeft reads the attribute outboxheaders and puts each of them to its place, by
// the rules of [outbox.Outbox.Emit].
func takeLeft(m *outbox.Message, text string) (left map[string]string, err error) {
	if text == "" {
		return nil, nil
	}
	if json.Unmarshal([]byte(text), &left) != nil || hasLoneSurrogate(text) {
		return nil, fmt.Errorf("the attribute %s is not a JSON object of strings", AttrOutboxHeaders)
	}
	for name, value := range left {
		if !isToken(name) || strings.ContainsFunc(value, isControl) {
			return nil, fmt.Errorf("the attribute %s has the header %.32q, of which the name or the value has a character that is not allowed", AttrOutboxHeaders, name)
		}
		switch name {
		case outbox.HeaderID:
			m.ID = value
		case outbox.HeaderTopic:
			m.Topic = value
		case outbox.HeaderKey:
			m.Key = value
		case outbox.HeaderTenant:
			m.Tenant = value
		case outbox.HeaderType:
			m.Type = value
		case outbox.HeaderVersion:
			m.Version = value
		default:
			setHeader(m, name, value)
		}
	}
	return left, nil
}

func (e *Event) setHeader(name, value string) { setHeader(&e.Message, name, value) }

func setHeader(m *outbox.Message, name, value string) {
	if m.Headers == nil {
		m.Headers = make(map[string]string)
	}
	m.Headers[name] = value
}

// checkAttributes reports the first fault of attributes, by the rules of the
// specification, section 3.
func checkAttributes(attrs map[string]string) error {
	if version := attrs[AttrSpecVersion]; version != SpecVersion {
		return fmt.Errorf("the attribute %s is %.16q: events of version %s are taken", AttrSpecVersion, version, SpecVersion)
	}
	for _, name := range []string{AttrID, AttrSource, AttrType} {
		if attrs[name] == "" {
			return fmt.Errorf("the attribute %s is missing or empty", name)
		}
	}
	for name, value := range attrs {
		if reason := attributeFault(name, value); reason != "" {
			return fmt.Errorf("the attribute %.32q, %.64q, %s", name, value, reason)
		}
	}
	return nil
}

// attributeFault tells why an attribute cannot be of that name or value, or "".
func attributeFault(name, value string) string {
	switch {
	case !isAlphanumeric(name):
		return "has a name of other than lower-case letters and digits"
	case value == "" && isCore(name):
		return "is empty"
	case value != "" && !IsText(value):
		return "has a character that is not allowed, or is not UTF-8"
	}
	switch name {
	case AttrSource:
		if !IsURIReference(value) {
			return "is not a URI reference"
		}
	case AttrDataSchema:
		if !IsURI(value) {
			return "is not an absolute URI"
		}
	case AttrTime:
		if _, err := parseTime(value); err != nil {
			return "is not a time by RFC 3339"
		}
	case AttrDataContentType:
		if _, _, err := mime.ParseMediaType(value); err != nil {
			return "is not a media type"
		}
	}
	return ""
}
