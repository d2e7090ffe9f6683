// Package msgpack encodes payloads as MessagePack, by
// github.com/vmihailenco/msgpack/v5.
//
//	ob := outbox.New(store, outbox.WithCodecs(msgpack.Codec))
//	err := ob.Emit(ctx, tx, outbox.Event{Topic: "user.created", ContentType: msgpack.ContentType, Payload: user})
//
//	w := worker.New(sub, &worker.Config{Queue: "billing", Codecs: []outbox.Codec{msgpack.Codec}})
//
// # Encoding
//
// A struct becomes a map. The key of a field is the name in its tag "msgpack",
// else in its tag "json", else the name of the field; of the options in either,
// omitempty counts, and "-" leaves the field out; the library's own option intern
// cannot be decoded. Integers take the fewest bytes.
// The keys of a map[string]string, map[string]bool or map[string]any are sorted,
// so that equal values have equal bytes. A []byte is binary, and a [time.Time] is
// the timestamp of the specification, without its time zone.
//
// # Decoding
//
// The names of fields are compared exactly, unlike those of encoding/json. What
// is nil sets the zero value. A timestamp comes in the local time zone. An any
// gets map[string]any, []any, string, []byte, bool, nil, a [time.Time], a float32
// or float64, or of the sized integer types that of the encoding: int8 for a
// small one. The keys of such a map must be strings.
//
// An integer that the type of its field, element or key cannot hold is an error.
// Only in a struct that came as an array, and in a field by a name of the
// library's option alias, it is cut to the bits that there are.
//
// Payloads may be hostile: the memory that Decode takes is bounded by the length
// of the data times the size of the elements that the value has, values nest at
// most 10,000 deep, and what makes the library panic is an error. What follows
// the value is an error too. Errors name places and types but quote nothing of
// the payload, unless a method of the value's own does, such as UnmarshalText.
package msgpack
