package brokertest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
)

// topics are what each pattern is tried on.
var topics = []string{
	"user", "user.created", "user.created.eu", "users", "order.user", "order.created",
	"a", "b", "a.b", "a.x.b", "a.x.y.b", "a.b.c", "x.a.b", "a.a.b.b", "größe.x", "é",
}

func testTopics(t *testing.T, open func(t *testing.T) Broker) {
	for _, c := range []struct{ patterns, want string }{
		{"user.created", "user.created"},
		{"user", "user"},
		{"user.*", "user.created"},
		{"user.#", "user user.created user.created.eu"},
		{"*.created", "user.created order.created"},
		{"*", "user users a b é"},
		{"*.*", "user.created order.user order.created a.b größe.x"},
		{"#", strings.Join(topics, " ")},
		{"#.#", strings.Join(topics, " ")},
		{"#.*", strings.Join(topics, " ")},
		{"*.#", strings.Join(topics, " ")},
		{"a.#.b", "a.b a.x.b a.x.y.b a.a.b.b"},
		{"a.*.b", "a.x.b"},
		{"a.*.#", "a.b a.x.b a.x.y.b a.b.c a.a.b.b"},
		{"#.b", "b a.b a.x.b a.x.y.b x.a.b a.a.b.b"},
		{"#.user.#", "user user.created user.created.eu order.user"},
		{"größe.*", "größe.x"},
		{"é", "é"},
		// Several patterns: each message comes once, whatever they share.
		{"user.* user.#", "user user.created user.created.eu"},
		{"user.* *.created", "user.created order.created"},
		{"user.created user.created", "user.created"},
		{"a.b #.b a.#", "a b a.b a.x.b a.x.y.b a.b.c x.a.b a.a.b.b"},
		{"a.#.b user.#", "user user.created user.created.eu a.b a.x.b a.x.y.b a.a.b.b"},
		{"a.* *.b a.*.b", "a.b a.x.b"},
		{"# user.created", strings.Join(topics, " ")},
		{"user order.created é", "user order.created é"},
	} {
		t.Run(strings.ReplaceAll(c.patterns, " ", ","), func(t *testing.T) {
			t.Parallel()
			tryTopics(newEnv(t, open(t)), strings.Fields(c.patterns), strings.Fields(c.want))
		})
	}
}

func tryTopics(e *env, patterns, want []string) {
	c := e.subscribe(subscription("topics", 50, patterns...))
	// A broker may refuse what no queue collects: that is not the matter here.
	e.subscribe(subscription("everything", 50, "#"))
	p := e.publisher()
	for _, topic := range topics {
		p.publish(message(topic, topic))
	}
	var got []string
	for _, r := range c.handle(len(want)) {
		got = append(got, r.Topic)
	}
	if !slices.Equal(got, want) {
		e.Errorf("patterns %q collected %q, want %q", patterns, got, want)
	}
	c.nothingBut(p, want[0])
}

func testQueuesGetCopies(e *env) {
	const n = 100
	first := e.subscribe(subscription("first", 10, "copy.*"))
	second := e.subscribe(subscription("second", 10, "#"))
	p := e.publisher()
	p.publish(messages("copy.this", n)...)
	for _, c := range []*consumer{first, second} {
		for i, r := range c.handle(n) {
			if r.Key != strconv.Itoa(i) {
				e.Fatalf("message %d to arrive is number %s of those published", i, r.Key)
			}
		}
	}
	first.nothingBut(p, "copy.end")
}

// testMembersShare: two members of a queue have all that they may take unsettled
// at once, so neither can have had more than its share.
func testMembersShare(e *env) {
	const prefetch = 20
	first := e.subscribe(subscription("shared", prefetch, "#"))
	second := e.subscribe(subscription("shared", prefetch, "#"))
	p := e.publisher()
	p.publish(messages("share.this", 2*prefetch)...)
	a, b := first.take(prefetch), second.take(prefetch)
	seen := map[string]int{}
	for _, r := range slices.Concat(a, b) {
		seen[r.Key]++
		e.settle(r, outbox.Ack)
	}
	if len(seen) != 2*prefetch {
		e.Errorf("the two got %d different messages of %d: %v", len(seen), 2*prefetch, seen)
	}
}

// testMembersDoNotHoard: what a member may not pass on yet is there for one that
// comes later.
func testMembersDoNotHoard(e *env) {
	const prefetch = 5
	p := e.publisher()
	first := e.subscribe(subscription("shared", prefetch, "#"))
	p.publish(messages("share.this", 2*prefetch)...)
	taken := first.take(prefetch)
	second := e.subscribe(subscription("shared", prefetch, "#"))
	second.handle(prefetch)
	for _, r := range taken {
		e.settle(r, outbox.Ack)
	}
}

// testTopicsAdd: a member that starts with other topics, as a new version does
// while the old one still runs, takes none away.
func testTopicsAdd(e *env) {
	e.subscribe(subscription("everything", 50, "#"))
	p := e.publisher()
	c := e.subscribe(subscription("growing", 10, "old.*", "both"))
	p.publish(message("old.a", "1"))
	c.handle(1)
	c.stop()

	c = e.subscribe(subscription("growing", 10, "new.#", "both"))
	p.publish(message("old.a", "2"), message("new", "3"), message("new.a.b", "4"), message("both", "5"), message("other", "6"))
	if got := fmt.Sprint(keys(c.handle(4))); got != "[2 3 4 5]" {
		e.Errorf("got %s, want [2 3 4 5]", got)
	}
	c.nothingBut(p, "both")
}

func testQueueNames(e *env) {
	names := []string{
		"plain", "with.dots", "with*star", "with>greater", "with#hash", "with/slash", `with\backslash`, "with:colon",
		"with=equals", "with=2Edots", "with%percent", "with%2Edots", "grüße", "UPPER", "upper", "$dollar", "a,b;c", `"quoted"`,
	}
	p := e.publisher()
	consumers := map[string]*consumer{}
	for _, name := range names {
		consumers[name] = e.subscribe(subscription(name, 1, "#"))
	}
	m := message("for.all", "")
	p.publish(m)
	for _, name := range slices.Sorted(maps.Keys(consumers)) {
		if got := consumers[name].handle(1)[0]; got.ID != m.ID {
			e.Errorf("queue %q: got message %s, want %s", name, got.ID, m.ID)
		}
	}
}

func testInvalidSubscription(e *env) {
	good := subscription("good", 1, "user.*")
	for _, c := range []struct {
		field  string
		change func(s *outbox.Subscription)
	}{
		{"Queue", func(s *outbox.Subscription) { s.Queue = "" }},
		{"Queue", func(s *outbox.Subscription) { s.Queue = "two words" }},
		{"Queue", func(s *outbox.Subscription) { s.Queue = "line\nfeed" }},
		{"Queue", func(s *outbox.Subscription) { s.Queue = strings.Repeat("q", outbox.MaxQueue+1) }},
		{"Topics", func(s *outbox.Subscription) { s.Topics = nil }},
		{"Topics", func(s *outbox.Subscription) { s.Topics = []string{"user.*", "user..created"} }},
		{"Topics", func(s *outbox.Subscription) { s.Topics = []string{"user.>"} }},
		{"Topics", func(s *outbox.Subscription) { s.Topics = []string{"user.a*"} }},
		{"Prefetch", func(s *outbox.Subscription) { s.Prefetch = 0 }},
		{"Prefetch", func(s *outbox.Subscription) { s.Prefetch = -1 }},
		{"RetryDelays", func(s *outbox.Subscription) { s.RetryDelays = []time.Duration{0} }},
		{"RetryDelays", func(s *outbox.Subscription) { s.RetryDelays = []time.Duration{25 * time.Hour} }},
		{"InOrder", func(s *outbox.Subscription) { s.InOrder, s.DeadLetters = true, true }},
	} {
		s := good
		c.change(&s)
		k := e.start(s, func(*outbox.Received) {})
		wait(e, k.ended, "Subscribe to return an error")
		if k.err == nil || !strings.Contains(k.err.Error(), c.field) {
			e.Errorf("Subscribe(%+v) returned %v, want an error that names %s", s, k.err, c.field)
		}
		select {
		case <-k.ready:
			e.Errorf("Subscribe(%+v) called ready", s)
		default:
		}
	}
}

func testDeclaredAtOnce(e *env) {
	const members, n = 4, 100
	subs := make([]*consumer, members)
	got := make(chan *outbox.Received, 1000)
	var starting sync.WaitGroup
	for i := range subs {
		starting.Go(func() {
			subs[i] = e.start(subscription("new", 10, "user.*", "order.#"), func(r *outbox.Received) { got <- r })
		})
	}
	starting.Wait()
	for _, c := range subs {
		c.waitReady()
	}
	p := e.publisher()
	p.publish(messages("user.created", n)...)
	seen := map[string]bool{}
	for range n {
		r := wait(e, got, "a message")
		if seen[r.Key] {
			e.Errorf("message %s was delivered twice", r.Key)
		}
		seen[r.Key] = true
		e.settle(r, outbox.Ack)
	}
}
