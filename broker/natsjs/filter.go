package natsjs

import (
	"slices"
	"strings"
)

// filtersOf turns patterns into subjects, no two of which overlap, as the server
// demands, and tells whether these match the same topics exactly. Where a '#' is
// not at the end there is no such subject, and where two overlap one greater
// takes their place.
func filtersOf(prefix string, patterns []string) (subjects []string, exact bool) {
	exact = true
	for _, pattern := range patterns {
		these, same := patternSubjects(prefix, pattern)
		subjects = append(subjects, these...)
		exact = exact && same
	}
	subjects, merged := disjoint(subjects)
	slices.Sort(subjects)
	return subjects, exact && !merged
}

func patternSubjects(prefix, pattern string) (subjects []string, exact bool) {
	words, hash := normalize(pattern)
	switch {
	case hash < 0:
		return []string{prefix + strings.Join(words, ".")}, true
	case hash < len(words):
		return []string{prefix + strings.Join(append(words[:hash:hash], ">"), ".")}, false
	case len(words) == 0: // '#' alone: a topic has a word at least
		return []string{prefix + ">"}, true
	}
	stem := prefix + strings.Join(words, ".")
	return []string{stem, stem + ".>"}, true
}

// normalize returns the words of a pattern without its '#' and the index of the
// word before which the first of these stood, or -1. Neighbours among '#' and
// '*' may change places: those '#' go behind.
func normalize(pattern string) (words []string, hash int) {
	hash = -1
	for word := range strings.SplitSeq(pattern, ".") {
		switch {
		case word == "#":
			if hash < 0 {
				hash = len(words)
			}
			continue
		case word == "*" && hash == len(words):
			hash++
		}
		words = append(words, word)
	}
	return words, hash
}

// disjoint drops subjects that others cover and puts one that covers both in the
// place of two that overlap, which it reports.
func disjoint(subjects []string) (out []string, merged bool) {
	out = slices.Clone(subjects)
	for i := 0; i < len(out); i++ {
		for j := i + 1; j < len(out); j++ {
			a, b := out[i], out[j]
			switch {
			case covers(a, b):
			case covers(b, a):
				out[i] = b
			case overlap(a, b):
				out[i] = merge(a, b)
				merged = true
			default:
				continue
			}
			out = slices.Delete(out, j, j+1)
			i = -1 // the new one may touch those before
			break
		}
	}
	return out, merged
}

// covers reports whether every subject that b matches is matched by a.
func covers(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i, word := range as {
		switch {
		case i == len(bs):
			return false
		case word == ">":
			return true
		case bs[i] == ">", word != "*" && word != bs[i]:
			return false
		}
	}
	return len(as) == len(bs)
}

// overlap reports whether there is a subject that both match.
func overlap(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, y := as[i], bs[i]
		switch {
		case x == ">" || y == ">":
			return true
		case x != "*" && y != "*" && x != y:
			return false
		}
	}
	return len(as) == len(bs)
}

// merge returns a subject that covers a and b.
func merge(a, b string) string {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	var out []string
	for i := range min(len(as), len(bs)) {
		x, y := as[i], bs[i]
		switch {
		case x == ">" || y == ">":
			return strings.Join(append(out, ">"), ".")
		case x == y:
			out = append(out, x)
		default:
			out = append(out, "*")
		}
	}
	if len(as) != len(bs) {
		out = append(out, ">")
	}
	return strings.Join(out, ".")
}
