package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
)

// Content types of the codecs that the root package brings.
const (
	ContentTypeJSON  = "application/json"
	ContentTypeBytes = "application/octet-stream"
)

// Codec turns values into bytes and back, for one content type. Its methods
// must be safe for concurrent use.
type Codec interface {
	// ContentType is the media type that Encode produces and Decode reads,
	// without parameters, in lower case.
	ContentType() string
	Encode(v any) ([]byte, error)
	// Decode reads data into v, a non-nil pointer.
	Decode(data []byte, v any) error
}

// StrictCodec is a [Codec] that can refuse what the value has no place for. A
// worker's handler may ask for it.
type StrictCodec interface {
	Codec
	// DecodeStrict is Decode, but a field of data that v has no place for is an
	// error.
	DecodeStrict(data []byte, v any) error
}

// JSON encodes with encoding/json, without escaping HTML characters.
var JSON Codec = jsonCodec{}

// Bytes passes []byte and string through unchanged.
var Bytes Codec = bytesCodec{}

type jsonCodec struct{}

func (jsonCodec) ContentType() string { return ContentTypeJSON }

func (jsonCodec) Encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func (jsonCodec) Decode(data []byte, v any) error { return json.Unmarshal(data, v) }

func (jsonCodec) DecodeStrict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF // an empty payload
		}
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the JSON value")
	}
	return nil
}

type bytesCodec struct{}

func (bytesCodec) ContentType() string { return ContentTypeBytes }

func (bytesCodec) Encode(v any) ([]byte, error) {
	switch v := v.(type) {
	case []byte:
		return v, nil
	case string:
		return []byte(v), nil
	}
	return nil, fmt.Errorf("%T is neither []byte nor string", v)
}

// DecodeStrict is Decode: bytes have no fields.
func (c bytesCodec) DecodeStrict(data []byte, v any) error { return c.Decode(data, v) }

func (bytesCodec) Decode(data []byte, v any) error {
	switch v := v.(type) {
	case *[]byte:
		*v = data
		return nil
	case *string:
		*v = string(data)
		return nil
	}
	return fmt.Errorf("%T is neither *[]byte nor *string", v)
}

// Codecs finds a codec by content type.
type Codecs struct {
	byType map[string]Codec
}

// NewCodecs returns a set with [JSON], [Bytes] and more; a later codec replaces
// an earlier one of its content type.
func NewCodecs(more ...Codec) *Codecs {
	c := &Codecs{byType: make(map[string]Codec, 2+len(more))}
	for _, codec := range append([]Codec{JSON, Bytes}, more...) {
		c.byType[codec.ContentType()] = codec
	}
	return c
}

// For returns the codec of contentType, whose parameters are ignored, and
// whether there is one. Any type with the suffix "+json" (RFC 6839) is JSON.
func (c *Codecs) For(contentType string) (Codec, bool) {
	if codec, ok := c.byType[contentType]; ok {
		return codec, true
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil, false
	}
	if codec, ok := c.byType[media]; ok {
		return codec, true
	}
	if len(media) > 5 && media[len(media)-5:] == "+json" {
		return c.byType[ContentTypeJSON], true
	}
	return nil, false
}
