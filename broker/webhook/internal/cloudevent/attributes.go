package cloudevent

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
)

// attribute is a name and a legal value.
type attribute struct{ name, value string }

// attributes are those of an event, in the order in which they are written. It is
// the same each time, so that a repeated request has the same bytes.
type attributes struct {
	list []attribute
	left map[string]string // what goes into outboxheaders
}

// attributesOf returns all attributes of m but datacontenttype, whose place differs
// by mode.
func attributesOf(m *outbox.Message, source string) ([]attribute, error) {
	if m.ID == "" {
		return nil, errors.New("the message has no id, which a CloudEvent needs")
	}
	if m.Type == "" && m.Topic == "" {
		return nil, errors.New("the message has neither type nor topic, one of which a CloudEvent needs")
	}
	if s := m.Headers[HeaderSource]; IsURIReference(s) {
		source = s
	}
	a := &attributes{list: make([]attribute, 0, 12+len(m.Headers))}
	a.add(AttrSpecVersion, SpecVersion)
	a.required(AttrID, m.ID, outbox.HeaderID)
	a.add(AttrSource, source)
	if m.Type == "" {
		a.required(AttrType, m.Topic, outbox.HeaderTopic)
	} else {
		a.required(AttrType, m.Type, outbox.HeaderType)
	}
	if m.Type != "" && m.Type == m.Topic {
		a.leave(outbox.HeaderType, m.Type)
	}
	if at := m.CreatedAt.UTC(); !m.CreatedAt.IsZero() && 0 <= at.Year() && at.Year() <= 9999 {
		a.add(AttrTime, at.Format(time.RFC3339Nano))
	}
	a.optional(AttrPartitionKey, m.Key, outbox.HeaderKey)
	a.optional(AttrOutboxTopic, m.Topic, outbox.HeaderTopic)
	a.optional(AttrOutboxTenant, m.Tenant, outbox.HeaderTenant)
	a.optional(AttrOutboxVersion, m.Version, outbox.HeaderVersion)
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		a.header(name, m.Headers[name])
	}
	if len(a.left) == 0 {
		return a.list, nil
	}
	text, err := headersText(a.left)
	if err != nil {
		return nil, fmt.Errorf("headers: %w", err)
	}
	return append(a.list, attribute{AttrOutboxHeaders, text}), nil
}

func (a *attributes) add(name, value string) {
	a.list = append(a.list, attribute{name, value})
}

// leave puts a header aside for outboxheaders.
func (a *attributes) leave(header, value string) {
	if a.left == nil {
		a.left = make(map[string]string)
	}
	a.left[header] = value
}

// required adds an attribute, in a legal form if value is not one.
func (a *attributes) required(name, value, header string) {
	if !IsText(value) {
		a.leave(header, value)
		value = legalText(value)
	}
	a.add(name, value)
}

// optional adds an attribute if it has a value; one that is not legal goes to
// outboxheaders.
func (a *attributes) optional(name, value, header string) {
	switch {
	case IsText(value):
		a.add(name, value)
	case value != "":
		a.leave(header, value)
	}
}

// header adds a header of the message.
func (a *attributes) header(name, value string) {
	attr := attributeOf[name]
	legal := IsText(value)
	switch {
	case name == HeaderSource:
		legal = false // it is the attribute, but has to be told from the sender's own
	case name == HeaderDataSchema:
		legal = IsURI(value)
	case attr == "" && IsExtension(name):
		attr = name
	}
	if attr == "" || !legal {
		a.leave(name, value)
		return
	}
	a.add(attr, value)
}

// legalText puts U+FFFD in the place of what a value may not have.
func legalText(s string) string {
	return strings.Map(func(r rune) rune {
		if !allowed(r) {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

func parseURI(s string) (*url.URL, bool) {
	if s == "" {
		return nil, false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c > '~' || strings.IndexByte(`"<>\^{|}`+"`", c) >= 0 {
			return nil, false
		}
	}
	u, err := url.Parse(s)
	return u, err == nil
}
