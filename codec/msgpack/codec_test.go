package msgpack_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	library "github.com/vmihailenco/msgpack/v5"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/codec/msgpack"
)

type address struct {
	City string `json:"city"`
}

type user struct {
	ID      int64             `msgpack:"id" json:"other"`
	Name    string            `json:"name"`
	Note    string            `json:"note,omitempty"`
	Hidden  string            `json:"-"`
	Plain   bool              // by its own name
	Photo   []byte            `json:"photo,omitempty"`
	Born    time.Time         `json:"born,omitempty"`
	Home    *address          `json:"home,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Account uuid.UUID         `json:"account,omitempty"`
	Any     any               `json:"any,omitempty"`
}

// decodeAny decodes data as a map.
func decodeAny(t *testing.T, data []byte) map[string]any {
	t.Helper()
	var v any
	if err := msgpack.Codec.Decode(data, &v); err != nil {
		t.Fatal(err)
	}
	return v.(map[string]any)
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := msgpack.Codec.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	want := user{
		ID: 1 << 40, Name: "Ada", Plain: true, Photo: []byte{0, 0xff}, Born: time.Unix(1<<31, 5), Home: &address{City: "London"},
		Labels: map[string]string{"a": "b"}, Account: uuid.MustParse("0190b5c4-0000-7000-8000-000000000001"),
		Any: map[string]any{"bytes": []byte{1}, "list": []any{"x", nil, true, 1.5}},
	}
	for name, decode := range map[string]func([]byte, any) error{"Decode": msgpack.Codec.Decode, "DecodeStrict": msgpack.Codec.DecodeStrict} {
		var got user
		if err := decode(encode(t, want), &got); err != nil {
			t.Fatal(name, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
		var pointer *user // as the worker passes it for Handle[*User]
		if err := decode(encode(t, want), &pointer); err != nil || !reflect.DeepEqual(pointer, &want) {
			t.Errorf("%s: got %+v, %v", name, pointer, err)
		}
	}
}

func TestFieldNamesComeFromTheTags(t *testing.T) {
	t.Parallel()
	got := decodeAny(t, encode(t, user{ID: 7, Hidden: "x"}))
	want := map[string]any{"id": int8(7), "name": "", "Plain": false, "account": got["account"]}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v, want %#v", got, want)
	}
}

func TestAnyGetsGenericValues(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0)
	got := decodeAny(t, encode(t, map[string]any{
		"bytes": []byte("b"), "text": "s", "nested": map[string]any{"n": nil}, "time": at, "list": []int{1}, "float": 1.5,
	}))
	want := map[string]any{
		"bytes": []byte("b"), "text": "s", "nested": map[string]any{"n": nil}, "time": at, "list": []any{int8(1)}, "float": 1.5,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v, want %#v", got, want)
	}
}

func TestEqualMapsHaveEqualBytes(t *testing.T) {
	t.Parallel()
	m := map[string]any{}
	for i := range 50 {
		m[fmt.Sprint(i)] = i
	}
	first := encode(t, m)
	for range 5 {
		if string(encode(t, m)) != string(first) {
			t.Fatal("a map was encoded in two ways")
		}
	}
}

func TestStrictRefusesUnknownFieldsAtAnyDepth(t *testing.T) {
	t.Parallel()
	for name, v := range map[string]any{
		"outer":  map[string]any{"name": "Ada", "sekret": 1},
		"nested": map[string]any{"home": map[string]any{"city": "x", "sekret": 1}},
	} {
		var u user
		if err := msgpack.Codec.Decode(encode(t, v), &u); err != nil {
			t.Errorf("%s: Decode: %v", name, err)
		}
		err := msgpack.Codec.DecodeStrict(encode(t, v), &u)
		if err == nil || !strings.Contains(err.Error(), "names no field") || strings.Contains(err.Error(), "sekret") {
			t.Errorf("%s: DecodeStrict: %v", name, err)
		}
	}
	var m map[string]any
	if err := msgpack.Codec.DecodeStrict(encode(t, map[string]any{"any": 1}), &m); err != nil {
		t.Errorf("a map has place for every key: %v", err)
	}
}

func TestMalformedDataIsAnError(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"empty":                   "",
		"reserved code":           "\xc1",
		"reserved code, nested":   "\x91\xc1",
		"a second value":          "\x01\x02",
		"bytes behind the value":  "\xa1ab",
		"half a string":           "\xa5ab",
		"half a length":           "\xdb\x00\x00",
		"half a number":           "\xcf\x00",
		"half a map":              "\x82\xa1a\x01",
		"a key without its value": "\x81\xa1a",
		"half an extension":       "\xd6\xff\x00",
		"4 GiB of binary data":    "\xc6\xff\xff\xff\xff",
		"4 GiB of text":           "\xdb\xff\xff\xff\xff",
		"2^32 elements":           "\xdd\xff\xff\xff\xff\x00",
		"2^32 pairs":              "\xdf\xff\xff\xff\xff\x00",
		"2^32 nested elements":    strings.Repeat("\xdd\xff\xff\xff\xff", 100),
		"extension of 4 GiB":      "\xc9\xff\xff\xff\xff\x05",
		"nested too deep":         strings.Repeat("\x91", 3_000_000) + "\xc0",
		"maps nested too deep":    strings.Repeat("\x81\xa1a", 1_000_000) + "\xc0",
	} {
		for _, into := range []any{new(any), new(user), new([]any), new(map[string]any), new(map[string]string), new([]byte), new(string), new(library.RawMessage)} {
			if err := msgpack.Codec.Decode([]byte(data), into); err == nil {
				t.Errorf("%s into %T: no error", name, into)
			}
		}
	}
}

// The library takes the body of an extension for a map, and would read what
// follows out of step: here an array of 2^32 elements.
func TestExtensionsAreNotEntered(t *testing.T) {
	t.Parallel()
	data := []byte("\x92\xd6\xff\x81\xa1a\xdd\xa4\xff\xff\xff\xff")
	var whole any
	if err := msgpack.Codec.Decode(data, &whole); err != nil {
		t.Fatalf("the data is not whole: %v", err)
	}
	for _, into := range []any{new([]map[string]any), new([]map[string]string), new([]map[int]any)} {
		if err := msgpack.Codec.Decode(data, into); err == nil || !strings.Contains(err.Error(), "an extension does not fit") {
			t.Errorf("%T: %v", into, err)
		}
	}
}

func TestDeepButAllowedNestingIsDecoded(t *testing.T) {
	t.Parallel()
	var v any
	if err := msgpack.Codec.Decode([]byte(strings.Repeat("\x91", 10_000)+"\xc0"), &v); err != nil {
		t.Error(err)
	}
}

type lazy struct{}

func (*lazy) DecodeMsgpack(*library.Decoder) error { return nil }

type loud struct{}

func (*loud) UnmarshalMsgpack(b []byte) error { panic(fmt.Errorf("cannot read %s", b)) }

func TestWhatDoesNotFitIsAnErrorWithoutThePayload(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		payload any
		into    any
		want    string
	}{
		"text into a number":      {map[string]any{"id": "sekret"}, new(user), "at byte 4 is a string: decoding int64"},
		"number into text":        {map[string]any{"name": 42}, new(user), "is an integer: decoding string"},
		"text for a time":         {"sekret", new(time.Time), "not a time of the form"},
		"text for a nested time":  {map[string]any{"born": "sekret"}, new(user), "is a string"},
		"scalar into a struct":    {"sekret", new(user), "is a string"},
		"array for a struct":      {[]string{"sekret"}, new(user), "array-encoded struct"},
		"integer key in any":      {map[int]string{42: "sekret"}, new(any), "is an integer: decoding string"},
		"integer key, struct":     {map[int]string{42: "sekret"}, new(user), "is an integer: decoding string"},
		"array as a key, struct":  {map[[1]string]int{{"sekret"}: 1}, new(user), "is an array: decoding string"},
		"any as a key":            {map[string]any{"sekret": 1}, new(map[any]any), ""},
		"array as a key":          {map[[1]string]int{{"sekret"}: 1}, new(map[any]any), "unhashable"},
		"interface with methods":  {"sekret", new(io.Reader), "does not fit"},
		"long array":              {[]string{"sekret", "b"}, new([1]string), "2 elements"},
		"method that reads less":  {"sekret", new(lazy), "left 7 bytes unread"},
		"panic of a method":       {"sekret", new(loud), "panicked with a *errors.errorString"},
		"not a pointer":           {1, user{}, "cannot decode into msgpack_test.user"},
		"nil pointer":             {1, (*user)(nil), "cannot decode into *msgpack_test.user"},
		"nil":                     {1, nil, "cannot decode into <nil>"},
		"unknown extension":       {library.RawMessage("\xd4\x05\x00"), new(any), "unknown ext"},
		"time of a wrong length":  {library.RawMessage("\xd4\xff\x00"), new(time.Time), "invalid ext len"},
		"unsupported target":      {1, new(chan int), "unsupported chan int"},
		"truncated inner payload": {[]byte("\x91"), new([]string), "is binary data: decoding array length"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := msgpack.Codec.Decode(encode(t, c.payload), c.into)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			if strings.Contains(err.Error(), "sekret") || strings.Contains(err.Error(), "2a") {
				t.Errorf("the error quotes the payload: %v", err)
			}
		})
	}
}

type inner struct {
	Deep  int16 `json:"deep"`
	Other int8  `json:"own"` // hidden by that of numbers
}

type numbers struct {
	inner
	*Chain
	Own    int64             `json:"own"`
	Small  int8              `msgpack:"small"`
	List   []uint8           `json:"list"` // not bytes: see below
	Shorts []int16           `json:"shorts"`
	Array  [2]uint16         `json:"array"`
	ByNum  map[int8]*uint32  `json:"by_num"`
	Wait   time.Duration     `json:"wait"`
	Nested map[string]*inner `json:"nested"`
	Float  float32           `json:"float"`
	Text   string            `json:"text"`
}

// Chain is exported, so that it can be embedded by a pointer.
type Chain struct {
	Link uint64 `json:"link"`
	Next *Chain `json:"next"`
}

func TestIntegersThatDoNotFitAreErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		payload any
		into    any
		want    string // of the type that cannot hold it; none if all fit
	}{
		"top":                {128, new(int8), "int8"},
		"top, pointer":       {128, new(*int8), "int8"},
		"top, negative":      {-129, new(int8), "int8"},
		"negative unsigned":  {-1, new(uint64), "uint64"},
		"greater than int64": {uint64(1) << 63, new(int64), "int64"},
		"int16":              {-32769, new(int16), "int16"},
		"int32":              {1 << 31, new(int32), "int32"},
		"uint32":             {1 << 32, new(uint32), "uint32"},
		"field":              {map[string]any{"text": "x", "small": 300}, new(numbers), "int8"},
		"behind the unknown": {map[string]any{"a": []any{1 << 40, map[string]any{"b": 1 << 40}}, "small": 300}, new(numbers), "int8"},
		"embedded field":     {map[string]any{"deep": 1 << 15}, new(numbers), "int16"},
		"embedded pointer":   {map[string]any{"link": -1}, new(numbers), "uint64"},
		"of its own type":    {map[string]any{"next": map[string]any{"next": map[string]any{"link": -1}}}, new(Chain), "uint64"},
		"element":            {map[string]any{"shorts": []int{1, 1 << 15}}, new(numbers), "int16"},
		"array":              {map[string]any{"array": []int{1, 1 << 16}}, new(numbers), "uint16"},
		"key":                {map[string]any{"by_num": map[int]int{128: 1}}, new(numbers), "int8"},
		"value":              {map[string]any{"by_num": map[int]int{1: 1 << 32}}, new(numbers), "uint32"},
		"nested":             {map[string]any{"nested": map[string]any{"x": map[string]any{"deep": 1 << 15}}}, new(numbers), "int16"},
		"slice of structs":   {[]any{map[string]any{"small": 1}, map[string]any{"small": 128}}, new([]numbers), "int8"},
		"limits":             {[]int{-128, 127, 0, -1}, new([]int8), ""},
		"limits of int64":    {[]int64{math.MinInt64, math.MaxInt64, math.MinInt32}, new([]int64), ""},
		"limits of uint64":   {[]uint64{math.MaxUint64, 0, math.MaxUint32}, new([]uint64), ""},
		"own before inner":   {map[string]any{"own": 1 << 40}, new(numbers), ""},
		"integer for float":  {map[string]any{"float": 1 << 40, "wait": int64(time.Hour), "link": uint64(math.MaxUint64)}, new(numbers), ""},
		"bytes":              {map[string]any{"list": []byte{255}}, new(numbers), ""},
		"any":                {[]any{1 << 40, -1 << 40, uint64(math.MaxUint64)}, new(any), ""},
		"a type of its own":  {map[string]any{"account": uuid.UUID{255}, "id": 1 << 40}, new(user), ""},
		"integer for text":   {map[string]any{"text": "x", "unknown": 1 << 40}, new(numbers), ""},
	} {
		err := msgpack.Codec.Decode(encode(t, c.payload), c.into)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.HasSuffix(err.Error(), "is out of the range of "+c.want)):
			t.Errorf("%s: error %v, want one about %s; got %+v", name, err, c.want, c.into)
		}
	}
}

func TestBytesBehindTheValueAreAnError(t *testing.T) {
	t.Parallel()
	var s string
	if err := msgpack.Codec.Decode([]byte("\xa1abc"), &s); err == nil || err.Error() != "msgpack: 2 bytes follow the value, which ends at byte 2" {
		t.Errorf("error %v", err)
	}
}

func TestTruncatedDataIsAnUnexpectedEnd(t *testing.T) {
	t.Parallel()
	var v any
	if err := msgpack.Codec.Decode([]byte("\xa5ab"), &v); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
}

func TestValuesThatCannotBeEncoded(t *testing.T) {
	t.Parallel()
	if _, err := msgpack.Codec.Encode(make(chan int)); err == nil {
		t.Error("a channel was encoded")
	}
}

func TestCodecIsFoundByItsContentTypes(t *testing.T) {
	t.Parallel()
	codecs := outbox.NewCodecs(msgpack.Codec, msgpack.CodecFor(msgpack.ContentTypeVendor), msgpack.CodecFor("application/X-msgpack"))
	for _, contentType := range []string{msgpack.ContentType, msgpack.ContentTypeVendor, msgpack.ContentTypeX, "application/msgpack; v=1"} {
		codec, ok := codecs.For(contentType)
		if !ok {
			t.Fatalf("no codec for %s", contentType)
		}
		if _, ok := codec.(outbox.StrictCodec); !ok {
			t.Errorf("the codec for %s is not strict", contentType)
		}
		var s string
		if err := codec.Decode([]byte("\xa1a"), &s); err != nil || s != "a" {
			t.Errorf("%s: %q, %v", contentType, s, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, v := range []any{
		user{ID: 7, Name: "Ada", Born: time.Unix(1<<33, 7), Photo: []byte{1}, Any: []any{1, "a", nil, 2.5, map[string]any{"k": true}}},
		map[string]any{"home": map[string]any{"city": "x"}}, []any{time.Unix(1, 0), -1, uint64(1) << 63, strings.Repeat("x", 300)}, json.RawMessage(`{}`),
	} {
		data, err := msgpack.Codec.Encode(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("\x92\xd6\xff\x81\xa1a\xdd\xa4\xff\xff\xff\xff"))
	f.Add([]byte("\xdd\xff\xff\xff\xff\xc0"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, into := range []any{
			new(user), new([]user), new(map[string]any), new(map[any]any), new(map[string]map[string]string), new([]map[string][]int8),
			new(time.Time), new([]time.Time), new(uuid.UUID), new(io.Reader), new([3]byte), new(library.RawMessage), new([]bool),
		} {
			msgpack.Codec.Decode(data, into) //nolint:errcheck // what counts is that it returns
			if err := msgpack.Codec.DecodeStrict(data, into); err == nil {
				if _, err := msgpack.Codec.Encode(into); err != nil {
					t.Errorf("decoded, but not encoded again: %v", err)
				}
			}
		}
		var v any
		if msgpack.Codec.Decode(data, &v) != nil {
			return
		}
		var small []int8
		if list, ok := v.([]any); ok && msgpack.Codec.Decode(data, &small) == nil {
			for i, n := range list {
				if n != nil && fmt.Sprint(n) != fmt.Sprint(small[i]) {
					t.Errorf("%v became %d", n, small[i])
				}
			}
		}
		again, err := msgpack.Codec.Encode(v)
		if err != nil {
			t.Fatalf("%#v cannot be encoded: %v", v, err)
		}
		if err := msgpack.Codec.Decode(again, new(any)); err != nil {
			t.Errorf("%x was encoded as %x: %v", data, again, err)
		}
	})
}
