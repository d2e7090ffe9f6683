package protobuf_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/codec/protobuf"
)

func encode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := protobuf.Codec.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var decoders = map[string]func([]byte, any) error{"Decode": protobuf.Codec.Decode, "DecodeStrict": protobuf.Codec.DecodeStrict}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	want := timestamppb.New(time.Unix(1_700_000_000, 5))
	data := encode(t, want)
	for name, decode := range decoders {
		var value timestamppb.Timestamp // as the worker passes it for Handle[timestamppb.Timestamp]
		if err := decode(data, &value); err != nil || !proto.Equal(&value, want) {
			t.Errorf("%s: got %v, %v", name, &value, err)
		}
		var pointer *timestamppb.Timestamp // as for Handle[*timestamppb.Timestamp]
		if err := decode(data, &pointer); err != nil || !proto.Equal(pointer, want) {
			t.Errorf("%s: got %v, %v", name, pointer, err)
		}
	}
}

func TestEmptyDataIsTheEmptyMessage(t *testing.T) {
	t.Parallel()
	got := wrapperspb.String("old")
	if err := protobuf.Codec.Decode(nil, &got); err != nil || got == nil || got.GetValue() != "" {
		t.Errorf("got %v, %v", got, err)
	}
	value := wrapperspb.String("old")
	if err := protobuf.Codec.Decode(nil, value); err != nil || value.GetValue() != "" {
		t.Errorf("got %v, %v", value, err)
	}
}

func TestFailedDecodeLeavesThePointer(t *testing.T) {
	t.Parallel()
	old := wrapperspb.String("old")
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	for name, data := range map[string]string{"malformed": "\xff", "unknown field": string(unknown)} {
		got := old
		if err := protobuf.Codec.DecodeStrict([]byte(data), &got); err == nil || got != old || got.GetValue() != "old" {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func TestDecodedBytesAreACopy(t *testing.T) {
	t.Parallel()
	data := encode(t, wrapperspb.Bytes([]byte("abc")))
	var got *wrapperspb.BytesValue
	if err := protobuf.Codec.Decode(data, &got); err != nil {
		t.Fatal(err)
	}
	clear(data)
	if string(got.GetValue()) != "abc" {
		t.Errorf("got %q", got.GetValue())
	}
}

func TestEqualMessagesHaveEqualBytes(t *testing.T) {
	t.Parallel()
	m, err := structpb.NewStruct(map[string]any{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7})
	if err != nil {
		t.Fatal(err)
	}
	first := encode(t, m)
	for range 20 {
		if string(encode(t, m)) != string(first) {
			t.Fatal("a message was encoded in two ways")
		}
	}
}

type user struct{ Name string }

func TestValuesThatAreNoMessages(t *testing.T) {
	t.Parallel()
	message := wrapperspb.String("sekret")
	for name, c := range map[string]struct {
		v    any
		want string
	}{
		"nil":                {nil, "the payload is nil"},
		"nil message":        {(*wrapperspb.StringValue)(nil), "a nil *wrapperspb.StringValue"},
		"struct":             {user{"sekret"}, "protobuf_test.user is not a proto.Message"},
		"message by value":   {reflectValue(message), "*wrapperspb.StringValue is: pass a pointer"},
		"pointer to pointer": {&message, "**wrapperspb.StringValue is not a proto.Message"},
		"invalid UTF-8":      {wrapperspb.String("sekret\xff"), "invalid UTF-8"},
		"required field":     {&descriptorpb.UninterpretedOption_NamePart{}, "required field"},
	} {
		_, err := protobuf.Codec.Encode(c.v)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "sekret") {
			t.Errorf("%s: error %v, want one with %q and no payload", name, err, c.want)
		}
	}
}

func TestTargetsThatAreNoMessages(t *testing.T) {
	t.Parallel()
	var message proto.Message
	var dynamic *dynamicpb.Message
	for name, c := range map[string]struct {
		v    any
		want string
	}{
		"nil":             {nil, "cannot decode into <nil>"},
		"nil message":     {(*wrapperspb.StringValue)(nil), "cannot decode into *wrapperspb.StringValue: pass a pointer that is not nil"},
		"nil pointer":     {(**wrapperspb.StringValue)(nil), "pass a pointer that is not nil"},
		"no pointer":      {user{}, "pass a pointer"},
		"struct":          {&user{}, "cannot decode into protobuf_test.user"},
		"interface":       {&message, "cannot decode into protoreflect.ProtoMessage"},
		"any":             {new(any), "cannot decode into interface {}"},
		"dynamic message": {&dynamic, "does not say which message it is"},
	} {
		for decoder, decode := range decoders {
			if err := decode(nil, c.v); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: error %v, want one with %q", name, decoder, err, c.want)
			}
		}
	}
}

func TestMalformedDataIsAnErrorWithoutThePayload(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"no tag":          "\xff",
		"truncated":       "\x0a\x10sekret",
		"4 GiB of text":   "\x0a\xff\xff\xff\xff\x0fsekret",
		"invalid UTF-8":   "\x0a\x07sekret\xff",
		"reserved number": "\x02\x06sekret",
	} {
		for decoder, decode := range decoders {
			err := decode([]byte(data), new(wrapperspb.StringValue))
			if err == nil || strings.Contains(err.Error(), "sekret") {
				t.Errorf("%s, %s: error %v", name, decoder, err)
			}
		}
	}
	var deep []byte
	for len(deep) < 1<<16 { // a Value in a ListValue in a Value
		deep = protowire.AppendBytes([]byte{0x0a}, deep)
		deep = protowire.AppendBytes([]byte{0x32}, deep)
	}
	if err := protobuf.Codec.DecodeStrict(deep, new(structpb.Value)); err == nil || !strings.Contains(err.Error(), "recursion depth") {
		t.Errorf("deep nesting: %v", err)
	}
}

// withUnknown adds field 1000 to m.
func withUnknown[M proto.Message](m M) M {
	m.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 1000, protowire.BytesType), "sekret"))
	return m
}

func TestStrictRefusesUnknownFieldsAtAnyDepth(t *testing.T) {
	t.Parallel()
	value := withUnknown(structpb.NewStringValue("a"))
	option := withUnknown(&descriptorpb.MessageOptions{})
	for name, m := range map[string]proto.Message{
		"outer":          withUnknown(wrapperspb.String("a")),
		"in a map":       &structpb.Struct{Fields: map[string]*structpb.Value{"a": structpb.NewNullValue(), "b": value}},
		"in a list":      &structpb.ListValue{Values: []*structpb.Value{structpb.NewNullValue(), value}},
		"in a oneof":     structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{value}}),
		"three deep":     &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{{MessageType: []*descriptorpb.DescriptorProto{{Options: option}}}}},
		"in an only one": &descriptorpb.DescriptorProto{Options: option},
	} {
		data := encode(t, m)
		into := m.ProtoReflect().New().Interface()
		if err := protobuf.Codec.Decode(data, into); err != nil || !proto.Equal(into, m) {
			t.Errorf("%s: Decode: %v", name, err)
		}
		err := protobuf.Codec.DecodeStrict(data, into)
		if err == nil || !strings.Contains(err.Error(), "no field with the number 1000") || strings.Contains(err.Error(), "sekret") {
			t.Errorf("%s: DecodeStrict: %v", name, err)
		}
	}
}

func TestStrictTakesWhatIsKnown(t *testing.T) {
	t.Parallel()
	m, err := structpb.NewStruct(map[string]any{"a": []any{1, "x", nil}, "b": map[string]any{"c": true}})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []proto.Message{m, protoFile(), wrapperspb.Bytes([]byte{1})} {
		got := m.ProtoReflect().New().Interface()
		if err := protobuf.Codec.DecodeStrict(encode(t, m), got); err != nil || !proto.Equal(got, m) {
			t.Errorf("got %v, %v", got, err)
		}
	}
}

func protoFile() *descriptorpb.FileDescriptorProto {
	return &descriptorpb.FileDescriptorProto{
		Name: proto.String("a.proto"), Dependency: []string{"b", "c"}, PublicDependency: []int32{1},
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("A"), Options: &descriptorpb.MessageOptions{Deprecated: proto.Bool(true)}}},
	}
}

func TestCodecIsFoundByItsContentTypes(t *testing.T) {
	t.Parallel()
	codecs := outbox.NewCodecs(protobuf.Codec, protobuf.CodecFor(protobuf.ContentTypeVendor), protobuf.CodecFor("application/X-protobuf"))
	for _, contentType := range []string{protobuf.ContentType, protobuf.ContentTypeVendor, protobuf.ContentTypeX, "application/protobuf; proto=acme.User"} {
		codec, ok := codecs.For(contentType)
		if !ok {
			t.Fatalf("no codec for %s", contentType)
		}
		if _, ok := codec.(outbox.StrictCodec); !ok {
			t.Errorf("the codec for %s is not strict", contentType)
		}
		var got *wrapperspb.StringValue
		if err := codec.Decode([]byte("\x0a\x01a"), &got); err != nil || got.GetValue() != "a" {
			t.Errorf("%s: %v, %v", contentType, got, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	s, err := structpb.NewStruct(map[string]any{"a": []any{1, "x", nil}, "b": map[string]any{"c": true}})
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range []proto.Message{s, withUnknown(wrapperspb.String("a")), timestamppb.New(time.Unix(1, 2)), protoFile()} {
		data, err := protobuf.Codec.Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, into := range []proto.Message{
			new(structpb.Struct), new(structpb.Value), new(wrapperspb.BytesValue), new(timestamppb.Timestamp),
			new(descriptorpb.FileDescriptorSet), new(descriptorpb.FileDescriptorProto), new(descriptorpb.UninterpretedOption),
		} {
			strict := protobuf.Codec.DecodeStrict(data, into)
			if err := protobuf.Codec.Decode(data, into); err != nil {
				if strict == nil {
					t.Errorf("%T: strict takes what is malformed: %v", into, err)
				}
				continue
			}
			again, err := protobuf.Codec.Encode(into)
			if err != nil {
				t.Fatalf("%T: decoded, but not encoded again: %v", into, err)
			}
			if err := protobuf.Codec.DecodeStrict(again, into); (err == nil) != (strict == nil) {
				t.Errorf("%T: strict says %v, then %v", into, strict, err)
			}
		}
	})
}

// reflectValue returns the message itself, by value, which vet would call a copy
// of a lock.
func reflectValue(m proto.Message) any { return reflect.ValueOf(m).Elem().Interface() }
