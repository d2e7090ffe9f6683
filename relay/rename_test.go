package relay_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
)

func TestRenameMakesTopicsOfATemplate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, template string
		m                 outbox.Message
		want              string
	}{
		{"#", "{topic}.{version}", outbox.Message{Topic: "orders", Version: "v1"}, "orders.v1"},
		{"#", "{topic}.{version}", outbox.Message{Topic: "orders.v1", Version: "v1"}, "orders.v1"}, // appended once
		{"#", "{topic}.{version}", outbox.Message{Topic: "orders.v1", Version: "v2"}, "orders.v1.v2"},
		{"#", "{topic}.{version}", outbox.Message{Topic: "v1", Version: "v1"}, "v1.v1"},
		{"#", "{topic}.{version}", outbox.Message{Topic: "orders"}, "orders"}, // nothing to append
		{"#", "{tenant}.{topic}.{type}", outbox.Message{Topic: "a.b", Tenant: "x", Type: "T"}, "x.a.b.T"},
		{"#", "{tenant}.{topic}.{type}", outbox.Message{Topic: "x.a.b.T", Tenant: "x", Type: "T"}, "x.a.b.T"},
		{"#", "{tenant}.{topic}.{type}", outbox.Message{Topic: "x.a.b", Tenant: "x", Type: "T"}, "x.x.a.b.T"}, // only one of them
		{"#", "{tenant}.{topic}.{type}", outbox.Message{Topic: "a.b.T", Tenant: "x", Type: "T"}, "x.a.b.T.T"},
		{"#", "to-{type}-{version}", outbox.Message{Topic: "a", Type: "T"}, "to-T-"},
		{"#", "{topic}", outbox.Message{Topic: "a.b"}, "a.b"},
		{"#", "{topic}.{topic}", outbox.Message{Topic: "a"}, "a.a"},
		{"orders.*", "elsewhere", outbox.Message{Topic: "orders.placed"}, "elsewhere"},
		{"orders.*", "elsewhere", outbox.Message{Topic: "users"}, "users"},
	} {
		rename, err := relay.Rename(c.pattern, c.template)
		if err != nil {
			t.Fatal(err)
		}
		m := c.m
		if err := rename(t.Context(), &m); err != nil || m.Topic != c.want {
			t.Errorf("%s for %s: %q becomes %q, %v; want %q", c.template, c.pattern, c.m.Topic, m.Topic, err, c.want)
		}
	}
}

func TestRenameSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for template, want := range map[string]string{
		"":               "is empty",
		"{topics}":       `"{topics}" has the field {topics}: use {topic}`,
		"{topic":         "without }",
		"topic}":         "without {",
		"{}":             "has the field {}",
		"{topic}..x":     "empty word",
		"{topic}.a b":    `character ' '`,
		"{topic}.*":      `character '*'`,
		"{to{topic}}":    "has the field",
		"{topic}.{type}": `pattern "a..b" has an empty word`,
	} {
		_, err := relay.Rename("a..b", template)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "pattern") {
			t.Errorf("%q: error %v, want %q", template, err, want)
		}
	}
}

func TestRenameToWhatIsNoTopicIsUndeliverable(t *testing.T) {
	t.Parallel()
	for template, m := range map[string]outbox.Message{
		"{tenant}.{topic}": {Topic: "a", Tenant: "two words"},
		"{type}":           {Topic: "a"},
		"{topic}.x":        {Topic: strings.Repeat("a", outbox.MaxTopic)},
	} {
		rename, err := relay.Rename("#", template)
		if err != nil {
			t.Fatal(err)
		}
		before := m.Topic
		if err := rename(t.Context(), &m); !errors.Is(err, outbox.ErrInvalid) || !strings.Contains(err.Error(), template) || m.Topic != before {
			t.Errorf("%s: error %v, topic %q", template, err, m.Topic)
		}
	}
}

func TestChainRunsTransformsUpToTheFirstError(t *testing.T) {
	t.Parallel()
	add := func(s string, err error) func(context.Context, *outbox.Message) error {
		return func(_ context.Context, m *outbox.Message) error { m.Topic += s; return err }
	}
	stop := errors.New("stop")
	m := outbox.Message{}
	if err := relay.Chain(add("a", nil), add("b", stop), add("c", nil))(t.Context(), &m); !errors.Is(err, stop) || m.Topic != "ab" {
		t.Errorf("%q, %v", m.Topic, err)
	}
	if err := relay.Chain()(t.Context(), &m); err != nil {
		t.Error(err)
	}
}
