package outbox_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/outbox-go/outbox"
)

func TestTopicsAndPatterns(t *testing.T) {
	long := strings.Repeat("a", outbox.MaxTopic)
	for _, c := range []struct {
		text           string
		topic, pattern bool
	}{
		{"user.created", true, true},
		{"a", true, true},
		{"/topic/my_route-key:1", true, true},
		{"größe.ändern", true, true},
		{long, true, true},
		{long + "a", false, false},
		{"", false, false},
		{".", false, false},
		{"a.", false, false},
		{".a", false, false},
		{"a..b", false, false},
		{"a b", false, false},
		{"a\tb", false, false},
		{"a\x00", false, false},
		{"a\xff", false, false},
		{"*", false, true},
		{"a.#.b", false, true},
		{"a*", false, false},
		{"a.>", false, false},
	} {
		if got := outbox.ValidateTopic(c.text) == nil; got != c.topic {
			t.Errorf("topic %q valid %v, want %v", c.text, got, c.topic)
		}
		if got := outbox.ValidatePattern(c.text) == nil; got != c.pattern {
			t.Errorf("pattern %q valid %v, want %v", c.text, got, c.pattern)
		}
	}
}

func TestMatchTopic(t *testing.T) {
	for _, c := range []struct {
		pattern, topic string
		want           bool
	}{
		{"user.created", "user.created", true},
		{"user.created", "user.create", false},
		{"user.*", "user.created", true},
		{"user.*", "user", false},
		{"user.*", "user.created.late", false},
		{"user.*", "order.created", false},
		{"*.created", "user.created", true},
		{"user.#", "user", true},
		{"user.#", "user.created.late", true},
		{"user.#", "users", false},
		{"#", "anything.at.all", true},
		{"#.late", "late", true},
		{"#.late", "user.created.late", true},
		{"a.#.b", "a.b", true},
		{"a.#.b", "a.x.y.b", true},
		{"a.#.b", "a.b.c", false},
		{"a.#.*", "a", false},
		{"a.#.*", "a.b", true},
		{"a.*.#", "a", false},
		{"#.#", "a", true},
		{"*", "a.b", false},
	} {
		if got := outbox.MatchTopic(c.pattern, c.topic); got != c.want {
			t.Errorf("%q matches %q: %v, want %v", c.pattern, c.topic, got, c.want)
		}
	}
}

// asRegexp says what a pattern means in another language.
func asRegexp(pattern string) *regexp.Regexp {
	words := strings.Split(pattern, ".")
	for i, word := range words {
		switch word {
		case "*":
			words[i] = `\.[^.]+`
		case "#":
			words[i] = `(\.[^.]+)*`
		default:
			words[i] = `\.` + regexp.QuoteMeta(word)
		}
	}
	return regexp.MustCompile(`\A` + strings.Join(words, "") + `\z`)
}

func FuzzMatchTopic(f *testing.F) {
	for _, seed := range [][2]string{{"a.*.#", "a.b.c"}, {"#.a.#.b", "a.a.b.b"}, {"*.#.*", "a"}, {"#", "a.b"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, topic string) {
		if outbox.ValidatePattern(pattern) != nil || outbox.ValidateTopic(topic) != nil {
			return // says nothing about matching
		}
		want := asRegexp(pattern).MatchString("." + topic)
		if got := outbox.MatchTopic(pattern, topic); got != want {
			t.Errorf("%q matches %q: %v, want %v", pattern, topic, got, want)
		}
	})
}

func BenchmarkMatchTopic(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if !outbox.MatchTopic("order.*.#", "order.placed.late") {
			b.Fatal("does not match")
		}
	}
}
