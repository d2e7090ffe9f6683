package postgres

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/outbox-go/outbox/store"
)

// array writes an array's literal, which every driver can send.
func array(elements []string) string { return "{" + strings.Join(elements, ",") + "}" }

// textArray writes the literal of a text array.
func textArray(texts []string) string {
	elements := make([]string, len(texts))
	for i, text := range texts {
		elements[i] = quoteElement(text)
	}
	return array(elements)
}

func bigintArray(numbers []int64) string {
	elements := make([]string, len(numbers))
	for i, n := range numbers {
		elements[i] = strconv.FormatInt(n, 10)
	}
	return array(elements)
}

func shardArray(s store.ShardSet) string {
	list := s.Slice()
	elements := make([]string, len(list))
	for i, shard := range list {
		elements[i] = strconv.Itoa(int(shard))
	}
	return array(elements)
}

// quoteElement writes s as an element of a text array's literal.
func quoteElement(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

const maxError = 2000

// errorText makes s fit for a text column: valid, without NUL, not too long.
func errorText(s string) string {
	if len(s) > maxError {
		end := maxError
		for end > 0 && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
}
