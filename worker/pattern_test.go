package worker

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/outbox-go/outbox"
)

func nop(context.Context, *Delivery[[]byte]) error { return nil }

func handlersOf(patterns ...string) []*handler {
	var handlers []*handler
	for _, p := range patterns {
		handlers = append(handlers, &handler{pattern: p, call: nop})
	}
	return handlers
}

func TestMostSpecificPatternWins(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		topic    string
		patterns string // the first one is expected
	}{
		{"user.created", "user.created user.* user.# *.created *.* *.# #.created #"},
		{"user.created", "user.* user.*.# user.# *.created"},
		{"user.created", "*.created *.* *.# #.created #"},
		{"user", "user user.# * *.# #"},
		{"user", "user.# *"},
		{"user", "* *.# #"},
		{"user.created.v1", "user.created.* user.created.# user.*.v1 user.#.v1 #.v1"},
		{"user.created.v1", "user.*.v1 user.*.* user.#.v1 user.#"},
		{"a.b.c", "#.b.* #.a.#"},
		{"a.a", "#.a.a #.a"},
		{"a.b", "a.#.b *.b"},
		{"order.paid", "# user.created"},
	} {
		patterns := strings.Fields(test.patterns)
		for _, order := range [][]string{patterns, reversed(patterns)} {
			r, faults := newRouter(handlersOf(order...))
			if len(faults) > 0 {
				t.Fatalf("%v: %v", order, faults)
			}
			if got := r.find(test.topic); got == nil || got.pattern != patterns[0] {
				t.Errorf("%s among %v went to %+v, want %s", test.topic, order, got, patterns[0])
			}
		}
	}
	r, _ := newRouter(handlersOf("user.*"))
	if got := r.find("user.a.b"); got != nil {
		t.Errorf("user.a.b went to %s, want none", got.pattern)
	}
}

func TestTiesAreRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ a, b, want string }{
		{"user.created", "user.created", `"user.created" is registered twice`},
		{"user.*", "user.*", "registered twice"},
		{"#.*", "*.#", "match the same topics"},
		{"a.#.#", "a.#", "match the same topics"},
		{"a.#.*.b", "a.*.#.b", "match the same topics"},
		{"#.a.#", "#.b.#", "neither is more specific"},
		{"#.a.*", "#.*.a", ""},
		{"#.a", "#.b", ""},
		{"a.#.b", "b.#.b", ""},
		{"user.*", "order.*", ""},
		{"user.created", "user.deleted", ""},
		{"#", "*", ""},
	} {
		_, faults := newRouter(handlersOf(test.a, test.b))
		switch {
		case test.want == "" && len(faults) > 0:
			t.Errorf("%s and %s: unexpected faults %v", test.a, test.b, faults)
		case test.want != "" && (len(faults) != 1 || !strings.Contains(faults[0].Error(), test.want)):
			t.Errorf("%s and %s: faults %v, want one with %q", test.a, test.b, faults, test.want)
		}
	}
}

// TestPatternsDecideEveryTopic compares overlap with the matching of all short
// topics, and checks that two patterns without a tie never leave a choice.
func TestPatternsDecideEveryTopic(t *testing.T) {
	t.Parallel()
	patterns := sequences([]string{"a", "b", "*", "#"}, 3)
	topics := sequences([]string{"a", "b", "c"}, 5)
	for i, a := range patterns {
		for _, b := range patterns[i+1:] {
			common := slices.ContainsFunc(topics, func(topic string) bool {
				return outbox.MatchTopic(a, topic) && outbox.MatchTopic(b, topic)
			})
			if got := overlap(canonical(a), canonical(b)); got != common {
				t.Errorf("overlap(%s, %s) = %v, want %v", a, b, got, common)
			}
			x, y := route{&handler{pattern: a}, canonical(a)}, route{&handler{pattern: b}, canonical(b)}
			if tied := compareSpecific(x.words, y.words) == 0 && common; tied != (tie(x, y) != nil) {
				t.Errorf("tie(%s, %s) = %v, want %v", a, b, tie(x, y), tied)
			}
			if compareSpecific(x.words, y.words) != -compareSpecific(y.words, x.words) {
				t.Errorf("the order of %s and %s depends on who asks", a, b)
			}
		}
	}
	for _, p := range patterns {
		joined := strings.Join(canonical(p), ".")
		for _, topic := range topics {
			if outbox.MatchTopic(p, topic) != outbox.MatchTopic(joined, topic) {
				t.Errorf("%s and its canonical form %s differ at %s", p, joined, topic)
			}
		}
	}
}

// sequences returns all texts of 1 to most words.
func sequences(words []string, most int) []string {
	all := slices.Clone(words)
	for level := all; most > 1; most-- {
		var longer []string
		for _, s := range level {
			for _, w := range words {
				longer = append(longer, s+"."+w)
			}
		}
		all, level = append(all, longer...), longer
	}
	return all
}

func reversed(s []string) []string {
	s = slices.Clone(s)
	slices.Reverse(s)
	return s
}

func TestFindDoesNotAllocate(t *testing.T) {
	r, _ := newRouter(handlersOf("user.created", "user.*", "#.deleted", "order.#"))
	if n := testing.AllocsPerRun(100, func() { r.find("order.line.added") }); n != 0 {
		t.Errorf("find allocates %v times", n)
	}
}
