package cloudevent

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/outbox-go/outbox"
)

func fullMessage() *outbox.Message {
	return &outbox.Message{
		ID: "0190b5a8-0000-7000-8000-000000000001", Topic: "user.created", Key: "user 7", Tenant: "acme", Type: "user.Created", Version: "v1",
		ContentType: "application/json", Payload: []byte(`{"name": "Jürgen <j@example.com>", "n": 1.0}`),
		CreatedAt: time.Date(2024, 2, 29, 23, 59, 59, 123456000, time.UTC),
		Headers: map[string]string{
			outbox.HeaderCorrelationID: "c1", outbox.HeaderCausationID: "c0", outbox.HeaderTraceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
			HeaderSubject: "users/7", HeaderDataSchema: "https://example.com/user.json", "region": "eu", "X-Mixed": "1", "id": "mine",
		},
	}
}

func TestJSONHasEveryAttribute(t *testing.T) {
	t.Parallel()
	const want = `{"specversion":"1.0","id":"0190b5a8-0000-7000-8000-000000000001","source":"/shop","type":"user.Created",` +
		`"time":"2024-02-29T23:59:59.123456Z","partitionkey":"user 7","outboxtopic":"user.created","outboxtenant":"acme","outboxversion":"v1",` +
		`"causationid":"c0","dataschema":"https://example.com/user.json","subject":"users/7","correlationid":"c1","region":"eu",` +
		`"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",` +
		`"outboxheaders":"{\"X-Mixed\":\"1\",\"id\":\"mine\"}","datacontenttype":"application/json",` +
		`"data":{"name": "Jürgen <j@example.com>", "n": 1.0}}`
	for range 3 { // the bytes are the same each time, for signatures and caches
		got, err := AppendJSON([]byte("before "), fullMessage(), "/shop")
		if err != nil || string(got) != "before "+want {
			t.Fatalf("got  %s, error %v\nwant before %s", got, err, want)
		}
	}
}

func TestHeadersHaveEveryAttribute(t *testing.T) {
	t.Parallel()
	h := make(http.Header)
	if err := SetHeaders(h, fullMessage(), "/shop"); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"Ce-Specversion": "1.0", "Ce-Id": "0190b5a8-0000-7000-8000-000000000001", "Ce-Source": "/shop", "Ce-Type": "user.Created",
		"Ce-Time": "2024-02-29T23:59:59.123456Z", "Ce-Partitionkey": "user%207", "Ce-Outboxtopic": "user.created", "Ce-Outboxtenant": "acme",
		"Ce-Outboxversion": "v1", "Ce-Causationid": "c0", "Ce-Correlationid": "c1", "Ce-Dataschema": "https://example.com/user.json",
		"Ce-Subject": "users/7", "Ce-Region": "eu", "Ce-Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"Ce-Outboxheaders": "{%22X-Mixed%22:%221%22,%22id%22:%22mine%22}", "Content-Type": "application/json",
	}
	got := map[string]string{}
	for name := range h {
		got[name] = h.Get(name)
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestAttributesOfUnusualMessages(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(m *outbox.Message)
		want   map[string]string // "" is none
	}{
		{"no type", func(m *outbox.Message) { m.Type = "" }, map[string]string{AttrType: "user.created"}},
		{"no key", func(m *outbox.Message) { m.Key = "" }, map[string]string{AttrPartitionKey: "", AttrSubject: ""}},
		{"no time", func(m *outbox.Message) { m.CreatedAt = time.Time{} }, map[string]string{AttrTime: ""}},
		{"source", func(m *outbox.Message) { m.Headers[HeaderSource] = "https://example.com/other" }, map[string]string{AttrSource: "https://example.com/other"}},
		{"source that is none", func(m *outbox.Message) { m.Headers[HeaderSource] = "a b" },
			map[string]string{AttrSource: "/shop", AttrOutboxHeaders: `{"ce-source":"a b"}`}},
		{"relative schema", func(m *outbox.Message) { m.Headers[HeaderDataSchema] = "/user.json" },
			map[string]string{AttrDataSchema: "", AttrOutboxHeaders: `{"ce-dataschema":"/user.json"}`}},
		{"header named source", func(m *outbox.Message) { m.Headers["source"] = "app" },
			map[string]string{AttrSource: "/shop", AttrOutboxHeaders: `{"source":"app"}`}},
		{"long name", func(m *outbox.Message) { m.Headers["abcdefghijklmnopqrstu"] = "x" },
			map[string]string{"abcdefghijklmnopqrstu": "", AttrOutboxHeaders: `{"abcdefghijklmnopqrstu":"x"}`}},
		{"longest name", func(m *outbox.Message) { m.Headers["abcdefghijklmnopqrst"] = "x" }, map[string]string{"abcdefghijklmnopqrst": "x"}},
		{"empty value", func(m *outbox.Message) { m.Headers["region"] = "" },
			map[string]string{"region": "", AttrOutboxHeaders: `{"region":""}`}},
		{"tab in key", func(m *outbox.Message) { m.Key = "a\tb" },
			map[string]string{AttrPartitionKey: "", AttrOutboxHeaders: `{"outbox-key":"a\tb"}`}},
		{"tab in id", func(m *outbox.Message) { m.ID = "a\tb" },
			map[string]string{AttrID: "a\uFFFDb", AttrOutboxHeaders: `{"outbox-id":"a\tb"}`}},
		{"control and noncharacter", func(m *outbox.Message) { m.Headers["region"] = "\u0085\uFFFE\U0001FFFE\u007f" },
			map[string]string{"region": "", AttrOutboxHeaders: `{"region":"\u0085\ufffe\ud83f\udffe\u007f"}`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			m := fullMessage()
			m.Headers = map[string]string{}
			test.change(m)
			list, err := attributesOf(m, "/shop")
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range test.want {
				i := slices.IndexFunc(list, func(a attribute) bool { return a.name == name })
				switch {
				case i < 0 && want != "":
					t.Errorf("there is no %s, want %q", name, want)
				case i >= 0 && list[i].value != want:
					t.Errorf("%s is %q, want %q", name, list[i].value, want)
				}
			}
		})
	}
}

func TestPayloadIsNotChanged(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ contentType, payload, want string }{
		{"application/json", `{"b": 1, "a": "<\u00e4>"}`, `"data":{"b": 1, "a": "<\u00e4>"}`},
		{"application/json; charset=utf-8", `12.50`, `"data":12.50`},
		{"application/vnd.acme+json", `[1 ]`, `"data":[1 ]`},
		{"text/json", `"x"`, `"data":"x"`},
		{"application/json", `null`, `"data":null`},
		{"application/json", "{}\n", `"data_base64":"e30K"`},
		{"application/json", " {}", `"data_base64":"IHt9"`},
		{"application/json", `{"a":`, `"data_base64":"eyJhIjo="`},
		{"application/json", "\"\xff\"", `"data_base64":"Iv8i"`},
		{"text/plain", "a\tb\n\"ü\"", `"data":"a\tb\n\"ü\""`},
		{"text/plain; charset=iso-8859-1", "abc", `"data_base64":"YWJj"`},
		{"text/plain", "\xff", `"data_base64":"/w=="`},
		{"application/octet-stream", "abc", `"data_base64":"YWJj"`},
		{"", "{}", `"data_base64":"e30="`},
		{"nonsense", "{}", `"data_base64":"e30="`},
	} {
		m := &outbox.Message{ID: "1", Topic: "a", ContentType: test.contentType, Payload: []byte(test.payload)}
		got, err := AppendJSON(nil, m, "/shop")
		if err != nil || !strings.HasSuffix(string(got), ","+test.want+"}") || !json.Valid(got) {
			t.Errorf("%s %q: got %s, error %v, want it to end with %s", test.contentType, test.payload, got, err, test.want)
		}
	}
	got, err := AppendJSON(nil, &outbox.Message{ID: "1", Topic: "a", ContentType: "application/json"}, "/shop")
	if err != nil || strings.Contains(string(got), `"data"`) || strings.Contains(string(got), MemberDataBase64) {
		t.Errorf("an empty payload: got %s, error %v, want no data", got, err)
	}
}

func TestAnEventIsSentAsItIs(t *testing.T) {
	t.Parallel()
	const event = ` {"specversion": "1.0", "id": "9", "source": "/x", "type": "y"}`
	m := &outbox.Message{ID: "1", Topic: "a", ContentType: "application/cloudevents+json; charset=utf-8", Payload: []byte(event)}
	if got, err := AppendJSON(nil, m, "/shop"); err != nil || string(got) != event {
		t.Errorf("got %s, error %v, want the payload", got, err)
	}
	for _, payload := range []string{"", "[]", "{", `{"a":"` + "\xff" + `"}`} {
		m.Payload = []byte(payload)
		if got, err := AppendJSON(nil, m, "/shop"); err == nil || len(got) > 0 {
			t.Errorf("payload %q: got %s, want an error", payload, got)
		}
	}
}

func TestMessagesThatAreNoEvents(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]*outbox.Message{
		"no id":             {Topic: "a"},
		"no type and topic": {ID: "1"},
	} {
		if _, err := AppendJSON(nil, m, "/shop"); err == nil {
			t.Errorf("%s: AppendJSON gave no error", name)
		}
		if err := SetHeaders(http.Header{}, m, "/shop"); err == nil {
			t.Errorf("%s: SetHeaders gave no error", name)
		}
	}
	batch := &outbox.Message{ID: "1", Topic: "a", ContentType: "Application/CloudEvents-Batch+json", Payload: []byte("[]")}
	if err := SetHeaders(http.Header{}, batch, "/shop"); err == nil {
		t.Error("a batch as the payload of a binary event gave no error: the receiver would take it for events")
	}
}

// FuzzAttributes has every value be what the standard allows.
func FuzzAttributes(f *testing.F) {
	f.Add("id", "topic", "type", "key", "name", "value")
	f.Add("\x00", "a\tb", "\xff", "\uFFFE", "source", "\u0085")
	f.Fuzz(func(t *testing.T, id, topic, kind, key, name, value string) {
		m := &outbox.Message{ID: id, Topic: topic, Type: kind, Key: key, Headers: map[string]string{name: value}}
		list, err := attributesOf(m, "/shop")
		if (err != nil) != (id == "" || topic == "" && kind == "") {
			t.Fatalf("error %v", err)
		}
		seen := map[string]bool{}
		for _, a := range list {
			if !IsName(a.name) || !IsText(a.value) || !utf8.ValidString(a.value) || seen[a.name] {
				t.Errorf("%q is %q", a.name, a.value)
			}
			seen[a.name] = true
			if escaped := EscapeHeader(a.value); strings.ContainsFunc(escaped, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) {
				t.Errorf("%q cannot be a header's value", escaped)
			}
		}
	})
}
