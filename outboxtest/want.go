package outboxtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/outbox-go/outbox"
)

// Want describes a message. What is empty or nil is not compared.
type Want struct {
	// Topic is a topic, or a pattern with '*' for one word and '#' for any
	// number.
	Topic string

	// These are compared as they are.
	Key         string
	Tenant      string
	Type        string
	Version     string
	ContentType string

	// Headers must be among those of the message.
	Headers map[string]string

	// Payload is compared as a whole: a []byte with the encoded bytes; with a
	// message of JSON, anything else after it was encoded as JSON, so that the
	// order of keys and white space do not count; with one that is not, a string
	// with the bytes.
	Payload any

	// Codec is for payloads that are encoded otherwise: Payload is encoded with
	// it, and the bytes are compared.
	Codec outbox.Codec
}

// RequireEmitted returns the first of msgs that is as want says, and ends the test
// if there is none, with a list of what is there instead.
func RequireEmitted(t testing.TB, msgs []outbox.Message, want Want) outbox.Message {
	t.Helper()
	w, err := want.matcher()
	if err != nil {
		t.Fatalf("outboxtest: %v", err)
		return outbox.Message{}
	}
	for i := range msgs {
		if len(w.faults(&msgs[i])) == 0 {
			return clone(&msgs[i])
		}
	}
	t.Fatalf("outboxtest: not emitted: %s\n%s", w, w.report(msgs))
	return outbox.Message{}
}

// RequireNotEmitted ends the test if one of msgs is as want says. With the zero
// Want there must be no message at all.
func RequireNotEmitted(t testing.TB, msgs []outbox.Message, want Want) {
	t.Helper()
	w, err := want.matcher()
	if err != nil {
		t.Fatalf("outboxtest: %v", err)
		return
	}
	for i := range msgs {
		if len(w.faults(&msgs[i])) == 0 {
			t.Fatalf("outboxtest: emitted all the same: %s\n  message %d of %d: %s", w, i+1, len(msgs), describe(&msgs[i]))
			return
		}
	}
}

// matcher is a Want with its payload encoded.
type matcher struct {
	Want
	payload []byte
}

func (w Want) matcher() (*matcher, error) {
	if w.Topic != "" {
		if err := outbox.ValidatePattern(w.Topic); err != nil {
			return nil, fmt.Errorf("Want.Topic %q %w", w.Topic, err)
		}
	}
	m := &matcher{Want: w}
	if w.Payload == nil {
		return m, nil
	}
	if raw, ok := w.Payload.([]byte); ok {
		m.payload = raw
		return m, nil
	}
	codec := w.Codec
	if codec == nil {
		codec = outbox.JSON
	}
	var err error
	if m.payload, err = codec.Encode(w.Payload); err != nil {
		return nil, fmt.Errorf("Want.Payload cannot be encoded as %s: %w", codec.ContentType(), err)
	}
	return m, nil
}

// faults tells in what m differs.
func (w *matcher) faults(m *outbox.Message) []string {
	var faults []string
	if w.Topic != "" && !outbox.MatchTopic(w.Topic, m.Topic) {
		faults = append(faults, fmt.Sprintf("its topic is %q", m.Topic))
	}
	compare := func(name, want, got string) {
		if want != "" && want != got {
			faults = append(faults, fmt.Sprintf("its %s is %q", name, got))
		}
	}
	compare("key", w.Key, m.Key)
	compare("tenant", w.Tenant, m.Tenant)
	compare("type", w.Type, m.Type)
	compare("version", w.Version, m.Version)
	compare("content type", w.ContentType, m.ContentType)
	for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
		if got, ok := m.Headers[name]; !ok {
			faults = append(faults, fmt.Sprintf("it has no header %q", name))
		} else if got != w.Headers[name] {
			faults = append(faults, fmt.Sprintf("its header %q is %q", name, got))
		}
	}
	if fault := w.payloadFault(m); fault != "" {
		faults = append(faults, fault)
	}
	return faults
}

func (w *matcher) payloadFault(m *outbox.Message) string {
	const differs = "its payload differs"
	text, isText := w.Payload.(string)
	_, isBytes := w.Payload.([]byte)
	same := false
	switch {
	case w.Payload == nil:
		return ""
	case isBytes, w.Codec != nil:
		same = bytes.Equal(w.payload, m.Payload)
	case isJSON(m.ContentType):
		got, err := decodeJSON(m.Payload)
		if err != nil {
			return "its payload is not JSON: " + err.Error()
		}
		want, err := decodeJSON(w.payload)
		if err != nil {
			return "Want.Payload is not JSON: " + err.Error()
		}
		same = equalJSON(want, got)
	case isText:
		same = text == string(m.Payload)
	default:
		return fmt.Sprintf("its payload is %s: set Want.Codec, or pass []byte", m.ContentType)
	}
	if same {
		return ""
	}
	return differs
}

// isJSON takes a message without a content type for JSON, as workers do.
func isJSON(contentType string) bool {
	codec, ok := outbox.NewCodecs().For(contentType)
	return contentType == "" || ok && codec == outbox.JSON
}

// decodeJSON keeps numbers as they are written: float64 cannot tell large ids
// apart.
func decodeJSON(data []byte) (v any, err error) {
	if !json.Valid(data) {
		return nil, json.Unmarshal(data, &v)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	err = dec.Decode(&v)
	return v, err
}

func equalJSON(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, equalJSON)
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, equalJSON)
	case json.Number:
		b, ok := b.(json.Number)
		return ok && (a == b || equalFloat(a, b))
	}
	return a == b
}

// equalFloat compares numbers of which at least one is written with a fraction
// or an exponent.
func equalFloat(a, b json.Number) bool {
	if !strings.ContainsAny(string(a+b), ".eE") {
		return false
	}
	x, errX := a.Float64()
	y, errY := b.Float64()
	return errX == nil && errY == nil && x == y
}

// String lists what is wanted.
func (w *matcher) String() string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, fmt.Sprintf("%s %q", name, value))
		}
	}
	add("topic", w.Topic)
	add("key", w.Key)
	add("tenant", w.Tenant)
	add("type", w.Type)
	add("version", w.Version)
	add("content type", w.ContentType)
	for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
		parts = append(parts, fmt.Sprintf("header %q: %q", name, w.Headers[name]))
	}
	if w.Payload != nil {
		parts = append(parts, "payload "+show(w.payload))
	}
	if len(parts) == 0 {
		return "any message"
	}
	return strings.Join(parts, ", ")
}

// report lists msgs, each with what is wrong with it.
func (w *matcher) report(msgs []outbox.Message) string {
	if len(msgs) == 0 {
		return "  nothing was emitted"
	}
	var b strings.Builder
	for i := range msgs {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "  message %d of %d: %s\n    %s", i+1, len(msgs), describe(&msgs[i]), strings.Join(w.faults(&msgs[i]), "; "))
	}
	return b.String()
}

// describe shows a message by a Want that is like it.
func describe(m *outbox.Message) string {
	w := matcher{payload: m.Payload, Want: Want{
		Topic: m.Topic, Key: m.Key, Tenant: m.Tenant, Type: m.Type, Version: m.Version,
		ContentType: m.ContentType, Headers: m.Headers, Payload: m.Payload,
	}}
	return w.String()
}

// show returns data as text, shortened.
func show(data []byte) string {
	const most = 500
	format := "%s"
	if !json.Valid(data) {
		format = "%q"
	}
	if len(data) > most {
		return fmt.Sprintf(format+"... (%d bytes)", data[:most], len(data))
	}
	return fmt.Sprintf(format, data)
}
