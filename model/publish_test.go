package model_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/model"
)

// MyModel is that of the seed's page.
type MyModel struct {
	ID       int    `json:"id"`
	FieldOne string `json:"field_one"`
	FieldTwo string `json:"field_two"`
	secret   string
}

func (m MyModel) MySerializer() any {
	return map[string]any{"id": m.ID, "one": m.FieldOne, "two": m.FieldTwo}
}

func (m *MyModel) Secret(ctx context.Context) (map[string]string, error) {
	if m.secret == "" {
		return nil, errNoSecret
	}
	return map[string]string{"secret": m.secret, "of": fmt.Sprint(ctx.Value(tenantKey{}))}, nil
}

func (m *MyModel) Panics() any             { panic("no luck") }
func (m *MyModel) Raw() any                { return []byte("{}") }
func (m *MyModel) Unencodable() any        { return math.NaN() }
func (m *MyModel) TakesMore(int) any       { return nil }
func (m *MyModel) ReturnsBytes() []byte    { return nil }
func (m *MyModel) ReturnsNothing()         {}
func (m *MyModel) ReturnsError() error     { return nil }
func (m *MyModel) ReturnsTwo() (any, bool) { return nil, false }

type tenantKey struct{}

var errNoSecret = errors.New("there is no secret")

func one() *MyModel { return &MyModel{ID: 1, FieldOne: "Field One", FieldTwo: "Field Two"} }

func publish[T any](t *testing.T, configs ...model.Config) *model.Publication[T] {
	t.Helper()
	p, err := model.Publish[T](configs...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// bodyOf returns the body of the only event of a value.
func bodyOf[T any](t *testing.T, c model.Config, v *T) string {
	t.Helper()
	if c.Destination == "" {
		c.Destination = "a.topic"
	}
	events, err := publish[T](t, c).Saved(v).Events(t.Context())
	if err != nil || len(events) != 1 {
		t.Fatalf("%d events, error %v", len(events), err)
	}
	return string(events[0].Payload.(json.RawMessage))
}

func TestBodyIsThatOfThePage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config model.Config
		want   string
	}{
		"destination only":     {model.Config{}, `{"id": 1, "field_one": "Field One", "field_two": "Field Two"}`},
		"fields":               {model.Config{Fields: []string{"field_one"}}, `{"id": 1, "field_one": "Field One"}`},
		"declaration's order":  {model.Config{Fields: []string{"field_two", "id", "field_one", "field_one"}}, `{"id": 1, "field_one": "Field One", "field_two": "Field Two"}`},
		"serializer":           {model.Config{Serializer: "MySerializer"}, `{"id": 1, "one": "Field One", "two": "Field Two"}`},
		"serializer and field": {model.Config{Serializer: "MySerializer", Fields: []string{"field_one"}}, `{"id": 1, "one": "Field One", "two": "Field Two"}`},
	} {
		if got := bodyOf(t, c.config, one()); got != c.want {
			t.Errorf("%s: the body is\n%s, want\n%s", name, got, c.want)
		}
	}
}

func TestDestinationBecomesTopicAndHeader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ destination, version, topic, header string }{
		{"user.saved", "", "user.saved", ""},
		{"user.saved", "v1", "user.saved.v1", ""},
		{"user.saved.v1", "v1", "user.saved.v1", ""},
		{"/topic/my_route_key", "", "my_route_key", ""},
		{"/topic/my_route_key", "v1", "my_route_key.v1", ""},
		{"/topic/my_route_key.v1", "v1", "my_route_key.v1", ""},
		{"/queue/users", "", "users", "/queue/users"},
		{"/queue/users", "v2", "users.v2", "/queue/users.v2"},
		{"/exchange/crm/users.saved", "v2", "users.saved.v2", "/exchange/crm/users.saved.v2"},
	} {
		events, err := publish[MyModel](t, model.Config{Destination: c.destination, Version: c.version}).Saved(one()).Events(t.Context())
		if err != nil || len(events) != 1 {
			t.Fatal(err)
		}
		e := events[0]
		if e.Topic != c.topic || e.Headers["stomp-destination"] != c.header || e.Version != c.version || e.Type != "MyModel" {
			t.Errorf("%s with %q: topic %q, headers %q, version %q, type %q", c.destination, c.version, e.Topic, e.Headers, e.Version, e.Type)
		}
	}
}

func TestOperationsArePublishedAsConfigured(t *testing.T) {
	t.Parallel()
	p := publish[MyModel](t,
		model.Config{Destination: "saved"},
		model.Config{Destination: "created", On: model.Created},
		model.Config{Destination: "gone", On: model.Deleted, Fields: []string{"id"}},
		model.Config{Destination: "gone", On: model.Updated, Fields: []string{"field_one"}},
	)
	for want, change := range map[string]model.Change{
		"saved created": p.Created(one()),
		"saved gone":    p.Updated(one()),
		"gone":          p.Deleted(one()),
		"":              p.Saved(),

		"saved created gone saved created gone": p.Saved(one(), one()),
	} {
		events, err := change.Events(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var topics []string
		for _, e := range events {
			topics = append(topics, e.Topic)
		}
		if got := strings.Join(topics, " "); got != want {
			t.Errorf("published %q, want %q", got, want)
		}
	}
	if p.On() != model.Saved|model.Deleted {
		t.Errorf("On is %v", p.On())
	}
	if s := (model.Created | model.Deleted | 64).String(); s != "created|deleted|Op(64)" {
		t.Errorf("an Op is written %q", s)
	}
}

// Money encodes itself.
type Money struct{ cents int }

func (m Money) MarshalJSON() ([]byte, error) { return []byte(fmt.Sprintf(`[%d,"EUR"]`, m.cents)), nil }

type base struct {
	Ref     string `json:"ref"`
	Hidden  string `json:"-"`
	Name    string `json:"name"`
	Deeper  string
	Shadows int `json:"shadows"`
}

type extra struct {
	Deeper string
	Note   string `json:"note"`
}

type rich struct {
	base
	*extra
	Name   string            `json:"name"`
	Empty  string            `json:"empty,omitempty"`
	Zero   time.Time         `json:"zero,omitzero"`
	Quoted int64             `json:"quoted,string"`
	Price  Money             `json:"price"`
	Tags   map[string][]int  `json:"tags"`
	Text   string            `json:"text"`
	Named  base              `json:"named"`
	Nil    *int              `json:"nil"`
	ID     string            `json:"-"`
	Other  map[string]string `json:"other,omitempty"`
}

func TestBodyFollowsEncodingJSON(t *testing.T) {
	t.Parallel()
	v := &rich{
		base: base{Ref: "r", Hidden: "h", Name: "shadowed", Deeper: "of base"}, Name: "name", Quoted: 7, Price: Money{5},
		Tags: map[string][]int{"b": {1, 2}, "a": {}}, Text: "a,b: \"c\\\" <&> é\n{", ID: "x-1",
	}
	const want = `{"id": "x-1", "ref": "r", "shadows": 0, "name": "name", "quoted": "7", "price": [5, "EUR"], ` +
		`"tags": {"a": [], "b": [1, 2]}, "text": "a,b: \"c\\\" <&> é\n{", "named": {"ref": "", "name": "", "Deeper": "", "shadows": 0}, "nil": null}`
	if got := bodyOf(t, model.Config{}, v); got != want {
		t.Errorf("the body is\n%s, want\n%s", got, want)
	}
	v.extra = &extra{Deeper: "of extra", Note: "n"}
	if got := bodyOf(t, model.Config{Fields: []string{"note", "empty"}}, v); got != `{"id": "x-1", "note": "n"}` {
		t.Errorf("with an embedded pointer the body is %s", got)
	}
	// Names are good or not as encoding/json has it.
	type odd struct {
		ID    int    `json:"id"`
		Euro  string `json:"prix€"`
		Slash string `json:"a/b é"`
	}
	o := &odd{1, "e", "s"}
	if got := bodyOf(t, model.Config{}, o); got != `{"id": 1, "Euro": "e", "a/b é": "s"}` {
		t.Errorf("the body is %s", got)
	}
	if got := bodyOf(t, model.Config{Fields: []string{"Euro"}}, o); got != `{"id": 1, "Euro": "e"}` {
		t.Errorf("the body of a field is %s", got)
	}
	events, err := publish[odd](t, model.Config{Destination: "x", Key: "Euro"}).Saved(o).Events(t.Context())
	if err != nil || events[0].Key != "e" {
		t.Errorf("the key is %q, error %v", events[0].Key, err)
	}
	// What is not selected is not encoded: it may not be encodable.
	type cyclic struct {
		ID   int     `json:"id"`
		Name string  `json:"name"`
		Self *cyclic `json:"self"`
	}
	c := &cyclic{ID: 3, Name: "c"}
	c.Self = c
	if got := bodyOf(t, model.Config{Fields: []string{"name"}}, c); got != `{"id": 3, "name": "c"}` {
		t.Errorf("the body is %s", got)
	}
}

// TestBodyHasWhatEncodingJSONHas compares with the standard library, spaces aside.
func TestBodyHasWhatEncodingJSONHas(t *testing.T) {
	t.Parallel()
	type left struct{ *extra }
	type right struct{ *extra }
	type model3 struct {
		ID int `json:"id"`
		rich
		left // has what right has, so that neither is encoded
		right
	}
	for _, v := range []*model3{
		{ID: 4, rich: rich{Text: `,:"\`, Empty: "e", Zero: time.Unix(0, 0).UTC(), Other: map[string]string{":": ","}}},
		{ID: 5, rich: rich{extra: &extra{Note: "n"}, Tags: map[string][]int{}}},
		{ID: 6, left: left{&extra{Note: "l"}}, right: right{&extra{Note: "r"}}},
	} {
		want, err := outbox.JSON.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		var compact strings.Builder
		got := bodyOf(t, model.Config{}, v)
		if err := compactTo(&compact, got); err != nil {
			t.Fatal(err)
		}
		if compact.String() != string(want) {
			t.Errorf("the body is\n%s, encoding/json has\n%s", got, want)
		}
	}
}

func compactTo(b *strings.Builder, text string) error {
	var raw json.RawMessage
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return err
	}
	data, err := outbox.JSON.Encode(raw)
	b.Write(data)
	return err
}

func TestKeyIsTheIdUnlessNamed(t *testing.T) {
	t.Parallel()
	type keyed struct {
		UUID  string   `json:"uuid"`
		Owner *int     `json:"owner"`
		Big   int64    `json:"big,string"`
		Rate  float64  `json:"rate"`
		Parts []string `json:"parts"`
	}
	owner := 7
	v := &keyed{UUID: "u-1", Owner: &owner, Big: 1 << 60, Rate: 1.5, Parts: []string{"a"}}
	for key, want := range map[string]string{
		"": "u-1", model.NoKey: "", "owner": "7", "Owner": "7", "big": "1152921504606846976", "rate": "1.5", "parts": `["a"]`,
	} {
		events, err := publish[keyed](t, model.Config{Destination: "x", ID: "uuid", Key: key}).Saved(v).Events(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if events[0].Key != want {
			t.Errorf("Key %q: the key is %q, want %q", key, events[0].Key, want)
		}
		if body := string(events[0].Payload.(json.RawMessage)); !strings.HasPrefix(body, `{"id": "u-1", "owner": 7, `) {
			t.Errorf("the body is %s", body)
		}
	}
	v.Owner = nil
	events, err := publish[keyed](t, model.Config{Destination: "x", ID: "UUID", Key: "owner"}).Saved(v).Events(t.Context())
	if err != nil || events[0].Key != "" {
		t.Errorf("a key of null is %q, error %v", events[0].Key, err)
	}
}

func TestSerializerGetsTheContext(t *testing.T) {
	t.Parallel()
	p := publish[MyModel](t, model.Config{Destination: "x", Serializer: "Secret"})
	v := one()
	ctx := context.WithValue(t.Context(), tenantKey{}, "tenant")
	if _, err := p.Saved(v).Events(ctx); !errors.Is(err, errNoSecret) {
		t.Errorf("the serializer's error became %v", err)
	}
	v.secret = "s"
	events, err := p.Saved(v).Events(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(events[0].Payload.(json.RawMessage)); got != `{"of": "tenant", "secret": "s"}` {
		t.Errorf("the body is %s", got)
	}
}

func TestWhatCannotBePublishedIsAnError(t *testing.T) {
	t.Parallel()
	serializedBy := func(name string) model.Change {
		return publish[MyModel](t, model.Config{Destination: "x", Serializer: name}).Saved(one())
	}
	plain := publish[MyModel](t, model.Config{Destination: "x"})
	var none *model.Publication[MyModel]
	type infinite struct {
		ID   int     `json:"id"`
		Rate float64 `json:"rate"`
	}
	for _, c := range []struct {
		change model.Change
		want   []string
	}{
		{serializedBy("Panics"), []string{"panic: no luck"}},
		{serializedBy("Raw"), []string{"returns []byte", "json.RawMessage"}},
		{serializedBy("Unencodable"), []string{"serializer", "NaN"}},
		{plain.Saved(one(), nil), []string{"value 1 is a *model_test.MyModel that is nil"}},
		{plain.Saved(&MyModel{FieldOne: "no id"}), []string{"MyModel for x", "field id", "zero value"}},
		{publish[MyModel](t, model.Config{Destination: "x", Serializer: "MySerializer"}).Saved(&MyModel{}), []string{"field id", "zero value"}},
		{none.Saved(one()), []string{"publication of model_test.MyModel is nil", "model.Publish"}},
		{publish[infinite](t, model.Config{Destination: "x"}).Saved(&infinite{1, math.Inf(1)}), []string{"field rate", "+Inf"}},
	} {
		events, err := c.change.Events(t.Context())
		wantError(t, err, c.want...)
		if events != nil {
			t.Errorf("there are events beside %v", err)
		}
	}
	if _, err := plain.Events(t.Context(), model.Saved, *one()); err == nil || !strings.Contains(err.Error(), "value 0 is a model_test.MyModel") {
		t.Errorf("a value that is no pointer: %v", err)
	}
	_, err := serializedBy("Panics").Events(t.Context())
	var caught *outbox.PanicError
	if !errors.As(err, &caught) || !strings.Contains(string(caught.Stack), "Panics") {
		t.Errorf("the error of a panic is %v, without its stack", err)
	}
	// A row of the database may have any id.
	if events, err := plain.Events(t.Context(), model.Saved, &MyModel{}); err != nil || events[0].Key != "0" {
		t.Errorf("a row with the id 0: %v", err)
	}
	// Without a need for it, the id may be anything.
	free := model.Config{Destination: "x", Serializer: "MySerializer", Key: model.NoKey}
	if got := bodyOf(t, free, &MyModel{}); got != `{"id": 0, "one": "", "two": ""}` {
		t.Errorf("the body is %s", got)
	}
}

// wantError checks that err says all of it.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error is %q, want %q in it", err, part)
		}
	}
}

type noID struct {
	Name string `json:"name"`
}

func (noID) Body() any { return nil }

type twoIDs struct {
	ID   int    `json:"id"`
	UUID string `json:"uuid"`
}

type itself struct{ ID int }

func (*itself) MarshalText() ([]byte, error) { return nil, nil }

func TestFaultyConfigsAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		config model.Config
		want   []string
	}{
		{model.Config{}, []string{`Destination "" is empty`}},
		{model.Config{Destination: "a b"}, []string{`Destination "a b"`, "' '"}},
		{model.Config{Destination: "/users"}, []string{`Destination "/users"`, "/topic/"}},
		{model.Config{Destination: "/topic/"}, []string{`Destination "/topic/"`, "is empty"}},
		{model.Config{Destination: strings.Repeat("x", 254), Version: "v1"}, []string{"Destination", "257 bytes"}},
		{model.Config{Destination: "/queue/é\n/c"}, []string{`Destination "/queue/é\n/c"`, "control character at byte 9"}},
		{model.Config{Destination: "/queue/\xff/c"}, []string{`Destination "/queue/\xff/c"`, "UTF-8"}},
		{model.Config{Destination: "/queue/" + strings.Repeat("x", 8<<10) + "/c"}, []string{"Destination", "8201 bytes"}},
		{model.Config{Destination: "x", Version: "v*"}, []string{`Version "v*"`, "'*'"}},
		{model.Config{Destination: "x", Fields: []string{"field_one", "nme"}}, []string{`Fields "nme"`, "have id, field_one, field_two"}},
		{model.Config{Destination: "x", Fields: []string{"FieldOne"}}, []string{`Fields "FieldOne"`}},
		{model.Config{Destination: "x", Serializer: "MySerialiser"}, []string{`Serializer "MySerialiser"`, "MyModel", "have MySerializer, Panics, Raw, Secret, Unencodable"}},
		{model.Config{Destination: "x", Serializer: "TakesMore"}, []string{`Serializer "TakesMore"`, "signature", "have MySerializer"}},
		{model.Config{Destination: "x", Serializer: "ReturnsNothing"}, []string{`Serializer "ReturnsNothing"`, "signature"}},
		{model.Config{Destination: "x", Serializer: "ReturnsError"}, []string{`Serializer "ReturnsError"`, "signature"}},
		{model.Config{Destination: "x", Serializer: "ReturnsBytes"}, []string{`Serializer "ReturnsBytes"`, "not as []byte"}},
		{model.Config{Destination: "x", Serializer: "ReturnsTwo"}, []string{`Serializer "ReturnsTwo"`, "signature"}},
		{model.Config{Destination: "x", On: 8}, []string{"On is Op(8)", "Created, Updated and Deleted"}},
		{model.Config{Destination: "x", ID: "uuid"}, []string{`ID "uuid"`, "have id, field_one, field_two"}},
		{model.Config{Destination: "x", Key: "owner"}, []string{`Key "owner"`, "have id, field_one, field_two"}},
	} {
		_, err := model.Publish[MyModel](c.config)
		wantError(t, err, append(c.want, "model_test.MyModel: config 0: ")...)
	}
	for err, want := range map[error][]string{
		errOf(model.Publish[int](model.Config{Destination: "x"})):                           {"int is not a struct"},
		errOf(model.Publish[*MyModel](model.Config{Destination: "x"})):                      {"*model_test.MyModel is not a struct"},
		errOf(model.Publish[MyModel]()):                                                     {"MyModel has no configuration"},
		errOf(model.Publish[noID](model.Config{Destination: "x"})):                          {"ID is empty", "noID has neither", "have name"},
		errOf(model.Publish[noID](model.Config{Destination: "x", Serializer: "Body"})):      {"ID is empty"},
		errOf(model.Publish[twoIDs](model.Config{Destination: "x", ID: "uuid"})):            {`ID "uuid"`, "twice"},
		errOf(model.Publish[itself](model.Config{Destination: "x"})):                        {"Serializer is empty", "MarshalText"},
		errOf(model.Publish[Money](model.Config{Destination: "x", Serializer: "Anything"})): {`Serializer "Anything"`, "no method that could be one"},
	} {
		wantError(t, err, want...)
	}
	if _, err := model.Publish[noID](model.Config{Destination: "x", Serializer: "Body", Key: model.NoKey}); err != nil {
		t.Errorf("a type without an id whose serializer needs none: %v", err)
	}
}

func errOf[T any](_ *model.Publication[T], err error) error { return err }

func TestAllFaultsAreReported(t *testing.T) {
	t.Parallel()
	_, err := model.Publish[MyModel](
		model.Config{Fields: []string{"a", "b"}, Version: "v 1", On: 16},
		model.Config{Destination: "x", Version: "v1"},
		model.Config{Destination: "/topic/x.v1", On: model.Created},
		model.Config{Destination: "x.v1", On: model.Deleted},
		model.Config{Destination: "/queue/x.v1"},
		model.Config{Destination: "y", Serializer: "None"},
	)
	wantError(t, err, `config 0: Version "v 1"`, `config 0: Fields "a"`, `config 0: Fields "b"`, "config 0: On is Op(16)",
		`config 2: Destination "/topic/x.v1" has another configuration for created`, `config 5: Serializer "None"`)
	if n := strings.Count(err.Error(), "\n") + 1; n != 6 {
		t.Errorf("%d faults, want 6:\n%v", n, err)
	}
	defer func() {
		if recover() == nil {
			t.Error("Must let the error pass")
		}
	}()
	model.Must(model.Publish[MyModel]())
}
