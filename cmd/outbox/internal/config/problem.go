package config

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	Key    string
	Value  string // for people, without secrets
	Origin string // where the value was found; empty if nowhere
	Reason string // what is wrong and what would be right
}

func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.Key)
	if p.Value != "" {
		fmt.Fprintf(&b, " %q", p.Value)
	}
	if p.Origin != "" {
		fmt.Fprintf(&b, " (%s)", p.Origin)
	}
	b.WriteString(": ")
	b.WriteString(p.Reason)
	return b.String()
}

// Error is all that is wrong with the configuration.
type Error struct {
	Problems []Problem
}

func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return "the configuration is wrong: " + e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the configuration has %d problems:", len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// display returns values as they may be shown.
func display(k *Key, values []string) string {
	text := strings.Join(values, ",")
	switch k.Type {
	case typeURL:
		return Redact(text)
	case typeSecret, typeSecrets, typeHeaders:
		return hidden
	}
	return text
}
