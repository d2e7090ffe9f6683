package cloudevent_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook/internal/cloudevent"
)

func contentType(value string) http.Header { return http.Header{"Content-Type": {value}} }

// decodeOne decodes an event of the JSON format.
func decodeOne(t *testing.T, body string) cloudevent.Event {
	t.Helper()
	events, err := cloudevent.Decode(contentType("application/cloudevents+json; charset=UTF-8"), []byte(body), 1)
	if err != nil || len(events) != 1 {
		t.Fatalf("Decode(%s): %d events, %v", body, len(events), err)
	}
	return events[0]
}

// foreign is an event of another system, without its end.
const foreign = `{"specversion":"1.0","id":"1","source":"/shop","type":"order.placed"`

// TestDecodeForeignEvent: each attribute comes to its place, in the same way from
// either mode.
func TestDecodeForeignEvent(t *testing.T) {
	t.Parallel()
	const data = `{ "n": 1.0 }`
	structured := decodeOne(t, foreign+`,"time":"2024-05-06T07:08:09.123+02:00","subject":"s","dataschema":"urn:x",
		"datacontenttype":"application/json","partitionkey":"k","traceparent":"00-1","correlationid":"c","causationid":"d",
		"sequence":7,"flag":true,"unset":null,"averylongattributenamethatisonlydiscouraged":"x","data":`+data+`}`)
	h := contentType("application/json")
	for name, value := range map[string]string{
		"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.placed", "time": "2024-05-06T05:08:09.123Z",
		"subject": "s", "dataschema": "urn:x", "partitionkey": "k", "traceparent": "00-1", "correlationid": "c", "causationid": "d",
		"sequence": "7", "flag": "true", "averylongattributenamethatisonlydiscouraged": "x",
	} {
		h.Set("ce-"+name, value)
	}
	binary, err := cloudevent.Decode(h, []byte(data), 1)
	if err != nil {
		t.Fatal(err)
	}
	want := outbox.Message{
		ID: "/shop 1", Type: "order.placed", Key: "k", ContentType: "application/json", Payload: []byte(data),
		CreatedAt: time.Date(2024, 5, 6, 5, 8, 9, 123e6, time.UTC),
		Headers: map[string]string{
			"ce-source": "/shop", "ce-id": "1", "ce-subject": "s", "ce-dataschema": "urn:x", "traceparent": "00-1",
			"correlation-id": "c", "causation-id": "d", "sequence": "7", "flag": "true", "averylongattributenamethatisonlydiscouraged": "x",
		},
	}
	for mode, e := range map[string]cloudevent.Event{"structured": structured, "binary": binary[0]} {
		if !e.Foreign {
			t.Errorf("%s: not foreign", mode)
		}
		if fault := differ(&e.Message, &want); fault != "" {
			t.Errorf("%s: %s", mode, fault)
		}
	}
}

// differ tells in what two messages differ, or "".
func differ(got, want *outbox.Message) string {
	g, w := *got, *want
	g.Payload, w.Payload, g.Headers, w.Headers = nil, nil, nil, nil
	if !reflect.DeepEqual(g, w) || !bytes.Equal(got.Payload, want.Payload) || !maps.Equal(got.Headers, want.Headers) {
		return fmt.Sprintf("got %+v, payload %q, want %+v, payload %q", *got, got.Payload, *want, want.Payload)
	}
	return ""
}

func TestDecodeData(t *testing.T) {
	t.Parallel()
	for rest, want := range map[string]string{
		``:                                  "",
		`,"data":null`:                      "null",
		`,"data": [1,  2e0] `:               "[1,  2e0]",
		`,"data":"text"`:                    `"text"`, // without a content type it is JSON
		`,"data_base64":"AP8="`:             "\x00\xff",
		`,"data_base64":null`:               "",
		`,"data":null,"data_base64":"AP8="`: "\x00\xff",
		`,"data":"\ud800"`:                  `"\ud800"`, // not read, so not changed
		`,"datacontenttype":"application/vnd.x+json","data":"text"`: `"text"`,
		`,"datacontenttype":"text/xml","data":"<a b=\"\u00e9\"/>"`:  `<a b="é"/>`,
		`,"datacontenttype":"text/xml","data":null`:                 "",
	} {
		if got := string(decodeOne(t, foreign+rest+`}`).Payload); got != want {
			t.Errorf("%s: payload %q, want %q", rest, got, want)
		}
	}
}

// TestDecodeTime: RFC 3339 has forms that the package time does not take.
func TestDecodeTime(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Time{
		"2020-01-02t03:04:05z":          time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC),
		"2020-01-02T03:04:05.25+01:30":  time.Date(2020, 1, 2, 1, 34, 5, 25e7, time.UTC),
		"2016-12-31T23:59:60Z":          time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC),
		"2016-12-31T15:59:60.5-08:00":   time.Date(2017, 1, 1, 0, 0, 0, 5e8, time.UTC),
		"9999-12-31T23:59:59.999-23:59": time.Date(10000, 1, 1, 23, 58, 59, 999e6, time.UTC),
	} {
		if got := decodeOne(t, foreign+`,"time":"`+text+`"}`).CreatedAt; !got.Equal(want) {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

// TestDecodeIDs: only an id that is unique by itself stands alone; two senders may both
// count from 1.
func TestDecodeIDs(t *testing.T) {
	t.Parallel()
	const own, id = `,"outboxtopic":"order.placed"}`, "0190b5a8-0000-7000-8000-000000000001"
	for event, want := range map[string]string{
		foreign + own: "/shop 1",
		foreign + "}": "/shop 1",
		strings.Replace(foreign, `"1"`, `"`+id+`"`, 1) + own:                                        id,
		strings.Replace(foreign, `"1"`, `"`+id+`"`, 1) + "}":                                        "/shop " + id,
		strings.Replace(foreign, `"1"`, `"urn:uuid:`+id+`"`, 1) + own:                               "/shop urn:uuid:" + id,
		strings.Replace(foreign, `/shop`, `/market`, 1) + own:                                       "/market 1",
		strings.Replace(foreign, `"1"`, `"\ud83d\ude00"`, 1) + own:                                  "/shop \U0001F600",
		foreign + `,"outboxtopic":"order.placed","outboxheaders":"{\"outbox-id\":\"a\\tb\"}"}`:      "/shop a\tb",
		foreign + `,"outboxtopic":"order.placed","outboxheaders":"{\"outbox-id\":\"` + id + `\"}"}`: id,
	} {
		if got := decodeOne(t, event).ID; got != want {
			t.Errorf("%s: id %q, want %q", event, got, want)
		}
	}
}

func TestDecodeHeaderValues(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"Euro%20%E2%82%AC%20%F0%9F%98%80": "Euro € 😀",
		"Euro €":                          "Euro €", // bytes as they are
		`"a \"quoted\" one%21"`:           `a "quoted" one!`,
		"100%":                            "100%", // of a sender that does not escape
		"a+b":                             "a+b",
		`"`:                               `"`,
	} {
		h := http.Header{}
		for name, v := range map[string]string{"id": "1", "source": "/a%20b", "type": "t", "specversion": "1.0", "ext": value} {
			h.Set("ce-"+name, v)
		}
		events, err := cloudevent.Decode(h, nil, 1)
		if err != nil {
			t.Errorf("%q: %v", value, err)
			continue
		}
		if got := events[0].Headers["ext"]; got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
		if events[0].ID != "/a%20b 1" {
			t.Errorf("source and id are %q: the source has escapes of its own", events[0].ID)
		}
	}
}

func TestDecodeBatch(t *testing.T) {
	t.Parallel()
	decode := func(body string, most int) (int, error) {
		events, err := cloudevent.Decode(contentType("Application/CloudEvents-Batch+JSON"), []byte(body), most)
		return len(events), err
	}
	three := "[" + foreign + "},\n" + foreign + "}, " + foreign + "}]"
	if n, err := decode(three, 3); n != 3 || err != nil {
		t.Errorf("%d events, %v, want 3", n, err)
	}
	if _, err := decode(three, 2); !errors.Is(err, cloudevent.ErrTooMany) {
		t.Errorf("3 events of at most 2: %v", err)
	}
	if n, err := decode(" [ ] ", 1); n != 0 || err != nil {
		t.Errorf("%d events of none, %v", n, err)
	}
	if n, err := decode("["+foreign+"},{}]", 3); n != 0 || err == nil || !strings.Contains(err.Error(), "event 1: ") {
		t.Errorf("%d events, %v, want none and the faulty one's number", n, err)
	}
}

// TestDecodeRefuses what is no event, and says what is wrong.
func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	without := func(member string) string {
		return strings.NewReplacer(member, `"other":"x"`).Replace(foreign) + "}"
	}
	const structured = "application/cloudevents+json"
	for _, test := range []struct{ contentType, body, want string }{
		{"", "{}", "no CloudEvent"},
		{"application/json", foreign + "}", "no CloudEvent"},
		{"application/cloudevents", foreign + "}", "unsupported media type"},
		{"application/cloudevents+avro", "", "unsupported media type"},
		{"application/cloudevents-batch+xml", "", "unsupported media type"},
		{structured + "; charset", "", "unsupported media type"},
		{structured + "; charset=utf-16", foreign + "}", "charset"},
		{structured, "", "not JSON"},
		{structured, foreign, "not JSON"},
		{structured, foreign + "} {}", "not JSON"},
		{structured, foreign + ",\"x\":\"\xff\"}", "not JSON in UTF-8"},
		{structured, "[" + foreign + "}]", "not a JSON object"},
		{structured, "null", "not a JSON object"},
		{"application/cloudevents-batch+json", foreign + "}", "not a JSON array"},
		{"application/cloudevents-batch+json", "[1]", "event 0: the event is not a JSON object"},
		{structured, without(`"id":"1"`), "attribute id is missing"},
		{structured, without(`"source":"/shop"`), "attribute source is missing"},
		{structured, without(`"type":"order.placed"`), "attribute type is missing"},
		{structured, without(`"specversion":"1.0"`), "attribute specversion"},
		{structured, strings.Replace(foreign, `1.0`, `0.3`, 1) + "}", "version 1.0"},
		{structured, strings.Replace(foreign, `"1"`, `17`, 1) + "}", "id is not a string"},
		{structured, strings.Replace(foreign, `"1"`, `""`, 1) + "}", "attribute id is missing"},
		{structured, strings.Replace(foreign, `/shop`, `a b`, 1) + "}", "URI reference"},
		{structured, foreign + `,"id":"2"}`, "twice"},
		{structured, foreign + `,"data":1,"data":2}`, "twice"},
		{structured, foreign + `,"data":1,"data_base64":""}`, "both"},
		{structured, foreign + `,"data_base64":"?"}`, "base64"},
		{structured, foreign + `,"data_base64":7}`, "not a string"},
		{structured, foreign + `,"datacontenttype":"text/xml","data":{}}`, "not a string"},
		{structured, foreign + `,"datacontenttype":"no media type","data":{}}`, "media type"},
		{structured, foreign + `,"datacontenttype":"","data":{}}`, "empty"},
		{structured, foreign + `,"time":"yesterday"}`, "RFC 3339"},
		{structured, foreign + `,"time":"2020-01-02T03:04:05,5Z"}`, "RFC 3339"},
		{structured, foreign + `,"time":"2020-01-02T03:04:05+24:00"}`, "RFC 3339"},
		{structured, foreign + `,"time":"2020-01-02 03:04:05Z"}`, "RFC 3339"},
		{structured, strings.Replace(foreign, `"1"`, `"\ud800"`, 1) + "}", "Unicode"},
		{structured, strings.Replace(foreign, `"1"`, `"\ud800\ud800"`, 1) + "}", "Unicode"},
		{structured, strings.Replace(foreign, `"1"`, `"\udc00\ud800"`, 1) + "}", "Unicode"},
		{structured, foreign + `,"datacontenttype":"text/xml","data":"\ud83d"}`, "not a string"},
		{structured, foreign + `,"outboxtopic":"t","outboxheaders":"{\"X\":\"\\ud83d\"}"}`, "outboxheaders"},
		{structured, foreign + `,"outboxtopic":"t","outboxheaders":"{\"a b\":\"c\"}"}`, "outboxheaders"},
		{structured, foreign + `,"outboxtopic":"t","outboxheaders":"{\"\":\"c\"}"}`, "outboxheaders"},
		{structured, foreign + `,"outboxtopic":"t","outboxheaders":"{\"X\":\"a\\nb\"}"}`, "outboxheaders"},
		{structured, foreign + `,"outboxtopic":"t","outboxheaders":"{\"outbox-id\":\"a\\u0000b\"}"}`, "outboxheaders"},
		{structured, foreign + `,"outboxtopic":"t","outboxheaders":"{\"outbox-key\":\"a\\rb\"}"}`, "outboxheaders"},
		{structured, foreign + `,"outboxtopic":"t","outboxheaders":"{\"outbox-tenant\":\"\\u007f\"}"}`, "outboxheaders"},
		{structured, foreign + `,"subject":""}`, "empty"},
		{structured, foreign + `,"dataschema":"relative"}`, "absolute URI"},
		{structured, foreign + `,"Upper":"x"}`, "lower-case"},
		{structured, foreign + `,"comExample":"x"}`, "lower-case"},
		{structured, foreign + `,"":"x"}`, "lower-case"},
		{structured, foreign + `,"ext":{}}`, "object"},
		{structured, foreign + `,"ext":1.5}`, "integer"},
		{structured, foreign + `,"ext":2147483648}`, "integer"},
		{structured, foreign + `,"ext":"a\u0000b"}`, "character"},
		{structured, foreign + `,"outboxtopic":"t","outboxheaders":"[]"}`, "outboxheaders"},
	} {
		events, err := cloudevent.Decode(contentType(test.contentType), []byte(test.body), 10)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %s: %v of %v, want %q", test.contentType, test.body, err, events, test.want)
		}
		if want := test.want == "unsupported media type" || test.want == "charset"; errors.Is(err, cloudevent.ErrMediaType) != want {
			t.Errorf("%s: %v: ErrMediaType is %t", test.contentType, err, !want)
		}
	}
}

func TestDecodeRefusesHeaders(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, value, want string }{
		{"Content-Type", "text/plain", "more than one"},
		{"Ce-Id", "2", "more than once"},
		{"Ce-Datacontenttype", "text/plain", "Content-Type"},
		{"Ce-Foo-Bar", "x", "lower-case"},
		{"Ce-Time", "", "empty"},
		{"Ce-Ext", "\xff", "UTF-8"},
		{"Ce-Ext", "%00", "character"},
	} {
		h := http.Header{"Content-Type": {"text/plain"}, "Ce-Id": {"1"}, "Ce-Source": {"/a"}, "Ce-Type": {"t"}, "Ce-Specversion": {"1.0"}}
		h[test.name] = append(h[test.name], test.value)
		if _, err := cloudevent.Decode(h, nil, 1); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %q: %v, want %q", test.name, test.value, err, test.want)
		}
	}
}
