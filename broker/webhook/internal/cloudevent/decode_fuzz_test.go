package cloudevent_test

import (
	"mime"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook/internal/cloudevent"
)

// FuzzDecode: whatever comes is an error or a message that can be told from others.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		foreign + "}", foreign + `,"data":{"a":[1]},"time":"2024-01-01T00:00:00Z"}`, "[" + foreign + "}]", "[]", "", "\xff", `{"":`,
		foreign + `,"outboxtopic":"a.b","outboxheaders":"{\"X-A\":\"b\"}","datacontenttype":"text/x","data":"y"}`,
	} {
		f.Add(cloudevent.ContentType, "1", "/a", seed)
		f.Add(cloudevent.BatchContentType, "1", "/a", seed)
		f.Add("application/json", "%E2%82%AC", `"q"`, seed)
	}
	f.Fuzz(func(t *testing.T, contentType, id, ext, body string) {
		h := http.Header{
			"Content-Type": {contentType}, "Ce-Id": {id}, "Ce-Source": {"/a"}, "Ce-Type": {"t"}, "Ce-Specversion": {"1.0"}, "Ce-Ext": {ext},
		}
		const most = 3
		events, err := cloudevent.Decode(h, []byte(body), most)
		if err != nil {
			return
		}
		if len(events) > most {
			t.Fatalf("%d events, at most %d are taken", len(events), most)
		}
		for _, e := range events {
			if e.ID == "" || e.Foreign != (e.Topic == "") {
				t.Errorf("%+v", e)
			}
			if e.Foreign && e.ID != e.Headers["ce-source"]+" "+e.Headers["ce-id"] {
				t.Errorf("id %q of %q", e.ID, e.Headers)
			}
		}
	})
}

// FuzzRoundTrip: a message that can be emitted comes back byte for byte in every
// mode.
func FuzzRoundTrip(f *testing.F) {
	f.Add("1", "a.b", "", "", "", "", "", "", "", []byte(nil), int64(0))
	f.Add("2", "user.created", "k", "t", "User", "1", "application/json", "X-Foo", "bar", []byte(`{ "a" : 1.0 }`), int64(1700000000123456789))
	f.Add("3", "a", "ü \t%\"", "\u0085", "a", "\uffff", "text/plain; charset=utf-8", "foo", "", []byte("text\x00"), int64(-1))
	f.Add("4 x", "a", "k", "", "\tb", "", "text/plain; charset=latin1", "ce-source", "/x", []byte("\xff"), int64(1))
	f.Add("5", "a", "k", "", "a", "", "application/x+json", "correlation-id", "a\tb", []byte(" {}"), int64(1))
	f.Add("6", "\U0001F600.é", "", "", "", "", "application/octet-stream", "outboxtopic", "x", []byte{0}, int64(1))
	f.Add("7", "a", "", "", "", "", "application/json", "ce-id", "x", []byte("null"), int64(1))
	f.Add("8", "a", "", "", "", "", "application/json", "traceparent", "\ufffd", []byte("\"\xff\""), int64(1))
	f.Fuzz(func(t *testing.T, id, topic, key, tenant, typ, version, contentType, header, value string, payload []byte, created int64) {
		m := &outbox.Message{
			ID: id, Topic: topic, Key: key, Tenant: tenant, Type: typ, Version: version, ContentType: contentType, Payload: payload,
			Headers: map[string]string{header: value}, CreatedAt: time.Unix(0, created).UTC(),
		}
		if header == "" {
			m.Headers = nil
		}
		if !emittable(m) {
			return
		}
		body, err := cloudevent.AppendJSON(nil, m, "/outbox")
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, m, http.Header{"Content-Type": {cloudevent.ContentType}}, body)
		batch := "[" + string(body) + "]"
		wantSame(t, m, http.Header{"Content-Type": {cloudevent.BatchContentType}}, []byte(batch))
		h := http.Header{}
		if err := cloudevent.SetHeaders(h, m, "/outbox"); err != nil {
			t.Fatal(err)
		}
		wantSame(t, m, h, payload)
	})
}

// emittable reports whether m is what an outbox lets pass.
func emittable(m *outbox.Message) bool {
	for _, text := range []string{m.ID, m.Key, m.Tenant, m.Type, m.Version, m.ContentType} {
		if !isClean(text) {
			return false
		}
	}
	for name, value := range m.Headers {
		if strings.HasPrefix(strings.ToLower(name), outbox.HeaderPrefix) || !isToken(name) || !isClean(value) {
			return false
		}
	}
	if m.ContentType != "" {
		media, _, err := mime.ParseMediaType(m.ContentType)
		if err != nil || strings.HasPrefix(media, cloudevent.ContentPrefix) || !cloudevent.IsText(m.ContentType) || strings.TrimSpace(m.ContentType) != m.ContentType {
			return false
		}
	}
	return m.ID != "" && outbox.ValidateTopic(m.Topic) == nil
}

func isClean(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

var isToken = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$").MatchString

func wantSame(t *testing.T, m *outbox.Message, h http.Header, body []byte) {
	t.Helper()
	events, err := cloudevent.Decode(h, body, 1)
	if err != nil || len(events) != 1 {
		t.Fatalf("%v %q: %d events, %v", h, body, len(events), err)
	}
	if events[0].Foreign {
		t.Error("foreign")
	}
	want := *m
	if uuid.Validate(m.ID) != nil || len(m.ID) != 36 {
		want.ID = "/outbox " + m.ID
		if source := m.Headers["ce-source"]; cloudevent.IsURIReference(source) {
			want.ID = source + " " + m.ID
		}
	}
	if fault := differ(&events[0].Message, &want); fault != "" {
		t.Errorf("%v %q: %s", h, body, fault)
	}
}
