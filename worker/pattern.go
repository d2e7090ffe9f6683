package worker

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/outbox-go/outbox"
)

// router finds the handler of a topic.
type router struct {
	exact map[string]*handler
	wild  []*handler // the most specific first
}

// newRouter returns the router of handlers and all that is wrong with them.
func newRouter(handlers []*handler) (*router, []error) {
	var faults []error
	if len(handlers) == 0 {
		faults = append(faults, errors.New("worker: there is no handler: register one with Handle"))
	}
	valid := make([]route, 0, len(handlers))
	for _, h := range handlers {
		if err := outbox.ValidatePattern(h.pattern); err != nil {
			faults = append(faults, fmt.Errorf("worker: handler %q: the pattern %w", h.pattern, err))
			continue
		}
		added := route{h, canonical(h.pattern)}
		for _, other := range valid {
			if err := tie(other, added); err != nil {
				faults = append(faults, err)
			}
		}
		valid = append(valid, added)
	}
	slices.SortStableFunc(valid, func(a, b route) int { return compareSpecific(a.words, b.words) })
	r := &router{exact: make(map[string]*handler)}
	for _, v := range valid {
		if strings.ContainsAny(v.handler.pattern, "*#") {
			r.wild = append(r.wild, v.handler)
		} else {
			r.exact[v.handler.pattern] = v.handler
		}
	}
	return r, faults
}

// find returns the handler with the most specific pattern that matches topic, or
// nil.
func (r *router) find(topic string) *handler {
	if h := r.exact[topic]; h != nil {
		return h
	}
	for _, h := range r.wild {
		if outbox.MatchTopic(h.pattern, topic) {
			return h
		}
	}
	return nil
}

// route is a handler with its pattern in canonical form.
type route struct {
	handler *handler
	words   []string
}

// canonical splits pattern into words, with neighbouring wild cards in one form:
// first the stars, then at most one '#'. Patterns that match the same topics get
// the same words.
func canonical(pattern string) []string {
	var words []string
	stars, hash := 0, false
	flush := func() {
		words = append(words, slices.Repeat([]string{"*"}, stars)...)
		if hash {
			words = append(words, "#")
		}
		stars, hash = 0, false
	}
	for word := range strings.SplitSeq(pattern, ".") {
		switch word {
		case "*":
			stars++
		case "#":
			hash = true
		default:
			flush()
			words = append(words, word)
		}
	}
	flush()
	return words
}

// compareSpecific is negative when a is more specific than b.
func compareSpecific(a, b []string) int {
	for i := range max(len(a), len(b)) {
		if c := cmp.Compare(generality(a, i), generality(b, i)); c != 0 {
			return c
		}
	}
	return 0
}

// generality ranks the word at i, where the pattern may have ended already. An
// ended pattern asks for more than '#', and for less than a further word.
func generality(words []string, i int) int {
	switch {
	case i >= len(words):
		return 2
	case words[i] == "#":
		return 3
	case words[i] == "*":
		return 1
	}
	return 0
}

// tie tells why it cannot be decided between a and b for some topic, or nil.
func tie(a, b route) error {
	switch {
	case compareSpecific(a.words, b.words) != 0 || !overlap(a.words, b.words):
		return nil
	case a.handler.pattern == b.handler.pattern:
		return fmt.Errorf("worker: handler %q is registered twice", a.handler.pattern)
	case slices.Equal(a.words, b.words):
		return fmt.Errorf("worker: handlers %q and %q match the same topics", a.handler.pattern, b.handler.pattern)
	}
	return fmt.Errorf("worker: handlers %q and %q match some topics both, and neither is more specific", a.handler.pattern, b.handler.pattern)
}

// overlap reports whether some topic matches both patterns.
func overlap(a, b []string) bool {
	// next[j] tells whether the rests a[i+1:] and b[j:] overlap.
	next := make([]bool, len(b)+1)
	for i := len(a); i >= 0; i-- {
		row := make([]bool, len(b)+1)
		for j := len(b); j >= 0; j-- {
			switch {
			case i == len(a) && j == len(b):
				row[j] = true
			case i < len(a) && a[i] == "#":
				row[j] = next[j] || j < len(b) && row[j+1]
			case j < len(b) && b[j] == "#":
				row[j] = row[j+1] || i < len(a) && next[j]
			case i < len(a) && j < len(b):
				row[j] = next[j+1] && (a[i] == b[j] || a[i] == "*" || b[j] == "*")
			}
		}
		next = row
	}
	return next[0]
}
