package natsjs

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/outbox-go/outbox"
)

func TestFiltersOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		patterns, want string
		exact          bool
	}{
		{"user.created", "p.user.created", true},
		{"user.*", "p.user.*", true},
		{"#", "p.>", true},
		{"#.#", "p.>", true},
		{"user.#", "p.user p.user.>", true},
		{"user.*.#", "p.user.* p.user.*.>", true},
		{"user.#.*", "p.user.* p.user.*.>", true},
		{"a.#.b", "p.a.>", false},
		{"#.b", "p.>", false},
		{"user.* user.created", "p.user.*", true},
		{"user.created user.#", "p.user p.user.>", true},
		{"user.* *.created", "p.*.*", false},
		{"user.* order.#", "p.order p.order.> p.user.*", true},
		{"# a.#.b", "p.>", false},
	} {
		subjects, exact := filtersOf("p.", strings.Fields(c.patterns))
		if got := strings.Join(subjects, " "); got != c.want || exact != c.exact {
			t.Errorf("%q: got %q, exact %v; want %q, exact %v", c.patterns, got, exact, c.want, c.exact)
		}
	}
}

// TestFiltersCover holds what the server and the queue need against random
// patterns: no two subjects overlap, none of the topics is missed, and where the
// subjects are exact, none is too many.
func TestFiltersCover(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	words := []string{"a", "b", "c", "*", "#"}
	random := func(most, kinds int) string {
		n := 1 + rnd.IntN(most)
		out := make([]string, n)
		for i := range out {
			out[i] = words[rnd.IntN(kinds)]
		}
		return strings.Join(out, ".")
	}
	var topics []string
	for range 300 {
		topics = append(topics, random(5, 3))
	}
	for range 5000 {
		patterns := make([]string, 1+rnd.IntN(4))
		for i := range patterns {
			patterns[i] = random(4, 5)
		}
		subjects, exact := filtersOf("p.", patterns)
		for i, a := range subjects {
			for _, b := range subjects[i+1:] {
				if overlap(a, b) {
					t.Fatalf("%q: subjects %q and %q overlap", patterns, a, b)
				}
			}
		}
		for _, topic := range topics {
			wanted := slices.ContainsFunc(patterns, func(p string) bool { return outbox.MatchTopic(p, topic) })
			got := 0
			for _, s := range subjects {
				if covers(s, "p."+topic) {
					got++
				}
			}
			if wanted && got != 1 || !wanted && exact && got > 0 {
				t.Fatalf("%q: %d of the subjects %q match topic %q, wanted %v, exact %v", patterns, got, subjects, topic, wanted, exact)
			}
		}
	}
}

func TestConsumerNameIsUnique(t *testing.T) {
	t.Parallel()
	for queue, want := range map[string]string{
		"billing": "billing", "a.b": "a=2Eb", "a=2Eb": "a=3D2Eb", "a/b*>": "a=2Fb=2A=3E", "ü": "=C3=BC", `a\b`: "a=5Cb",
	} {
		if got := consumerName(queue); got != want {
			t.Errorf("consumerName(%q) = %q, want %q", queue, got, want)
		}
	}
}

func TestPositionOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reply string
		times int
		ok    bool
	}{
		{"$JS.ACK.stream.consumer.3.10.20.1700000000000000001.7", 3, true},
		{"$JS.ACK.hub.ACCOUNT.stream.consumer.3.10.20.1700000000000000001.7", 3, true},
		{"$JS.ACK._.ACCOUNT.stream.consumer.3.10.20.1700000000000000001.7.token", 3, true},
		{"$JS.ACK.stream.consumer.x.10.20.1700000000000000001.7", 0, false},
		{"$JS.ACK.stream.consumer.3.x.20.1700000000000000001.7", 0, false},
		{"$JS.ACK.stream.consumer.3.10.20.x.7", 0, false},
		{"$JS.ACK.stream", 0, false},
		{"", 0, false},
	} {
		got, ok := positionOf(c.reply)
		if got.times != c.times || ok != c.ok || ok && (got.sequence != 10 || got.stored.UnixNano() != 1700000000000000001) {
			t.Errorf("positionOf(%q) = %+v, %v", c.reply, got, ok)
		}
	}
}

func TestReplySubject(t *testing.T) {
	t.Parallel()
	for _, n := range []uint64{1, 35, 36, 1 << 40, 1<<64 - 1} {
		if got, ok := numberOf(replySubject("_INBOX.x.", n), "_INBOX.x."); !ok || got != n {
			t.Errorf("number %d came back as %d, %v", n, got, ok)
		}
	}
	for _, subject := range []string{"_INBOX.x.", "_INBOX.y.1", "_INBOX.x.-1", "_INBOX.x.1.2"} {
		if n, ok := numberOf(subject, "_INBOX.x."); ok {
			t.Errorf("subject %q has the number %d", subject, n)
		}
	}
}
