package outbox

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxTopic is the greatest length of a topic in bytes: that of an AMQP 0-9-1
// routing key.
const MaxTopic = 255

// ValidateTopic reports why topic cannot be one. A topic is 1 to 255 bytes of
// UTF-8: words separated by single dots, of printable characters other than
// white space and the wild cards '*', '#' and '>'.
func ValidateTopic(topic string) error {
	return validateWords(topic, false)
}

// ValidatePattern reports why pattern cannot be one. A pattern is a topic in
// which a word may be '*', which stands for exactly one word, or '#', which
// stands for any number of words, none included (AMQP 0-9-1, topic exchange).
func ValidatePattern(pattern string) error {
	return validateWords(pattern, true)
}

func validateWords(topic string, wild bool) error {
	switch {
	case topic == "":
		return errors.New("is empty")
	case len(topic) > MaxTopic:
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(topic), MaxTopic)
	case !utf8.ValidString(topic):
		return errors.New("is not valid UTF-8")
	}
	for word := range strings.SplitSeq(topic, ".") {
		if word == "" {
			return errors.New("has an empty word: dots separate words and stand neither first, last nor twice")
		}
		if wild && (word == "*" || word == "#") {
			continue
		}
		for _, r := range word {
			if strings.ContainsRune("*#>", r) || !unicode.IsGraphic(r) || unicode.IsSpace(r) {
				return fmt.Errorf("has the character %q, which no topic may have", r)
			}
		}
	}
	return nil
}

// MatchTopic reports whether topic matches pattern as an AMQP topic exchange
// would: '*' stands for one word and '#' for any number of words. It does not
// allocate.
func MatchTopic(pattern, topic string) bool {
	for {
		word, rest, more := strings.Cut(pattern, ".")
		if word == "#" {
			if !more {
				return true
			}
			return matchAnyTail(rest, topic)
		}
		if topic == "" {
			return false
		}
		have, left, topicMore := strings.Cut(topic, ".")
		if word != "*" && word != have {
			return false
		}
		if !more || !topicMore {
			return !topicMore && (!more || onlyHashes(rest))
		}
		pattern, topic = rest, left
	}
}

// matchAnyTail tries pattern, which followed a '#', on each tail of topic.
func matchAnyTail(pattern, topic string) bool {
	for {
		if MatchTopic(pattern, topic) {
			return true
		}
		_, left, more := strings.Cut(topic, ".")
		if !more {
			return onlyHashes(pattern)
		}
		topic = left
	}
}

func onlyHashes(pattern string) bool {
	for word := range strings.SplitSeq(pattern, ".") {
		if word != "#" {
			return false
		}
	}
	return true
}
