// Package cloudevent maps messages to CloudEvents 1.0.2 and back
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md), in the
// content modes of its HTTP binding.
//
// The attributes of a message:
//
//	id               ID
//	source           header ce-source if it is a URI reference, else the sender's own
//	type             Type or, if that is empty, Topic
//	time             CreatedAt, RFC 3339, UTC
//	datacontenttype  ContentType
//	subject          header ce-subject
//	dataschema       header ce-dataschema if it is an absolute URI
//	partitionkey     Key (partitioning extension)
//	traceparent      header traceparent (distributed tracing extension)
//	tracestate       header tracestate
//	correlationid    header correlation-id (correlation extension)
//	causationid      header causation-id
//	outboxtopic      Topic; always there, so it tells whose event it is
//	outboxtenant     Tenant
//	outboxversion    Version
//	outboxheaders    what has no place above; see below
//
// An event that has no outboxtopic is another system's: see [Event].
//
// Any other header whose name can be that of an extension (lower-case letters and
// digits, at most 20) and is none of the above is the extension of its name.
//
// CloudEvents allow neither control characters nor, where an attribute has a
// value, an empty one; and several names are taken. So outboxheaders is a JSON
// object, in a string, of all other headers; of the header ce-source, since the
// attribute does not tell whether there was one; and of fields of the message that
// an attribute cannot carry unchanged, under the names of [outbox.HeaderKey] and
// its like. Such a field's own attribute is left out or, if it is required, has
// U+FFFD in the place of what is not allowed. A Type that equals Topic is in there,
// too, to be told from an empty one. In this way every field but DeliverAt,
// ExpiresAt and those of the outbox itself comes back byte for byte, if
// [outbox.Outbox.Emit] would take it, but an ID that is no UUID: see [Event].
//
// A message whose content type is [ContentType] is an event already and is sent as
// it is, with the attributes that it has.
package cloudevent

import (
	"strings"
	"unicode/utf8"

	"github.com/outbox-go/outbox"
)

// SpecVersion is the version of CloudEvents that is spoken.
const SpecVersion = "1.0"

// Content types of the structured and the batched mode. What begins with
// ContentPrefix is one of them, or an event in a format that is not spoken.
const (
	ContentPrefix    = "application/cloudevents"
	ContentType      = "application/cloudevents+json"
	BatchContentType = "application/cloudevents-batch+json"
)

// HeaderPrefix begins the names of the HTTP headers that carry attributes in the
// binary mode.
const HeaderPrefix = "ce-"

// MaxName is the greatest length of an attribute's name.
const MaxName = 20

// Names of attributes, and of the members of the JSON format.
const (
	AttrID              = "id"
	AttrSource          = "source"
	AttrSpecVersion     = "specversion"
	AttrType            = "type"
	AttrTime            = "time"
	AttrDataContentType = "datacontenttype"
	AttrDataSchema      = "dataschema"
	AttrSubject         = "subject"

	AttrPartitionKey  = "partitionkey"
	AttrTraceparent   = outbox.HeaderTraceparent
	AttrTracestate    = outbox.HeaderTracestate
	AttrCorrelationID = "correlationid"
	AttrCausationID   = "causationid"

	AttrOutboxTopic   = "outboxtopic"
	AttrOutboxTenant  = "outboxtenant"
	AttrOutboxVersion = "outboxversion"
	AttrOutboxHeaders = "outboxheaders"

	MemberData       = "data"
	MemberDataBase64 = "data_base64"
)

// Names of the message's headers that stand for attributes which are no field of a
// message.
const (
	HeaderID         = HeaderPrefix + AttrID // of an event of another system
	HeaderSource     = HeaderPrefix + AttrSource
	HeaderSubject    = HeaderPrefix + AttrSubject
	HeaderDataSchema = HeaderPrefix + AttrDataSchema
)

// attributeOf names the attributes of headers that have another name, or a rule of
// their own.
var attributeOf = map[string]string{
	HeaderSource:               AttrSource,
	HeaderSubject:              AttrSubject,
	HeaderDataSchema:           AttrDataSchema,
	outbox.HeaderCorrelationID: AttrCorrelationID,
	outbox.HeaderCausationID:   AttrCausationID,
}

// IsExtension reports whether name is that of an extension which stands for the
// header of the same name: a legal name that has no other meaning here.
func IsExtension(name string) bool { return IsName(name) && !hasMeaning(name) }

// hasMeaning reports whether an attribute, or a member, stands for something else
// than the header of the same name.
func hasMeaning(name string) bool {
	switch name {
	case AttrPartitionKey, AttrCorrelationID, AttrCausationID,
		AttrOutboxTopic, AttrOutboxTenant, AttrOutboxVersion, AttrOutboxHeaders, MemberData:
		return true
	}
	return isCore(name)
}

// isCore reports whether an attribute is one of the specification itself: a string
// that is not empty.
func isCore(name string) bool {
	switch name {
	case AttrID, AttrSource, AttrSpecVersion, AttrType, AttrTime, AttrDataContentType, AttrDataSchema, AttrSubject:
		return true
	}
	return false
}

// IsName reports whether name is a legal name of an attribute: 1 to 20 lower-case
// letters and digits.
func IsName(name string) bool { return len(name) <= MaxName && isAlphanumeric(name) }

// isAlphanumeric reports whether name has lower-case letters and digits alone, and
// at least one: what is longer than MaxName others may send all the same.
func isAlphanumeric(name string) bool {
	if name == "" {
		return false
	}
	for i := 0; i < len(name); i++ {
		if c := name[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9') {
			return false
		}
	}
	return true
}

// IsText reports whether s can be an attribute's value: it is not empty, and UTF-8
// without control characters and what Unicode calls noncharacters.
func IsText(s string) bool {
	return s != "" && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !allowed(r) }) < 0
}

// allowed reports whether a value may have the character (section 3.1, String).
func allowed(r rune) bool {
	switch {
	case r < ' ', 0x7f <= r && r <= 0x9f:
		return false
	case 0xfdd0 <= r && r <= 0xfdef, r&0xfffe == 0xfffe:
		return false
	}
	return true
}

// isToken reports whether s can be the name of a message's header: a token (RFC 9110,
// section 5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
	})
}

// isControl reports whether no value of a message may have the character.
func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// IsURIReference reports whether s is a URI reference (RFC 3986), and not empty.
func IsURIReference(s string) bool {
	_, ok := parseURI(s)
	return ok
}

// IsURI reports whether s is an absolute URI (RFC 3986).
func IsURI(s string) bool {
	u, ok := parseURI(s)
	return ok && u.IsAbs()
}
