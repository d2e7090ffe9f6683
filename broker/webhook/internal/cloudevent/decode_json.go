package cloudevent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

func checkJSON(body []byte) error {
	if !utf8.Valid(body) || !json.Valid(body) {
		return errors.New("the body is not JSON in UTF-8")
	}
	return nil
}

func decodeBatch(body []byte, most int) ([]Event, error) {
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if first, err := dec.Token(); err != nil || first != json.Delim('[') {
		return nil, errors.New("the batch is not a JSON array")
	}
	var events []Event
	for dec.More() {
		if len(events) == most {
			return nil, fmt.Errorf("%w: a batch may have %d", ErrTooMany, most)
		}
		var object json.RawMessage
		if err := dec.Decode(&object); err != nil {
			return nil, fmt.Errorf("event %d: %w", len(events), err)
		}
		e, err := decodeObject(object)
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", len(events), err)
		}
		events = append(events, e)
	}
	return events, nil
}

// decodeObject decodes an event in the JSON format, of which the syntax is known to
// be right.
func decodeObject(object []byte) (Event, error) {
	values, err := members(object)
	if err != nil {
		return Event{}, err
	}
	data, base64Data := values[MemberData], values[MemberDataBase64]
	delete(values, MemberData)
	delete(values, MemberDataBase64)
	attrs := make(map[string]string, len(values))
	for name, value := range values {
		if err := setAttribute(attrs, name, value); err != nil {
			return Event{}, err
		}
	}
	payload, err := payloadOf(data, base64Data, attrs[AttrDataContentType])
	if err != nil {
		return Event{}, err
	}
	return event(attrs, payload)
}

// members returns the members of a JSON object, each as it is written.
func members(object []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(object))
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		return nil, errors.New("the event is not a JSON object")
	}
	values := make(map[string]json.RawMessage)
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		if _, twice := values[name]; twice {
			return nil, fmt.Errorf("the member %.32q is there twice", name)
		}
		values[name] = value
	}
	return values, nil
}

// setAttribute sets an attribute from its JSON value, unless it is null, by section
// 2.2 of the format.
func setAttribute(attrs map[string]string, name string, raw json.RawMessage) error {
	switch c := raw[0]; {
	case c == 'n':
		return nil
	case c == '"':
		var text string
		if json.Unmarshal(raw, &text) != nil || hasLoneSurrogate(raw) {
			return fmt.Errorf("the attribute %.32q is not a string of Unicode characters", name)
		}
		attrs[name] = text
		return nil
	case isCore(name):
		return fmt.Errorf("the attribute %s is not a string", name)
	case c == 't', c == 'f':
		attrs[name] = string(raw)
		return nil
	case c == '{', c == '[':
		return fmt.Errorf("the attribute %.32q is an object or an array", name)
	}
	if _, err := strconv.ParseInt(string(raw), 10, 32); err != nil {
		return fmt.Errorf("the attribute %.32q is a number, but not an integer of 32 bits", name)
	}
	attrs[name] = string(raw)
	return nil
}

// payloadOf returns what the members data and data_base64, each nil if it is not
// there, stand for with data of that content type.
func payloadOf(data, base64Data json.RawMessage, contentType string) ([]byte, error) {
	if base64Data != nil && string(data) == "null" {
		data = nil
	}
	switch {
	case data != nil && base64Data != nil:
		return nil, fmt.Errorf("the members %s and %s are both there", MemberData, MemberDataBase64)
	case base64Data != nil:
		var text *string
		if err := json.Unmarshal(base64Data, &text); err != nil {
			return nil, fmt.Errorf("the member %s is not a string", MemberDataBase64)
		}
		if text == nil {
			return nil, nil
		}
		payload, err := base64.StdEncoding.DecodeString(*text)
		if err != nil {
			return nil, fmt.Errorf("the member %s is not base64", MemberDataBase64)
		}
		return payload, nil
	case data == nil, contentType == "", isJSON(contentType):
		return data, nil
	}
	var text *string
	if json.Unmarshal(data, &text) != nil || hasLoneSurrogate(data) {
		return nil, fmt.Errorf("the member %s is not a string, as its content type %.64q demands", MemberData, contentType)
	}
	if text == nil {
		return nil, nil
	}
	return []byte(*text), nil
}

// hasLoneSurrogate reports whether JSON has an escaped half of a character, which
// encoding/json takes for U+FFFD: two ids that differ would be one.
func hasLoneSurrogate[T ~string | ~[]byte](text T) bool {
	for i := 0; i+1 < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		if i++; text[i] != 'u' {
			continue
		}
		r := escaped(text, i-1)
		if !utf16.IsSurrogate(r) {
			continue
		}
		if utf16.DecodeRune(r, escaped(text, i+5)) == utf8.RuneError {
			return true
		}
		i += 10 // to the end of the second half
	}
	return false
}

// escaped returns the character of the form \uXXXX at i, or -1 if there is none.
func escaped[T ~string | ~[]byte](text T, i int) rune {
	if i+6 > len(text) || text[i] != '\\' || text[i+1] != 'u' {
		return -1
	}
	r, err := strconv.ParseUint(string(text[i+2:i+6]), 16, 32)
	if err != nil {
		return -1
	}
	return rune(r)
}
