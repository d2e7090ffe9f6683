package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/outbox-go/outbox"
)

// Rename returns a transform, for [Config], that gives the messages whose topic
// matches pattern another one, made of template: words separated by dots, in which
// {topic}, {version}, {type} and {tenant} stand for what the message has. A word of
// which nothing is left is left out with its dot. "{topic}.{version}" makes orders.v1
// of orders; what has that form already keeps its topic. A message that would get a
// topic which is none becomes undeliverable.
//
// Rename reports all that is wrong with the pattern and the template.
func Rename(pattern, template string) (func(ctx context.Context, m *outbox.Message) error, error) {
	var errs []error
	if err := outbox.ValidatePattern(pattern); err != nil {
		errs = append(errs, fmt.Errorf("relay: rename: pattern %q %w", pattern, err))
	}
	words, err := parseTemplate(template)
	if err != nil {
		errs = append(errs, fmt.Errorf("relay: rename: template %q %w", template, err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return func(_ context.Context, m *outbox.Message) error {
		if !outbox.MatchTopic(pattern, m.Topic) {
			return nil
		}
		topic := expand(words, m)
		if err := outbox.ValidateTopic(topic); err != nil {
			return outbox.Invalid(fmt.Errorf("rename by template %q: topic %q %w", template, topic, err))
		}
		m.Topic = topic
		return nil
	}, nil
}

// Chain returns a transform, for [Config], that runs transforms one after another, up
// to the first error.
func Chain(transforms ...func(ctx context.Context, m *outbox.Message) error) func(ctx context.Context, m *outbox.Message) error {
	return func(ctx context.Context, m *outbox.Message) error {
		for _, transform := range transforms {
			if err := transform(ctx, m); err != nil {
				return err
			}
		}
		return nil
	}
}

// templatePart is a text or a field of a template.
type templatePart struct {
	text  string
	field string
}

func (p templatePart) of(m *outbox.Message) string {
	switch p.field {
	case "topic":
		return m.Topic
	case "version":
		return m.Version
	case "type":
		return m.Type
	case "tenant":
		return m.Tenant
	}
	return p.text
}

// parseTemplate returns the parts of each word.
func parseTemplate(template string) ([][]templatePart, error) {
	var words [][]templatePart
	for word := range strings.SplitSeq(template, ".") {
		parts, err := parseWord(word)
		if err != nil {
			return nil, err
		}
		words = append(words, parts)
	}
	sample := &outbox.Message{Topic: "x", Version: "x", Type: "x", Tenant: "x"}
	return words, outbox.ValidateTopic(join(words, sample))
}

func parseWord(word string) (parts []templatePart, err error) {
	for word != "" {
		text, rest, open := strings.Cut(word, "{")
		if strings.Contains(text, "}") {
			return nil, errors.New("has a } without {: use {topic}, {version}, {type} or {tenant}")
		}
		if text != "" {
			parts = append(parts, templatePart{text: text})
		}
		if !open {
			return parts, nil
		}
		field, after, closed := strings.Cut(rest, "}")
		switch field {
		case "topic", "version", "type", "tenant":
		default:
			return nil, fmt.Errorf("has the field {%s}: use {topic}, {version}, {type} or {tenant}", field)
		}
		if !closed {
			return nil, fmt.Errorf("has the field {%s without }", field)
		}
		parts, word = append(parts, templatePart{field: field}), after
	}
	return parts, nil
}

// expand returns the topic that the words stand for. What begins and ends with what
// they put around {topic} was made by them before.
func expand(words [][]templatePart, m *outbox.Message) string {
	const mark = "\x00" // in no topic
	marked := *m
	marked.Topic = mark
	topic := join(words, &marked)
	before, after, found := strings.Cut(topic, mark)
	if found && before+after != "" && len(m.Topic) > len(before)+len(after) &&
		strings.HasPrefix(m.Topic, before) && strings.HasSuffix(m.Topic, after) {
		return m.Topic
	}
	return strings.ReplaceAll(topic, mark, m.Topic)
}

// join leaves out words of which nothing is left.
func join(words [][]templatePart, m *outbox.Message) string {
	var out []string
	for _, parts := range words {
		var word strings.Builder
		for _, part := range parts {
			word.WriteString(part.of(m))
		}
		if word.Len() > 0 || len(parts) == 0 {
			out = append(out, word.String())
		}
	}
	return strings.Join(out, ".")
}
