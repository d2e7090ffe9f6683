package outboxtest_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/outboxtest"
)

var emitted = []outbox.Message{
	{
		ID: "1", Topic: "user.created", Key: "7", Tenant: "acme", Type: "User", Version: "2", ContentType: "application/json",
		Headers: map[string]string{"a": "b", "c": "d"}, Payload: []byte(`{"id": 9007199254740993, "name": "Ada", "score": 1.50, "tags": ["x", null, true]}`),
	},
	{ID: "2", Topic: "user.created", Key: "8", ContentType: "application/vnd.user+json", Payload: []byte(`"text"`)},
	{ID: "3", Topic: "photo.taken", ContentType: "application/octet-stream", Payload: []byte("\x00jpeg")},
	{ID: "4", Topic: "note.written", ContentType: "text/plain; charset=utf-8", Payload: []byte("hello")},
	{ID: "5", Topic: "odd", Payload: []byte(`5`)},
	{ID: "6", Topic: "broken", ContentType: "application/json", Payload: []byte(`{`)},
}

type user struct {
	ID    int64   `json:"id"`
	Name  string  `json:"name"`
	Score float64 `json:"score"`
	Tags  []any   `json:"tags"`
}

// upper is a codec whose payloads are in capital letters.
type upper struct{}

func (upper) ContentType() string { return "text/upper" }
func (upper) Encode(v any) ([]byte, error) {
	s, ok := v.(string)
	if !ok {
		return nil, errors.New("no string")
	}
	return []byte(strings.ToUpper(s)), nil
}
func (upper) Decode(data []byte, v any) error {
	*v.(*string) = strings.ToLower(string(data))
	return nil
}

func TestRequireEmittedFindsTheFirstThatFits(t *testing.T) {
	t.Parallel()
	tags := []any{"x", nil, true}
	for name, c := range map[string]struct {
		want outboxtest.Want
		id   string
	}{
		"anything":        {outboxtest.Want{}, "1"},
		"topic":           {outboxtest.Want{Topic: "photo.taken"}, "3"},
		"pattern":         {outboxtest.Want{Topic: "*.taken"}, "3"},
		"pattern of all":  {outboxtest.Want{Topic: "#"}, "1"},
		"key":             {outboxtest.Want{Topic: "user.created", Key: "8"}, "2"},
		"tenant":          {outboxtest.Want{Tenant: "acme"}, "1"},
		"type, version":   {outboxtest.Want{Type: "User", Version: "2"}, "1"},
		"content type":    {outboxtest.Want{ContentType: "application/octet-stream"}, "3"},
		"a header":        {outboxtest.Want{Headers: map[string]string{"c": "d"}}, "1"},
		"struct":          {outboxtest.Want{Payload: user{1<<53 + 1, "Ada", 1.5, tags}}, "1"},
		"map":             {outboxtest.Want{Payload: map[string]any{"id": 1<<53 + 1, "name": "Ada", "score": 1.5, "tags": tags}}, "1"},
		"raw JSON":        {outboxtest.Want{Payload: json.RawMessage(`{"tags":["x",null,true],"score":15e-1,"id":9007199254740993,"name":"\u0041da"}`)}, "1"},
		"JSON text":       {outboxtest.Want{Payload: "text"}, "2"},
		"bytes of JSON":   {outboxtest.Want{Payload: []byte(`"text"`)}, "2"},
		"bytes":           {outboxtest.Want{Payload: []byte("\x00jpeg")}, "3"},
		"text":            {outboxtest.Want{Payload: "hello"}, "4"},
		"no content type": {outboxtest.Want{Payload: 5}, "5"},
		"codec":           {outboxtest.Want{Payload: "hello", Codec: outbox.Bytes}, "4"},
		"bytes, no JSON":  {outboxtest.Want{Payload: []byte("{")}, "6"},
	} {
		if got := outboxtest.RequireEmitted(t, emitted, c.want); got.ID != c.id {
			t.Errorf("%s: got message %s, want %s", name, got.ID, c.id)
		}
		f := &fakeTB{}
		outboxtest.RequireNotEmitted(f, emitted, c.want)
		if !f.failed || !strings.Contains(f.text, "emitted all the same") || !strings.Contains(f.text, "message "+c.id+" of 6") {
			t.Errorf("%s: RequireNotEmitted says %q", name, f.text)
		}
	}
}

func TestRequireEmittedFailsIfNoneFits(t *testing.T) {
	t.Parallel()
	tags := []any{"x", nil, true}
	for name, c := range map[string]struct {
		want outboxtest.Want
		says string // of message 1, unless it is about another
	}{
		"topic":          {outboxtest.Want{Topic: "user.deleted"}, `its topic is "user.created"`},
		"key":            {outboxtest.Want{Key: "9"}, `its key is "7"`},
		"tenant":         {outboxtest.Want{Tenant: "t"}, `its tenant is "acme"`},
		"type":           {outboxtest.Want{Type: "t"}, `its type is "User"`},
		"version":        {outboxtest.Want{Version: "1"}, `its version is "2"`},
		"content type":   {outboxtest.Want{ContentType: "a/b"}, `its content type is "application/json"`},
		"no header":      {outboxtest.Want{Headers: map[string]string{"x": "y"}}, `it has no header "x"`},
		"another header": {outboxtest.Want{Headers: map[string]string{"a": "c"}}, `its header "a" is "b"`},
		"two things":     {outboxtest.Want{Key: "8", Type: "User"}, `its type is ""`},
		"large id":       {outboxtest.Want{Payload: user{1 << 53, "Ada", 1.5, tags}}, "its payload differs"},
		"a missing key":  {outboxtest.Want{Topic: "user.*", Payload: map[string]any{"name": "Ada"}}, "its payload differs"},
		"list":           {outboxtest.Want{Payload: user{1<<53 + 1, "Ada", 1.5, tags[:2]}}, "its payload differs"},
		"float":          {outboxtest.Want{Payload: user{1<<53 + 1, "Ada", 1.25, tags}}, "its payload differs"},
		"JSON text":      {outboxtest.Want{Payload: "other"}, "its payload differs"},
		"nil JSON":       {outboxtest.Want{Payload: json.RawMessage("null")}, "its payload differs"},
		"bytes":          {outboxtest.Want{Payload: []byte("jpeg")}, "its payload differs"},
		"no codec":       {outboxtest.Want{Topic: "photo.*", Payload: 1}, "its payload is application/octet-stream: set Want.Codec"},
		"broken JSON":    {outboxtest.Want{Topic: "broken", Payload: 1}, "its payload is not JSON: unexpected end"},
		"codec":          {outboxtest.Want{Payload: "hello", Codec: upper{}}, "its payload differs"},
	} {
		f := &fakeTB{}
		if got := outboxtest.RequireEmitted(f, emitted, c.want); got.ID != "" {
			t.Errorf("%s: got message %s", name, got.ID)
		}
		if !f.failed || !strings.Contains(f.text, c.says) {
			t.Errorf("%s: says %q, want %q", name, f.text, c.says)
		}
		outboxtest.RequireNotEmitted(t, emitted, c.want)
	}
}

func TestFailureListsWhatWasEmitted(t *testing.T) {
	t.Parallel()
	f := &fakeTB{}
	long := outbox.Message{Topic: "long", ContentType: "application/json", Payload: []byte(`"` + strings.Repeat("x", 600) + `"`)}
	outboxtest.RequireEmitted(f, append([]outbox.Message{long}, emitted[0], emitted[2]), outboxtest.Want{
		Topic: "a.b", Key: "k", Tenant: "t", Type: "T", Version: "1", ContentType: "application/json",
		Headers: map[string]string{"y": "2", "x": "1"}, Payload: map[string]int{"n": 1},
	})
	want := `outboxtest: not emitted: topic "a.b", key "k", tenant "t", type "T", version "1", content type "application/json", header "x": "1", header "y": "2", payload {"n":1}
  message 1 of 3: topic "long", content type "application/json", payload "` + strings.Repeat("x", 499) + `... (602 bytes)
    its topic is "long"; its key is ""; its tenant is ""; its type is ""; its version is ""; it has no header "x"; it has no header "y"; its payload differs
  message 2 of 3: topic "user.created", key "7", tenant "acme", type "User", version "2", content type "application/json", header "a": "b", header "c": "d", payload ` + string(emitted[0].Payload) + `
    its topic is "user.created"; its key is "7"; its tenant is "acme"; its type is "User"; its version is "2"; it has no header "x"; it has no header "y"; its payload differs
  message 3 of 3: topic "photo.taken", content type "application/octet-stream", payload "\x00jpeg"
    its topic is "photo.taken"; its key is ""; its tenant is ""; its type is ""; its version is ""; its content type is "application/octet-stream"; it has no header "x"; it has no header "y"; its payload is application/octet-stream: set Want.Codec, or pass []byte`
	if f.text != want {
		t.Errorf("got:\n%s\nwant:\n%s", f.text, want)
	}
}

func TestNothingEmitted(t *testing.T) {
	t.Parallel()
	outboxtest.RequireNotEmitted(t, nil, outboxtest.Want{})
	f := &fakeTB{}
	outboxtest.RequireEmitted(f, nil, outboxtest.Want{})
	if want := "outboxtest: not emitted: any message\n  nothing was emitted"; f.text != want {
		t.Errorf("got %q", f.text)
	}
}

func TestAWantThatCannotBeEndsTheTest(t *testing.T) {
	t.Parallel()
	for want, says := range map[*outboxtest.Want]string{
		{Topic: "a..b"}:                                      "Want.Topic \"a..b\"",
		{Payload: make(chan int)}:                            "Want.Payload cannot be encoded as application/json",
		{Payload: json.RawMessage("{")}:                      "Want.Payload cannot be encoded",
		{Payload: 1, Codec: upper{}, Topic: "#", Key: "any"}: "Want.Payload cannot be encoded as text/upper: no string",
	} {
		f := &fakeTB{}
		outboxtest.RequireEmitted(f, nil, *want)
		g := &fakeTB{}
		outboxtest.RequireNotEmitted(g, nil, *want)
		if !strings.Contains(f.text, says) || f.text != g.text {
			t.Errorf("%+v: says %q and %q, want %q", *want, f.text, g.text, says)
		}
	}
}
